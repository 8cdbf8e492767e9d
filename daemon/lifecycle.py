"""Stopping, and looking after child processes.

A process stops when it is asked to (SIGTERM, SIGINT) or when the process that started it is gone. The supervisor
starts a dead child again, at once the first time, then with growing pauses; one that runs for a while is forgiven.
"""

from __future__ import annotations

import ctypes
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

from daemon.telemetry import log

# A process that ends with this needs a person: starting it again would not help.
EXIT_MEND = 2
# Starting it again, a little later, may help.
EXIT_AGAIN = 1
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_FORGIVEN_AFTER_SECONDS = 60.0
_PAUSE_SECONDS_MAX = 30.0


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM or SIGINT sets. Call in the main thread."""
    stop = threading.Event()

    def ask(number: int, _: FrameType | None) -> None:
        log().info("stopping", signal=signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    return stop


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent dies, however it dies; prctl(2)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def leave_no_core() -> None:
    """A core dump would hold patients: none is written, and none piped to a handler of the system's (core(5))."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


@dataclass
class Child:
    """A command that is kept running."""

    name: str
    arguments: Sequence[str]
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    started: float = 0.0
    restarts: int = 0
    next_start: float = 0.0


class Supervisor:
    """Runs `triage` commands as children until told to stop."""

    def __init__(self, commands: Mapping[str, Sequence[str]]) -> None:
        self._children = [Child(name, arguments) for name, arguments in commands.items()]

    def run(self, stop: threading.Event, grace_seconds: float = 20.0) -> int:
        """The exit code, once ``stop`` is set or a child needs a person, and every child has ended (or was killed)."""
        code = 0
        while code == 0 and not stop.wait(0.2):
            code = max(self._look_after(child) for child in self._children)
        self._end(grace_seconds)
        return code

    def _look_after(self, child: Child) -> int:
        now = time.monotonic()
        if child.process is None:
            if now >= child.next_start:
                self._start(child, now)
        elif child.process.poll() is not None:
            if child.process.returncode == EXIT_MEND:
                return EXIT_MEND
            self._note_death(child, now)
        return 0

    def _start(self, child: Child, now: float) -> None:
        command = [sys.executable, "-m", "daemon.cli", *child.arguments]
        child.process = subprocess.Popen(command)  # noqa: S603 - our own commands
        child.started = now
        log().info("child_started", child=child.name, restarts=child.restarts)

    def _note_death(self, child: Child, now: float) -> None:
        code = child.process.returncode if child.process else None
        child.process = None
        child.restarts = 1 if now - child.started > _FORGIVEN_AFTER_SECONDS else child.restarts + 1
        pause = 0.0 if child.restarts == 1 else min(2.0 ** (child.restarts - 2), _PAUSE_SECONDS_MAX)
        child.next_start = now + pause
        log().error("child_died", child=child.name, exit_code=code, restarts=child.restarts, retry_seconds=pause)

    def _end(self, grace_seconds: float) -> None:
        running = [child.process for child in self._children if child.process is not None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + grace_seconds
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
