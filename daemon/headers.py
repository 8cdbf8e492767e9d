"""Asking `daemon.dataset` what kept files say: a short-lived child for a few files at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from daemon.kept import Kept, verify
from triage.errors import BusyError, NotAnalysed, Reason

_SECONDS = 40.0
_WAIT_SECONDS = 30.0
_AT_ONCE = 16
_CHILDREN = 2
_ANSWERS_BYTES_MAX = _AT_ONCE * 4 * 2**20


@dataclass(frozen=True, kw_only=True)
class Headers:
    """What is answered comes from a child that may have been taken over: it is shown, and believed in nothing else."""

    kept: Kept
    turns: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(_CHILDREN), repr=False)

    def metadata(self, hashes: Sequence[str]) -> Iterator[dict[str, Any]]:
        """DICOM JSON of each file. Raise NotAnalysed for one that is not there, damaged or cannot be read."""
        for start in range(0, len(hashes), _AT_ONCE):
            for told in self._ask("metadata", hashes[start : start + _AT_ONCE]):
                if not isinstance(told, dict):
                    raise NotAnalysed(Reason.DECODE_CRASH)
                yield told

    def frames(self, sha256: str, size_bytes: int) -> list[list[tuple[int, int]]]:
        """Of each frame the (start, length) of its fragments, all within the file. Raise NotAnalysed."""
        (told,) = self._ask("frames", [sha256])
        try:
            found = [[(int(at), int(length)) for at, length in frame] for frame in told]
        except (TypeError, ValueError):
            raise NotAnalysed(Reason.DECODE_CRASH) from None
        if not all(at >= 0 <= length and at + length <= size_bytes for frame in found for at, length in frame):
            raise NotAnalysed(Reason.DECODE_CRASH)
        return found

    def _ask(self, what: str, hashes: Sequence[str]) -> list[Any]:
        if not self.turns.acquire(timeout=_WAIT_SECONDS):
            raise BusyError("other headers are being read")
        try:
            with ExitStack() as stack:
                paths = []
                for sha256 in hashes:
                    path = stack.enter_context(self.kept.reading(sha256))
                    verify(path, sha256)
                    paths.append(str(path.absolute()))
                return _understood(_answered({"ask": what, "paths": paths}), len(paths))
        finally:
            self.turns.release()


def _answered(request: dict[str, Any]) -> bytes:
    """What the child says, no more of it than it can have to say."""
    late = threading.Event()
    try:
        with (
            subprocess.Popen(
                [sys.executable, "-P", "-m", "daemon.dataset"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "LC_ALL": "C.UTF-8"},
            ) as child,
            _ended_after(child, _SECONDS, late),
        ):
            answer = _heard(child, json.dumps(request).encode())
    except OSError:
        raise NotAnalysed(Reason.DECODE_CRASH) from None
    if late.is_set():
        raise NotAnalysed(Reason.DECODE_TIMEOUT)
    if child.returncode or len(answer) > _ANSWERS_BYTES_MAX:
        raise NotAnalysed(Reason.DECODE_CRASH)
    return answer


def _heard(child: subprocess.Popen[bytes], request: bytes) -> bytes:
    """Raise OSError."""
    if child.stdin is None or child.stdout is None:
        raise OSError("no pipes")
    with suppress(BrokenPipeError), child.stdin as line:
        line.write(request)
    answer = child.stdout.read(_ANSWERS_BYTES_MAX + 1)
    if len(answer) > _ANSWERS_BYTES_MAX:
        child.kill()
    child.wait()
    return answer


@contextmanager
def _ended_after(child: subprocess.Popen[bytes], seconds: float, late: threading.Event) -> Iterator[None]:
    def end() -> None:
        late.set()
        child.kill()

    clock = threading.Timer(seconds, end)
    clock.start()
    try:
        yield
    finally:
        clock.cancel()


def _understood(answer: bytes, count: int) -> list[Any]:
    """One for each file. Raise NotAnalysed with the first reason among them."""
    try:
        found = [json.loads(line) for line in answer.splitlines()]
        reason = next((each["reason"] for each in found if isinstance(each, dict) and "reason" in each), None)
        if reason is None and len(found) == count:
            return found
        raise NotAnalysed(Reason(str(reason)))
    except (ValueError, RecursionError):
        raise NotAnalysed(Reason.DECODE_CRASH) from None
