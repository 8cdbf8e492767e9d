"""The daemon's processes, dying over and over: at named points of `dying.POINTS`, and at moments that nothing names."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from running import Daemon

from faults.dying import POINTS

PROGRAM = Path(__file__).with_name("dying.py")
RANDOM = "at random"
# One in ten dies before it has got to work, the others so long after it.
_UNREADY_SHARE, _UNREADY_SECONDS = 0.1, 1.0
_SECONDS = (0.2, 6.0)
# A point that has not been reached by then is given up for a death at random.
_POINT_SECONDS = 8.0
_START_SECONDS = 60.0
# How often a point may be passed before: films must get through, or there is nothing to lose.
_PASSED_MAX = {"receive": 8, "work": 4, "schedule": 2, "web": 3}


@dataclass
class Doomed:
    """One process, and how it is to die: at ``point``, or so many ``seconds`` after it has got to work.

    ``latest``, on the monotonic clock, is known from then on.
    """

    process: subprocess.Popen[bytes]
    point: str
    seconds: float
    latest: float
    is_ready: bool = False

    def is_due(self, daemon: Daemon, command: str) -> bool:
        if not self.is_ready and _is_at_work(self.process.pid, daemon, command):
            self.is_ready, self.latest = True, time.monotonic() + self.seconds
        return time.monotonic() > self.latest


def _is_at_work(pid: int, daemon: Daemon, command: str) -> bool:
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if command == "work":  # its decoders are there
            return bool(process.children())
        if command == "schedule":
            return process.num_threads() > 1
        port = daemon.dicom_port if command == "receive" else daemon.http_port
        return any(each.laddr.port == port for each in process.net_connections() if each.status == psutil.CONN_LISTEN)
    return False


@dataclass
class Deaths:
    """Whoever dies is started again at once, as the supervisor would."""

    daemon: Daemon
    seed: int
    counted: Counter[tuple[str, str]] = field(default_factory=Counter)
    doomed: dict[str, Doomed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)
        self._left = {command: list(points) for command, points in POINTS.items()}

    def begin(self) -> None:
        for command in POINTS:
            self.start(command, self._next(command))

    def end(self) -> None:
        """Everybody dies once more, and lives on: what the dead left is cleared away at a start."""
        for command, doomed in self.doomed.items():
            doomed.process.kill()
            doomed.process.wait()
            self.counted[command, RANDOM] += 1
            self.start(command, "")

    def one(self) -> str:
        """Return when the next has died and been started again: who."""
        while True:
            for command, doomed in self.doomed.items():
                if self._is_dead(command, doomed):
                    self.start(command, self._next(command))
                    return command
            time.sleep(0.05)

    def _is_dead(self, command: str, doomed: Doomed) -> bool:
        how = doomed.point or RANDOM
        if doomed.process.poll() is None:
            if not doomed.is_due(self.daemon, command):
                return False
            doomed.process.kill()
            how = RANDOM
        code = doomed.process.wait()
        assert code == -signal.SIGKILL, f"{command} ended by itself: {code}\n{self.daemon.log()[-2000:]}"
        self.counted[command, how] += 1
        return True

    def _next(self, command: str) -> str:
        """Each point in turn, and as often none."""
        if self._dice.random() < 0.5:
            return ""
        if not self._left[command]:
            self._left[command] = list(POINTS[command])
        return self._left[command].pop(self._dice.randrange(len(self._left[command])))

    def start(self, command: str, point: str) -> None:
        """``work`` half of the time under a name whose leases a successor takes back, else under one of its own."""
        options = ["--name", "worker-1"] if command == "work" and self._dice.random() < 0.5 else []
        times = str(self._dice.randint(1, _PASSED_MAX[command]))
        with self.daemon.log_path(command).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, PROGRAM, point or "-", times, command, *options],
                env=self.daemon.environment,
                cwd=self.daemon.scratch,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.daemon.processes[command] = process
        seconds = _POINT_SECONDS if point else self._dice.uniform(*_SECONDS)
        is_early = not point and self._dice.random() < _UNREADY_SHARE
        latest = self._dice.uniform(0, _UNREADY_SECONDS) if is_early else _START_SECONDS
        self.doomed[command] = Doomed(process, point, seconds, time.monotonic() + latest)
