"""What another server has said, kept a while. One thread asks at a time, and none waits for it: threads are few."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from triage.errors import BusyError, TriageError

T = TypeVar("T")


class Remembered(Generic[T]):
    """``ask`` may take long, and raise TriageError: then nobody asks again for ``pause_seconds``."""

    def __init__(self, ask: Callable[[], T], pause_seconds: float) -> None:
        self._ask = ask
        self._pause_seconds = pause_seconds
        self._lock = threading.Lock()
        self._is_asking = False
        self._said: tuple[T, float] | None = None
        self._failed: tuple[TriageError, float] | None = None

    def get(self, seconds: float, *, or_older: bool = False) -> T:
        """At most ``seconds`` old. Raise what ``ask`` raises, BusyError while another thread asks.

        ``or_older``: while another asks, what was said before does.
        """
        with self._lock:
            now = time.monotonic()
            if self._said and now - self._said[1] <= seconds:
                return self._said[0]
            if self._is_asking:
                if self._said and or_older:
                    return self._said[0]
                raise BusyError("the identity provider is being asked")
            if self._failed and now - self._failed[1] < self._pause_seconds:
                raise type(self._failed[0])(*self._failed[0].args)
            self._is_asking = True
        return self._asked()

    def _asked(self) -> T:
        said: T | None = None
        failed: TriageError | None = None
        try:
            said = self._ask()
        except TriageError as error:
            failed = error
            raise
        finally:
            with self._lock:
                now = time.monotonic()  # from its end: a slow server is not asked without a pause
                self._is_asking = False
                self._failed = (failed, now) if failed else None
                self._said = (said, now) if said is not None else self._said
        return said
