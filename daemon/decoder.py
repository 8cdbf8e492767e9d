"""Looking at a file without trusting it: the worker's side of the sandbox. Torch is never imported here."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from daemon.confinement import Refused
from daemon.sandbox import ALIVE, LENGTH, LENGTHS, MOST_REPORT_BYTES, REFUSED_SHIFT, Limits, Request
from triage.card import Preprocessing
from triage.errors import Reason
from triage.study import ClinicalPriority, Header

Gate = Callable[[Header], Reason | None]

# The nursery loads the codecs in well under a second, unless the machine is very busy.
_BIRTH_SECONDS = 30.0
_BIRTHS = 3
# What an earlier film may have done to the child: another child is asked before this film is blamed.
_SUFFERED = frozenset({Reason.DECODE_CRASH, Reason.DECODE_ERROR, Reason.TOO_LARGE, Reason.INTERNAL_ERROR})
_CHUNK_BYTES = 256 * 1024
_BYTES_PER_PIXEL = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """``pixels`` float32 (size, size) in [0, 1], or a reason why there are none; ``seconds`` of wall time.

    ``shape``: rows and columns of the film itself.
    """

    header: Header | None = None
    pixels: NDArray[np.float32] | None = field(default=None, repr=False)
    shape: tuple[int, int] | None = None
    reason: Reason | None = None
    seconds: float = 0.0


class _NoChildError(Exception):
    """The nursery is dead, or was never well."""


class _SilenceError(Exception):
    """The child did not finish in time."""


class Decoder:
    """One look at a time. The nursery starts with the first one, and again whenever it has died."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._turn = threading.Lock()
        self._nursery: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._line: socket.socket | None = None  # to the child of the next look
        self._seen = 0  # films, by that child
        self._refused: Refused | None = None  # None until that child has said it is alive

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def look(self, path: Path, *, sha256: str, gate: Gate, preprocessing: Preprocessing) -> Look:
        """Never raises for what the file holds. ``gate`` judges the header in the child, before any pixel."""
        request = Request(
            path=path.absolute(), sha256=sha256, gate=gate, preprocessing=preprocessing, limits=self._limits
        )
        started = time.monotonic()
        with self._turn:
            look = self._look(pickle.dumps(request), preprocessing.size_px)
            self._expect()
        return replace(look, seconds=time.monotonic() - started)

    def warm(self) -> None:
        """Start the nursery now, so that the first film need not wait for it."""
        with self._turn:
            self._expect()

    def refused(self) -> Refused:
        """What the kernel would not take from the next film's child. Waits for its birth."""
        with self._turn, suppress(_NoChildError):
            self._child()
        return self._refused or Refused(0)

    def close(self) -> None:
        """End the nursery and its child. A later look starts anew."""
        with self._turn:
            self._kill()

    def _look(self, request: bytes, size_px: int) -> Look:
        for _ in range(_BIRTHS):
            try:
                look = _understood(self._asked(self._child(), request, size_px), size_px)
            except _NoChildError:
                self._kill()
            except _SilenceError:
                self._kill()
                return Look(reason=Reason.DECODE_TIMEOUT)
            except BaseException:
                self._kill()  # an answer that nobody has read must not be taken for another film's
                raise
            else:
                is_first, self._seen = not self._seen, self._seen + 1
                if look.pixels is None or self._seen >= self._limits.films:
                    self._dismiss()
                if is_first or look.reason not in _SUFFERED:
                    return look
        return Look(reason=Reason.RESOURCE_EXHAUSTED)

    def _child(self) -> socket.socket:
        """A line to a child that has said it is alive."""
        self._expect()
        if self._line is None:
            raise _NoChildError
        if self._refused is None:
            self._refused = _refused_by(self._line)
        return self._line

    def _dismiss(self) -> None:
        """Another child for the next film: this one has seen enough, or something that may have harmed it."""
        if self._line is not None:
            self._line.close()
        self._line = None

    def _expect(self) -> None:
        """Have the next child born, if it is not: no film waits for its birth. What fails is found out by the look."""
        if self._line is not None:
            return
        line, its_end = socket.socketpair()
        try:
            with its_end:
                socket.send_fds(self._nursery_control(), [ALIVE], [its_end.fileno()])
        except OSError:
            line.close()
        else:
            self._line, self._seen, self._refused = line, 0, None

    def _nursery_control(self) -> socket.socket:
        if self._control is None:
            self._control, its_end = socket.socketpair()
            with its_end:
                self._nursery = subprocess.Popen(
                    [sys.executable, "-P", "-m", "daemon.sandbox"],
                    stdin=its_end.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=_environment(),
                    start_new_session=True,
                )
        return self._control

    def _kill(self) -> None:
        """The whole group, so that no child survives its nursery."""
        for line in filter(None, (self._control, self._line)):
            line.close()
        if self._nursery is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._nursery.pid, signal.SIGKILL)
            self._nursery.wait()
        self._control = self._line = self._nursery = None

    def _asked(self, line: socket.socket, request: bytes, size_px: int) -> tuple[bytes, bytes]:
        """Report and pixels, no longer than they can be; empty if the child died in the middle of a sentence."""
        deadline = time.monotonic() + self._limits.seconds
        try:
            line.settimeout(self._limits.seconds)
            line.sendall(LENGTH.pack(len(request)) + request)
            report, pixels = LENGTHS.unpack(_exactly(line, LENGTHS.size, deadline))
            if report > MOST_REPORT_BYTES or pixels not in {0, _BYTES_PER_PIXEL * size_px**2}:
                return b"", b""
            return _exactly(line, report, deadline), _exactly(line, pixels, deadline)
        except TimeoutError:
            raise _SilenceError from None
        except OSError:
            return b"", b""


