"""What a container does to the daemon: nothing can be written but its volume and /tmp, as a user nobody knows of."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import chests
import pytest
from running import Daemon, wait_for

from absent import missing
from named import ROOT

# As the cluster hands a volume out: root's, and open to the pod's group.
NUMBER = 10001
# In a mount namespace of its own: packages, project and volume where its user can reach them, the rest only to be read.
CONTAINED = """
set -e
mount --bind "$1" /mnt && mount --bind "$2" /media && mount --bind "$3" /srv
mount -t tmpfs -o size=64m,mode=1777 tmpfs /tmp
mount -o remount,bind,ro /mnt && mount -o remount,bind,ro /media && mount -o remount,bind,ro /
cd /
shift 4
export HOME=/tmp TMPDIR=/tmp PYTHONPATH=/media:/mnt PYTHONDONTWRITEBYTECODE=1
exec setpriv --reuid NUMBER --regid NUMBER --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \\
  /usr/bin/python3 "$@"
""".replace("NUMBER", str(NUMBER))


@pytest.fixture
def contained(tmp_path: Path) -> Iterator[Daemon]:
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("setpriv") is None:
        pytest.skip("a mount namespace needs root, unshare and setpriv")
    said = subprocess.run(["/usr/bin/python3", "-V"], capture_output=True, text=True, check=False).stdout
    version = f"Python {sys.version_info.major}.{sys.version_info.minor}."
    if not said.startswith(version):
        missing(f"/usr/bin/python3 as {version}")
    volume = tmp_path / "volume"
    volume.mkdir()
    os.chown(volume, 0, NUMBER)
    volume.chmod(0o2775)
    inside = ("unshare", "--mount", "--propagation", "private", "sh", "-c", CONTAINED, "sh")
    places = (sysconfig.get_path("purelib"), str(ROOT), str(volume))
    daemon = Daemon(tmp_path / "outside", {"data_dir": "/srv/data"}, inside=(*inside, *places))
    try:
        yield daemon.serve()
    finally:
        daemon.stop()


def test_it_receives_analyses_and_shows_a_film(contained: Daemon, dcmtk: Path, tmp_path: Path) -> None:
    film = chests.chest(tmp_path)
    command = [str(dcmtk / "storescu"), "-aec", "TRIAGE", "localhost", str(contained.dicom_port), str(film.path)]
    subprocess.run(command, check=True, capture_output=True)
    wait_for(lambda: [entry["analysis"] for entry in contained.worklist()] == ["analysed"], 90, pause=0.5)
    receiver = contained.child("receive")
    assert receiver.uids().real == NUMBER
    status = Path(f"/proc/{receiver.pid}/status").read_text(encoding="ascii")
    assert "CapBnd:\t0000000000000000\n" in status
    assert (tmp_path / "volume" / "data").stat().st_mode & 0o777 == 0o700
    assert contained.terminate()["serve"] == 0
