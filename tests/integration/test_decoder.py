"""The sandbox: whatever a file does to its child, the worker gets an answer, in time, and nothing is left behind."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pydicom
import pytest

import gates
from daemon.decoder import Decoder, Gate, Limits, Look
from synthetic import data_set, film, write
from triage.card import Preprocessing
from triage.errors import Reason
from triage.vision.pixels import prepare, read_film

STRETCH = Preprocessing(size_px=224, stretch_percentiles=(0.5, 99.5), mean=0.5, std=0.25)
ROOT = Path(__file__).resolve().parents[2]
CANARY = "CANARY-7741"


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(Limits(seconds=4.0, memory_bytes=512 * 2**20)) as decoder:
        yield decoder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(data_set(film(), PatientID=CANARY), tmp_path / "film.dcm")


def look(decoder: Decoder, path: Path, gate: Gate = gates.open_gate) -> Look:
    return decoder.look(path, sha256=sha256(path), gate=gate, preprocessing=STRETCH)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def nursery(decoder: Decoder) -> psutil.Process:
    assert decoder._nursery is not None
    return psutil.Process(decoder._nursery.pid)


def test_a_good_film_comes_back_with_its_header(decoder: Decoder, path: Path) -> None:
    seen = look(decoder, path)
    assert seen.reason is None
    assert seen.header is not None
    assert (seen.header.patient_id, seen.header.age_years) == (CANARY, 3.0)
    assert seen.pixels is not None
    np.testing.assert_array_equal(seen.pixels, prepare(read_film(path), STRETCH))
    assert 0 < seen.seconds < 60


def test_the_gate_is_asked_before_any_pixel(decoder: Decoder, tmp_path: Path) -> None:
    given = data_set(film())
    given.PixelData = b"\0\0"
    seen = look(decoder, write(given, tmp_path / "film.dcm"), gates.closed_gate)
    assert seen.reason is Reason.NOT_CHEST_FRONTAL
    assert seen.header is not None
    assert seen.pixels is None


@pytest.mark.fault(81)
def test_a_file_that_has_changed_is_not_decoded(decoder: Decoder, path: Path) -> None:
    before = sha256(path)
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    seen = decoder.look(path, sha256=before, gate=gates.open_gate, preprocessing=STRETCH)
    assert (seen.reason, seen.header) == (Reason.PIXELS_DAMAGED, None)


def test_a_file_that_is_gone_says_so(decoder: Decoder, tmp_path: Path) -> None:
    seen = decoder.look(tmp_path / "none.dcm", sha256="", gate=gates.open_gate, preprocessing=STRETCH)
    assert seen.reason is Reason.PIXELS_DAMAGED


def test_a_file_whose_folder_is_gone_cannot_be_read_just_now(decoder: Decoder, tmp_path: Path) -> None:
    absent = tmp_path / "share" / "none.dcm"
    seen = decoder.look(absent, sha256="", gate=gates.open_gate, preprocessing=STRETCH)
    assert seen.reason is Reason.PIXELS_UNREADABLE


def test_bad_pixels_come_back_with_the_header(decoder: Decoder, tmp_path: Path) -> None:
    seen = look(decoder, write(data_set(film(), Rows=4000), tmp_path / "film.dcm"))
    assert seen.reason is Reason.BAD_PIXELS
    assert seen.header is not None


INJECTED = [
    (gates.crash, Reason.DECODE_CRASH),
    (gates.sleep, Reason.DECODE_TIMEOUT),
    (gates.spin, Reason.DECODE_TIMEOUT),
    (gates.hog, Reason.TOO_LARGE),
    (gates.broken_gate, Reason.INTERNAL_ERROR),
    (gates.babble, Reason.DECODE_CRASH),
]


@pytest.mark.fault(72, 73)
@pytest.mark.parametrize(("gate", "reason"), INJECTED)
def test_what_the_child_suffers_is_a_reason_and_the_next_film_is_fine(
    decoder: Decoder, path: Path, gate: Gate, reason: Reason
) -> None:
    seen = look(decoder, path, gate)
    assert (seen.reason, seen.pixels) == (reason, None)
    assert seen.seconds < 10
    assert look(decoder, path).reason is None


@pytest.mark.fault(41)
def test_a_file_larger_than_the_limit_is_not_read(path: Path) -> None:
    with Decoder(Limits(file_bytes=1000)) as decoder:
        assert look(decoder, path).reason is Reason.TOO_LARGE


def test_the_child_cannot_write_files(decoder: Decoder, path: Path, tmp_path: Path) -> None:
    look(decoder, path, partial(gates.write_a_file, folder=str(tmp_path)))
    assert not (tmp_path / "leak").exists()


@pytest.mark.fault(109)
def test_the_child_has_no_torch_and_no_secrets(decoder: Decoder, path: Path) -> None:
    assert look(decoder, path, gates.tell_if_torch).reason is Reason.FOR_PROCESSING
    assert set(nursery(decoder).environ()) <= {
        "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONPATH", "LC_ALL", "GLIBC_TUNABLES",
    }  # fmt: skip


def test_nothing_the_child_prints_is_seen(path: Path) -> None:
    code = f"""
import gates, test_decoder, pathlib
from daemon.decoder import Decoder
with Decoder() as decoder:
    print(test_decoder.look(decoder, pathlib.Path({str(path)!r}), gates.print_much).reason)
