"""A tray for each process: its files go when it is dead, and not before."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from daemon.tray import Tray

PROGRAM = """
import sys
from pathlib import Path
from daemon.tray import Tray
place = Tray(Path(sys.argv[1])).place()
place.write_bytes(b"half")
print(place, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def room(tmp_path: Path) -> Path:
    return tmp_path


def other_process(room: Path) -> tuple[subprocess.Popen[str], Path]:
    """One that is writing a file."""
    command = [sys.executable, "-c", PROGRAM, str(room)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


@pytest.mark.fault(82)
def test_what_the_dead_left_is_removed_and_what_the_living_write_stays(room: Path) -> None:
    living, written = other_process(room)
    dead, half = other_process(room)
    dead.kill()
    dead.communicate()
    mine = Tray(room)
    place = mine.place()
    place.write_bytes(b"mine")
    try:
        assert mine.clear_dead() == 1
        assert not half.parent.exists()
        assert written.read_bytes() == b"half"
        assert place.read_bytes() == b"mine"
        assert mine.clear_dead() == 0
    finally:
        living.kill()
        living.communicate()
    assert Tray(room).clear_dead() == 1
    assert {path.name for path in room.iterdir()} == {place.parent.name, f"{place.parent.name}.lock"}


def test_the_threads_of_a_process_share_its_tray(room: Path) -> None:
    tray = Tray(room)
    places: list[Path] = []
    threads = [threading.Thread(target=lambda: places.append(tray.place())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(places)) == 8
    assert len({place.parent for place in places}) == 1


def test_a_tray_taken_for_a_dead_ones_before_it_was_locked_is_made_anew(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tray, taken = Tray(room), []
    lock = __import__("fcntl").flock

    def meanwhile(descriptor: int, how: int) -> None:
        if not taken:
            taken.extend(room.glob("*.lock"))
            taken[0].unlink()
        lock(descriptor, how)

    monkeypatch.setattr("daemon.tray.fcntl.flock", meanwhile)
    place = tray.place()
    assert place.parent.with_suffix(".lock").exists()
    assert place.parent.name != taken[0].stem


def test_files_of_an_earlier_release_go_once_nobody_can_be_writing_them(room: Path) -> None:
    for name, age in (("old", 2 * 3600), ("new", 0)):
        path = room / name
        path.write_bytes(b"half")
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    assert Tray(room).clear_dead() == 1
    assert [path.name for path in room.iterdir()] == ["new"]
