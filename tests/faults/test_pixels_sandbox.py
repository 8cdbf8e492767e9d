"""Films that crash, hang or starve their decoder, in a real daemon: one film each, so many attempts, then buried."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Daemon, running, wait_for

from faults.hostile import good, is_served, outcome, travelling

pytestmark = [pytest.mark.timeout(400), pytest.mark.filterwarnings("ignore::UserWarning")]
# Python runs this at the start of each process that finds it. In the decoder's child, films tell what becomes of it.
POISON = """
import os, signal, sys, time
if "daemon.sandbox" in sys.orig_argv:
    from triage.vision import pixels
    sound = pixels.read_dicom

    def poisoned(file, size_px=None):
        content = file.getvalue()
        if b"POISON-SIGSEGV" in content:
            os.kill(os.getpid(), signal.SIGSEGV)
        if b"POISON-ABORT" in content:
            os.abort()
        if b"POISON-EXIT" in content:
            os._exit(0)
        if b"POISON-HANG" in content:
            time.sleep(600)
        while b"POISON-SPIN" in content:
            pass
        if b"POISON-HOG" in content:
            hoard = [bytearray(2**26) for _ in range(2**10)]
        return sound(file, size_px)

    pixels.read_dicom = poisoned
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    poison = tmp_path_factory.mktemp("poison")
    (poison / "sitecustomize.py").write_text(POISON, encoding="ascii")
    limits = {"attempts_max": 2, "decode_seconds": 6, "decode_mib": 512, "decoders": 2}
    with pytest.MonkeyPatch.context() as patch, running(tmp_path_factory.mktemp("daemon"), **limits) as daemon:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(poison), os.environ.get("PYTHONPATH")))))
        yield daemon.serve()


@pytest.mark.fault(72, 73, 97)
@pytest.mark.parametrize(
    ("poison", "reason", "attempts"),
    [
        ("SIGSEGV", "decode_crash", 2),
        ("ABORT", "decode_crash", 2),
        ("EXIT", "decode_crash", 2),
        ("HANG", "decode_timeout", 2),
        ("SPIN", "decode_timeout", 2),
        ("HOG", "too_large", 1),
    ],
)
def test_a_poisonous_film_costs_its_own_attempts_and_others_are_analysed_meanwhile(
    daemon: Daemon, poison: str, reason: str, attempts: int
) -> None:
    worker = daemon.child("work").pid
    film = travelling(good(ImageComments=f"POISON-{poison}"))
    assert film.to(daemon) == 0
    assert is_served(daemon)
    assert outcome(daemon, film.study) == ("not_analysed", reason)
    told = "SELECT state, attempts FROM jobs JOIN instances USING (instance_id) WHERE sop_instance_uid = :sop"
    assert daemon.rows(told, sop=film.sop) == [("buried" if attempts > 1 else "done", attempts)]
    assert daemon.child("work").pid == worker
    assert not list(daemon.scratch.glob("core*"))
    assert is_served(daemon)


@pytest.mark.fault(72)
def test_on_this_machine_nothing_is_refused_or_it_is_said_once(daemon: Daemon) -> None:
    daemon.wait_for_log("model_loaded")
    assert is_served(daemon)
    assert len(daemon.lines("sandbox_weaker")) <= 1


WITHOUT_NAMESPACES = """
echo 0 > /proc/sys/user/max_net_namespaces
echo 0 > /proc/sys/user/max_user_namespaces
exec "$@"
"""


@pytest.mark.fault(72)
def test_where_the_kernel_refuses_namespaces_it_is_said_once_and_films_are_analysed(tmp_path: Path) -> None:
    inside = (shutil.which("unshare") or "unshare", "--user", "--map-root-user", "sh", "-c", WITHOUT_NAMESPACES, "sh")
    tried = subprocess.run([*inside, "unshare", "--net", "true"], capture_output=True, check=False)
    if tried.returncode in {126, 127} or b"max_net" in tried.stderr:
        pytest.skip("no user namespace to take them away in")
    with running(tmp_path / "daemon", decoders=2) as daemon:
        daemon.inside = inside
        daemon.serve()
        assert is_served(daemon)
        (line,) = wait_for(lambda: daemon.lines("sandbox_weaker"))
        assert line["problem"] == "refused by the kernel: network namespace"
        assert sys.executable not in str(line)
