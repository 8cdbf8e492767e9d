"""What the supervisor makes of children that die, cannot be started, or stood still with the whole machine."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from daemon import lifecycle
from daemon.lifecycle import EXIT_MEND, UP, Child, Supervisor

SILENT_SECONDS = 3.0
# Beats every tenth of a second until it is told to end; exits as it was told.
BEATING = f"""
import os, sys, time
end = int(sys.argv[1])
while True:
    os.write(end, {UP!r})
    time.sleep(0.1)
    if os.path.exists(sys.argv[2]):
        os.unlink(sys.argv[2])
        os._exit({EXIT_MEND})
"""


class Scripted(Supervisor):
    """Its children are scripts; ``lives`` says what each life of the one child is."""

    def __init__(self, lives: Callable[[int, int], list[str]]) -> None:
        super().__init__({"one": ("one",)}, None, silent_seconds=SILENT_SECONDS)
        self.lives, self.born, self.killed = lives, 0, 0

    def _born(self, child: Child) -> tuple[subprocess.Popen[bytes], int]:
        del child
        ours, its_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            process = subprocess.Popen([sys.executable, "-c", *self.lives(self.born, its_end)], pass_fds=[its_end])
        except OSError:
            os.close(ours)
            raise
        finally:
            os.close(its_end)
        self.born += 1
        return process, ours


@contextmanager
def supervised(supervisor: Supervisor) -> Iterator[list[int]]:
    """Its exit code, once it has ended."""
    stop, codes = threading.Event(), []
    thread = threading.Thread(target=lambda: codes.append(supervisor.run(stop, grace_seconds=5)))
    thread.start()
    yield codes
    stop.set()
    thread.join(20)
    assert not thread.is_alive()
    for child in supervisor._children:
        if child.beats >= 0 and child.process is not None:
            os.close(child.beats)


def wait_until(ask: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not ask():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_child_that_never_came_up_and_needs_a_person_ends_it() -> None:
    with supervised(Scripted(lambda _life, _end: [f"raise SystemExit({EXIT_MEND})"])) as codes:
        wait_until(lambda: bool(codes))
    assert codes == [EXIT_MEND]


def test_what_was_made_of_the_settings_since_ends_nobody_that_runs(tmp_path: Path) -> None:
    sign = tmp_path / "end"

    def lives(life: int, end: int) -> list[str]:
        return [f"raise SystemExit({EXIT_MEND})"] if life == 1 else [BEATING, str(end), str(sign)]

    supervisor = Scripted(lives)
    with supervised(supervisor) as codes:
        wait_until(lambda: supervisor._children[0].is_up)
        open(sign, "w").close()  # noqa: PTH123
        wait_until(lambda: supervisor.born == 3 and supervisor._children[0].is_up)
        assert codes == []


def test_a_child_that_cannot_be_started_is_tried_again() -> None:
    def lives(_life: int, end: int) -> list[str]:
        if refusals:
            refusals.pop()
            raise OSError(errno.EAGAIN, "no more processes")
        return [BEATING, str(end), "/nowhere"]

    refusals = [1, 2]
    supervisor = Scripted(lives)
    before = psutil.Process().num_fds()
    with supervised(supervisor) as codes:
        wait_until(lambda: supervisor._children[0].is_up)
        assert codes == []
    assert psutil.Process().num_fds() <= before + 1


def test_who_stood_still_with_the_whole_machine_is_not_taken_for_hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = Scripted(lambda _life, end: [BEATING, str(end), "/nowhere"])
    now = time.monotonic
    with supervised(supervisor):
        wait_until(lambda: supervisor._children[0].is_up)
        process = supervisor._children[0].process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)  # what it had said is heard
        monkeypatch.setattr(lifecycle.time, "monotonic", lambda: now() + 100)
        time.sleep(1)
        process.send_signal(signal.SIGCONT)
        assert supervisor._children[0].process is process
        assert not supervisor._children[0].is_killed


def test_who_is_silent_is_killed_and_started_again() -> None:
    """Else the test above would show nothing."""
    silent = f"import os, sys, time; os.write(int(sys.argv[1]), {UP!r}); time.sleep(100)"
    supervisor = Scripted(lambda _life, end: [silent, str(end)])
    with supervised(supervisor):
        wait_until(lambda: supervisor.born == 2)


def test_what_is_registered_after_a_reload_was_asked_for_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_to_reload", [])
    monkeypatch.setattr(lifecycle, "_was_asked_to_reload", threading.Event())
    read: list[str] = []
    lifecycle.on_reload(lambda: read.append("early"))
    assert read == []
    lifecycle._was_asked_to_reload.set()
    lifecycle.on_reload(lambda: read.append("late"))
    wait_until(lambda: read == ["late"])


def test_who_registers_late_does_not_wait_for_what_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may wait for a database that is away, and a receiver has to receive."""
    monkeypatch.setattr(lifecycle, "_to_reload", [])
    monkeypatch.setattr(lifecycle, "_was_asked_to_reload", threading.Event())
    lifecycle._was_asked_to_reload.set()
    database, read = threading.Event(), threading.Event()

    def act() -> None:
        database.wait(30)
        read.set()

    lifecycle.on_reload(act)
    assert not read.is_set()
    database.set()
    assert read.wait(10)


def test_a_signal_that_another_thread_was_given_is_handled_all_the_same() -> None:
    """The main thread sleeps on a lock, and the kernel wakes whom it likes."""
    script = """
import signal, threading, time
from daemon.lifecycle import stop_on_signals
stop = stop_on_signals()
other = threading.Thread(target=time.sleep, args=(60,), daemon=True)
other.start()
threading.Timer(1, lambda: signal.pthread_kill(other.ident, signal.SIGTERM)).start()
raise SystemExit(0 if stop.wait(30) else 1)
"""
    began = time.monotonic()
    assert subprocess.run([sys.executable, "-c", script], check=False, capture_output=True).returncode == 0
    assert time.monotonic() - began < 25
