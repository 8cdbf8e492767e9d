"""How often somebody may try to sign in. In memory: a list of who failed belongs in no database, and forgets itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from hashlib import sha256
from math import ceil

WINDOW_SECONDS = 900.0
# For a name from one address; for an address, whatever the name; for a name, wherever from.
PAIR_MAX, ADDRESS_MAX, NAME_MAX = 5, 30, 50
_KEYS_MAX = 30_000


class Attempts:
    """An attempt counts from when it begins, so that many at once are no way around; success takes it back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failed: dict[str, list[float]] = {}

    def begin(self, name: str, address: str) -> int:
        """0, or the seconds to wait; then nothing was counted."""
        now = self._clock()
        with self._lock:
            wait = max(self._wait(key, most, now) for key, most in _keys(name, address).items())
            if not wait:
                self._make_room(now)
                for key in _keys(name, address):
                    self._failed.setdefault(key, []).append(now)
        return wait

    def succeed(self, name: str, address: str) -> None:
        """Forget the name at this address, and one attempt of the others."""
        pair, *others = _keys(name, address)
        with self._lock:
            self._failed.pop(pair, None)
            for key in others:
                if self._failed.get(key):
                    self._failed[key].pop()

    def forgive(self, name: str, seconds_ago: float) -> None:
        """What was tried under this name before, from wherever. An address that tried many names stays shut."""
        since, named = self._clock() - seconds_ago, _named(name)
        with self._lock:
            for key in [key for key in self._failed if key.partition(" ")[0] == named]:
                self._failed[key] = [moment for moment in self._failed[key] if moment > since]

    def _wait(self, key: str, most: int, now: float) -> int:
        recent = [moment for moment in self._failed.get(key, ()) if now - moment < WINDOW_SECONDS]
        if recent:
            self._failed[key] = recent
        else:
            self._failed.pop(key, None)
        return max(1, ceil(recent[-most] + WINDOW_SECONDS - now)) if len(recent) >= most else 0

    def _make_room(self, now: float) -> None:
        """What has run out goes; if that is not enough, the oldest."""
        if len(self._failed) < _KEYS_MAX:
            return
        for key in list(self._failed):
            self._wait(key, 1, now)
        for key in list(self._failed)[: max(0, len(self._failed) - _KEYS_MAX // 2)]:
            del self._failed[key]


def _keys(name: str, address: str) -> dict[str, int]:
    """Of any length and content, and nothing to be read in a crash dump: a password may be typed for a name."""
    named = _named(name)
    return {f"{named} {address}": PAIR_MAX, f" {address}": ADDRESS_MAX, named: NAME_MAX}


def _named(name: str) -> str:
    return sha256(name.casefold().encode("utf-8", "replace")).hexdigest()
