"""Which processes of this data folder are alive: each holds a lock on a file of its own for as long as it lives.

    data_dir/running/<host> <process> <process id>      locked, flock(2): the lock ends with it, however it ends

Nothing but `triage status` and `triage doctor` looks there, and whoever must not run beside a daemon.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from daemon.notation import this_host
from daemon.telemetry import describe, log

_FOLDER = "running"
_PLAIN = re.compile(r"[^A-Za-z0-9._-]")
_held: list[int] = []


@dataclass(frozen=True, kw_only=True)
class Alive:
    """One process; ``since`` by the clock of its host."""

    host: str
    process: str
    process_id: int
    since: datetime


def appear(data_dir: Path, process: str) -> None:
    """To the end of this process. Never fails: what cannot be seen runs all the same."""
    names = (this_host(), process, str(os.getpid()))
    path = data_dir / _FOLDER / " ".join(_PLAIN.sub("_", name) for name in names)
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        new = path.with_name(f".{path.name}")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _held.append(descriptor)
        new.rename(path)  # locked before it has its name: nobody can take it for a dead one's
    except OSError as error:
        log().warning("not_seen", **describe(error))


def alive(data_dir: Path) -> list[Alive]:
    """By name. Files of the dead are removed in passing."""
    with suppress(OSError):
        paths = sorted((data_dir / _FOLDER).glob("[!.]*"))
        return [each for path in paths for each in _seen(path)]
    return []


def _seen(path: Path) -> Iterator[Alive]:
    with suppress(OSError, ValueError):
        host, process, process_id = path.name.split(" ")
        since = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        if _is_locked(path):
            yield Alive(host=host, process=process, process_id=int(process_id), since=since)


def _is_locked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        # Shared: whoever else looks just now is not taken for the process that is dead.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        path.unlink(missing_ok=True)
        return False
    finally:
        os.close(descriptor)
