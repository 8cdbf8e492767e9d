"""One at a time, and few who wait: the threads that wait are those that answer everybody."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from triage.errors import BusyError

# Of the 40 threads that the server has for all.
_WAITING_MAX = 8


class Places:
    """``what`` is being done meanwhile, in words."""

    def __init__(self, what: str, wait_seconds: float = 30.0) -> None:
        self._what = what
        self._wait_seconds = wait_seconds
        self._places = threading.BoundedSemaphore(_WAITING_MAX + 1)
        self._one = threading.Lock()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Raise BusyError, at once where enough wait already."""
        if not self._places.acquire(blocking=False):
            raise BusyError(self._what)
        try:
            if not self._one.acquire(timeout=self._wait_seconds):
                raise BusyError(self._what)
            try:
                yield
            finally:
                self._one.release()
        finally:
            self._places.release()