def _refused_by(line: socket.socket) -> Refused:
    """What the first byte of a child says."""
    try:
        line.settimeout(_BIRTH_SECONDS)
        alive = line.recv(1)
    except OSError:
        raise _NoChildError from None
    if not alive or not alive[0] & ALIVE[0]:
        raise _NoChildError
    return Refused(alive[0] >> REFUSED_SHIFT)


def _exactly(line: socket.socket, count: int, deadline: float) -> bytes:
    """Raise TimeoutError, or OSError if it ends before."""
    received = bytearray()
    while len(received) < count:
        line.settimeout(max(deadline - time.monotonic(), 1e-3))
        chunk = line.recv(min(_CHUNK_BYTES, count - len(received)))
        if not chunk:
            raise ConnectionResetError
        received += chunk
    return bytes(received)


def _environment() -> dict[str, str]:
    """No secret of the worker's; one thread, since a fork copies only one; modules from where the worker has them."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # Large pages where the kernel has them to give: a film's memory is new to each child, and every page costs a fault.
    threads["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    return {**threads, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "LC_ALL": "C.UTF-8"}


def _understood(answer: tuple[bytes, bytes], size_px: int) -> Look:
    """Bytes of a child that may have been taken over: anything but a valid answer is a crash."""
    try:
        report = json.loads(answer[0])
        header = None if report["header"] is None else _header(report["header"])
        if report["reason"] is not None:
            return Look(header=header, reason=Reason(report["reason"]))
        rows, columns = (int(side) for side in report["shape"])
        return Look(header=header, pixels=_pixels(answer[1], size_px), shape=(rows, columns))
    except Exception:  # noqa: BLE001 - struct.error, ValueError, KeyError, RecursionError: no list would be complete
        return Look(reason=Reason.DECODE_CRASH)


def _header(report: dict[str, object]) -> Header:
    """Raise ValueError, KeyError or TypeError."""
    age, priority = report.pop("age_years"), report.pop("clinical_priority")
    if not isinstance(age, float | None) or not isinstance(priority, int):
        raise TypeError("not a header")
    words = {keyword: value for keyword, value in report.items() if isinstance(value, str)}
    if words.keys() != report.keys():
        raise TypeError("not a header")
    return Header(**words, age_years=age, clinical_priority=ClinicalPriority(priority))


def _pixels(content: bytes, size_px: int) -> NDArray[np.float32]:
    """Raise ValueError."""
    pixels = np.frombuffer(content, "<f4").astype(np.float32).reshape(size_px, size_px)
    if not (pixels.min() >= 0.0 and pixels.max() <= 1.0):
        raise ValueError("not a film")
    return pixels
