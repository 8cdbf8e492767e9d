"""Stopping, reading anew, and looking after child processes.

A process stops when it is asked to (SIGTERM, SIGINT) or when the process that started it is gone. SIGHUP has it read
anew what it was told can change. The supervisor starts a dead child again, at once the first time, then with growing
pauses; one that runs for a while is forgiven.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from types import FrameType

from daemon.environment import Supervised, environment_of_child
from daemon.metrics import CHILD_HANGS, CHILD_STARTS, CHILD_UP
from daemon.notice import Notice
from daemon.telemetry import describe, log

# A process that ends with this needs a person: starting it again would not help.
EXIT_MEND = 2
# Starting it again, a little later, may help.
EXIT_AGAIN = 1
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_FORGIVEN_AFTER_SECONDS = 60.0
_PAUSE_SECONDS_MAX = 30.0
# How long a child may take until it first beats: it loads its libraries, from a disk that may be busy.
_BIRTH_SECONDS = 120.0
_BEATS_AT_ONCE = 4096
_SLICE_SECONDS = 1.0
# Our own loop goes round five times a second: after such a gap the whole machine stood still, children and all.
_STANDSTILL_SECONDS = 2.0
# What a child says to its supervisor: it lives; and all its loops have gone round once, so it does what it is for.
ALIVE, UP = b".", b"!"


# What is to be read anew, in this order; a process has one table of signals, and so one of these.
_to_reload: list[Callable[[], None]] = []
_was_asked_to_reload = threading.Event()


class Stop(threading.Event):
    """Waits by the second: a signal that another thread was given is handled once the main thread runs again."""

    def wait(self, timeout: float | None = None) -> bool:
        end = math.inf if timeout is None else time.monotonic() + timeout
        while not super().wait(min(_SLICE_SECONDS, max(0.0, end - time.monotonic()))) and time.monotonic() < end:
            pass
        return self.is_set()


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM or SIGINT sets; SIGHUP runs what `on_reload` was given. Call in the main thread."""
    stop = Stop()

    def ask(number: int, _: FrameType | None) -> None:
        log().info("stopping", signal=signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    _reload_on_signal(stop)
    return stop


def on_reload(act: Callable[[], None]) -> None:
    """Have SIGHUP run ``act``, after what was given before, in a thread that does nothing else.

    What it raises is logged and keeps nothing else from being read anew: ``act`` keeps the old where the new is bad.
    Where SIGHUP came before this process was so far, ``act`` runs now, beside the caller: it may wait for a database.
    """
    _to_reload.append(act)
    if _was_asked_to_reload.is_set():
        threading.Thread(target=_reload, args=(act,), name="reload-late", daemon=True).start()


def _reload_on_signal(stop: threading.Event) -> None:
    """A terminal that is closed also sends SIGHUP: that still ends the process."""
    asked: SimpleQueue[int] = SimpleQueue()  # may be put to in a signal handler, whatever this thread holds
    had_terminal = _has_terminal()

    def ask(number: int, _: FrameType | None) -> None:
        if had_terminal and not _has_terminal():
            stop.set()
        else:
            asked.put(number)

    signal.signal(signal.SIGHUP, ask)
    threading.Thread(target=_keep_reloading, args=(asked,), name="reload", daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


def _has_terminal() -> bool:
    """Whether this process belongs to a terminal that is still there, tty(4)."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _keep_reloading(asked: SimpleQueue[int]) -> None:
    while asked.get():
        log().info("reloading")
        _was_asked_to_reload.set()
        for act in tuple(_to_reload):
            _reload(act)


def _reload(act: Callable[[], None]) -> None:
    try:
        act()
    except Exception as error:  # noqa: BLE001 - the daemon goes on with what it had
        log().error("reload_failed", **describe(error))


@contextmanager
def _reload_held_back() -> Iterator[None]:
    """A process started in here is not ended by a SIGHUP that it cannot understand yet: it gets it once it can."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent dies, however it dies; prctl(2)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def end_hanging() -> None:
    """End this process at once, whatever its threads are doing: who started it starts another."""
    log().error("process_hangs")
    os._exit(EXIT_AGAIN)


def leave_no_core() -> None:
    """A core dump would hold patients: none is written, and none piped to a handler of the system's (core(5))."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


@dataclass
class Child:
    """A command that is kept running. ``beats``: the pipe it beats into; ``beat_at`` is 0.0 until it has.

    ``was_up``: in any of its lives. What it could not start with then is a change since, and may be taken back.
    """

    name: str
    arguments: Sequence[str]
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    beats: int = -1
    beat_at: float = 0.0
    started: float = 0.0
    restarts: int = 0
    next_start: float = 0.0
    has_begun: bool = False
    was_up: bool = False
    is_killed: bool = False

    @property
    def is_up(self) -> bool:
        return self.process is not None and self.has_begun and not self.is_killed

    def silent_seconds(self, now: float) -> float:
        """Since it was last heard of; one that is not up yet is given time: it loads its libraries."""
        return now - (self.beat_at or self.started) - (0.0 if self.has_begun else _BIRTH_SECONDS)


class Supervisor:
    """Runs `triage` commands as children until told to stop. A child that hangs is killed; see `daemon/pulse.py`.

    ``folder``: where they write their metrics, None: nowhere. ``silent_seconds``: who has not beaten for so long hangs.
    """

    def __init__(
        self,
        commands: Mapping[str, Sequence[str]],
        folder: Path | None,
        *,
        silent_seconds: float,
    ) -> None:
        self._children = [Child(name, arguments) for name, arguments in commands.items()]
        self._folder, self._silent_seconds = folder, silent_seconds
        self._notice = Notice()
        self._is_ready = False
        self._round_at = time.monotonic()
        for name in commands:  # shown before the first time: else that would be no increase
            CHILD_HANGS.labels(name)
            CHILD_STARTS.labels(name)

    def run(self, stop: threading.Event, grace_seconds: float = 20.0) -> int:
        """The exit code, once ``stop`` is set or a child needs a person, and every child has ended (or was killed).

        Only a child that was never up needs a person: the others go on, whatever has been made of the settings since.
        """
        code = 0
        while code == 0 and not stop.wait(0.2):
            self._forgive_standstill(time.monotonic())
            code = max(self._look_after(child) for child in self._children)
            self._tell_systemd()
        self._notice("STOPPING=1")
        self._end(grace_seconds)
        return code

    def reload(self) -> None:
        """Pass SIGHUP on to every child that runs."""
        for process in [child.process for child in self._children]:
            if process is not None:
                process.send_signal(signal.SIGHUP)

    def _forgive_standstill(self, now: float) -> None:
        gap, self._round_at = now - self._round_at, now
        if gap > _STANDSTILL_SECONDS:
            for child in self._children:
                child.started += gap
                child.beat_at += gap if child.beat_at else 0.0

    def _look_after(self, child: Child) -> int:
        now = time.monotonic()
        if child.process is None:
            if now >= child.next_start:
                self._start(child, now)
        elif child.process.poll() is not None:
            if child.process.returncode == EXIT_MEND and not child.was_up:
                return EXIT_MEND
            self._note_death(child, now)
        else:
            self._listen(child, now)
        return 0

    def _start(self, child: Child, now: float) -> None:
        try:
            child.process, child.beats = self._born(child)
        except OSError as error:  # no descriptor, no memory or no process to be had: that may pass
            self._plan(child, now)
            log().error("child_not_started", child=child.name, **describe(error))
            return
        child.started, child.beat_at = now, 0.0
        CHILD_STARTS.labels(child.name).inc()
        log().info("child_started", child=child.name, restarts=child.restarts)

    def _born(self, child: Child) -> tuple[subprocess.Popen[bytes], int]:
        """The process, and the end of the pipe where it is heard. Raise OSError."""
        # -P: nothing is imported from the folder we were started in.
        command = [sys.executable, "-P", "-m", "daemon.cli", *child.arguments]
        ours, its_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        told = environment_of_child(Supervised(name=child.name, folder=self._folder, beats=its_end))
        try:
            with _reload_held_back():
                return subprocess.Popen(command, env=told, pass_fds=[its_end]), ours  # noqa: S603 - our own commands
        except OSError:
            os.close(ours)
            raise
        finally:
            os.close(its_end)

    def _listen(self, child: Child, now: float) -> None:
        with suppress(BlockingIOError):
            if told := os.read(child.beats, _BEATS_AT_ONCE):
                child.beat_at, child.has_begun = now, UP in told
                child.was_up |= child.has_begun
        silent = child.silent_seconds(now)
        if silent > self._silent_seconds and child.process is not None and not child.is_killed:
            log().error("child_hangs", child=child.name, seconds=silent)
            CHILD_HANGS.labels(child.name).inc()
            child.process.kill()
            child.is_killed = True

    def _tell_systemd(self) -> None:
        """We live as long as nobody hangs whom we could not end. A child that dies again and again is our business."""
        for child in self._children:
            CHILD_UP.labels(child.name).set(child.is_up)
        up = sum(child.is_up for child in self._children)
        if up == len(self._children) and not self._is_ready:
            self._is_ready = True
            self._notice("READY=1")
            log().info("ready", count=up)
        now = time.monotonic()
        if all(child.silent_seconds(now) < 2 * self._silent_seconds for child in self._children if child.process):
            self._notice("WATCHDOG=1")
        missing = [child.name for child in self._children if not child.is_up]
        self._notice.status(
            f"{up} of {len(self._children)} processes up" + "".join(f", not {name}" for name in missing)
        )

    def _note_death(self, child: Child, now: float) -> None:
        code = child.process.returncode if child.process else None
        os.close(child.beats)
        child.process, child.has_begun, child.is_killed = None, False, False
        pause = self._plan(child, now)
        log().error("child_died", child=child.name, exit_code=code, restarts=child.restarts, retry_seconds=pause)

    def _plan(self, child: Child, now: float) -> float:
        """Seconds until it is started again."""
        child.restarts = 1 if now - child.started > _FORGIVEN_AFTER_SECONDS else child.restarts + 1
        pause = 0.0 if child.restarts == 1 else min(2.0 ** (child.restarts - 2), _PAUSE_SECONDS_MAX)
        child.next_start = now + pause
        return pause

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


def settle() -> None:
    """What has been loaded by now stays. pynetdicom has all garbage collected again and again, and without this each
    time looks at everything: a tenth of a second in which nobody else is served.
    """
    gc.collect()
    gc.freeze()