"""
    search = os.pathsep.join(str(p) for p in (ROOT, ROOT / "tests", ROOT / "tests" / "integration"))
    shown = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": search}, capture_output=True, text=True, check=True
    )
    assert shown.stdout == "None\n"
    assert CANARY not in shown.stderr


@pytest.mark.fault(110)
def test_fifty_looks_leave_no_process_and_no_descriptor(decoder: Decoder, path: Path) -> None:
    look(decoder, path)
    ours, theirs = psutil.Process(), nursery(decoder)
    before = ours.num_fds(), theirs.num_fds(), len(ours.children(recursive=True))
    for number in range(50):
        look(decoder, path, gates.crash if number % 5 == 0 else gates.open_gate)
    assert (ours.num_fds(), theirs.num_fds(), len(ours.children(recursive=True))) == pytest.approx(before, abs=1)
    assert nursery(decoder).pid == theirs.pid


@pytest.mark.fault(72)
def test_a_dead_nursery_is_replaced(decoder: Decoder, path: Path) -> None:
    look(decoder, path)
    before = nursery(decoder).pid
    os.kill(before, signal.SIGKILL)
    while psutil.Process(before).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert look(decoder, path).reason is None
    assert nursery(decoder).pid != before


@pytest.mark.fault(109)
def test_a_child_does_not_outlive_its_nursery(path: Path) -> None:
    with Decoder(Limits(seconds=100)) as decoder, ThreadPoolExecutor(1) as pool:
        decoder.refused()  # waits for a first child
        sleeping = pool.submit(look, decoder, path, partial(gates.sleep, sign="asleep"))
        while not any(child.name() == "asleep" for child in _wait_for_children(nursery(decoder))):
            time.sleep(0.01)
        children = _wait_for_children(nursery(decoder))
        nursery(decoder).kill()
        assert sleeping.result(timeout=30).reason is Reason.DECODE_CRASH
        _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def test_closing_ends_every_process(path: Path) -> None:
    decoder = Decoder()
    look(decoder, path)
    process = nursery(decoder)
    decoder.close()
    assert not process.is_running()
    decoder.close()


def test_a_nursery_that_cannot_start_is_not_the_files_fault(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Decoder() as decoder:
        assert look(decoder, path).reason is Reason.RESOURCE_EXHAUSTED


WORKER = """
import gates, test_decoder, pathlib, sys, threading
from daemon.decoder import Decoder, Limits
decoder = Decoder(Limits(seconds=100))
path = pathlib.Path(sys.argv[1])
test_decoder.look(decoder, path)
threading.Thread(target=test_decoder.look, args=(decoder, path, gates.sleep)).start()
print(decoder._nursery.pid, flush=True)
"""


def test_a_killed_worker_takes_its_children_along(path: Path) -> None:
    search = os.pathsep.join(str(p) for p in (ROOT, ROOT / "tests", ROOT / "tests" / "integration"))
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, path], env={"PYTHONPATH": search}, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        started = psutil.Process(int(worker.stdout.readline()))
        family = [started, *_wait_for_children(started)]
        worker.kill()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


def _wait_for_children(process: psutil.Process) -> list[psutil.Process]:
    for _ in range(100):
        children = [child for child in process.children() if child.status() != psutil.STATUS_ZOMBIE]
        if children:
            return children
        time.sleep(0.05)
    pytest.fail("no child was seen")


@pytest.mark.fault(53, 70)
def test_every_odd_file_of_pydicom_gets_an_answer() -> None:
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert len(files) > 50
    with Decoder(Limits(seconds=10)) as decoder:
        reasons = [look(decoder, path).reason for path in files]
    assert None in reasons
    assert not set(reasons) & {Reason.DECODE_CRASH, Reason.DECODE_TIMEOUT, Reason.INTERNAL_ERROR}


def test_a_full_size_film_is_looked_at_in_a_fraction_of_a_second(decoder: Decoder, tmp_path: Path) -> None:
    path = write(data_set(film(16, 2048, 2048), bits=16), tmp_path / "full.dcm")
    seconds = sorted(look(decoder, path).seconds for _ in range(7))
    assert look(decoder, path).reason is None
    assert seconds[0] < 0.5  # 70 ms on a quiet machine


@pytest.mark.fault(110)
def test_a_child_is_born_before_it_is_needed_and_serves_as_many_films_as_it_may(path: Path) -> None:
    with Decoder(Limits(films=2)) as decoder:
        decoder.warm()
        first = only_child(decoder)
        assert [look(decoder, path).reason, only_child(decoder).pid] == [None, first.pid]
        assert look(decoder, path).reason is None
        assert only_child(decoder, but=first).pid != first.pid


@pytest.mark.fault(72)
@pytest.mark.parametrize("gate", [gates.closed_gate, gates.crash, gates.babble, gates.broken_gate])
def test_after_anything_but_a_sound_film_another_child_serves(decoder: Decoder, path: Path, gate: Gate) -> None:
    assert look(decoder, path).reason is None
    before = only_child(decoder)
    assert look(decoder, path, gate).reason is not None
    assert only_child(decoder, but=before).pid != before.pid


@pytest.mark.fault(72)
def test_a_film_is_not_blamed_for_the_death_of_a_child_that_served_others(decoder: Decoder, path: Path) -> None:
    assert look(decoder, path).reason is None
    only_child(decoder).kill()
    assert look(decoder, path).reason is None


def only_child(decoder: Decoder, but: psutil.Process | None = None) -> psutil.Process:
    """The one that waits, as soon as there is no other."""
    deadline = time.monotonic() + 30
    while len(children := nursery(decoder).children()) != 1 or children[0] == but:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return children[0]
