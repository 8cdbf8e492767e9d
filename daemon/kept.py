"""What is kept, and the verbs of whoever keeps it: a folder, or a bucket.

Rooms are ``instances`` and ``quarantine``; in each a file lies under ``ab/<sha256>.dcm``, the same in both kinds of
place, so that a site can move from one to the other by copying.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from triage.errors import NotAnalysed, Reason

INSTANCES, QUARANTINE = ROOMS = ("instances", "quarantine")


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A durable file. ``sha256`` is of the whole file: sha256sum(1) checks it. ``path``: where to read it just now."""

    path: Path
    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class KeptFile:
    """One of those that are kept, as a listing tells it; ``written_at`` by the clock of whoever keeps it."""

    sha256: str
    size_bytes: int
    written_at: datetime


class Kept(Protocol):
    """Every verb raises OSError where the place does not do as asked, and is safe to repeat."""

    def prepare(self) -> None:
        """Make what has to be there before anything else."""

    def check(self) -> None:
        """Look whether the place answers. Raise TriageError where a person must mend it."""

    def keep(self, aside: Path, sha256: str, size_bytes: int) -> Path:
        """Durable when this returns, under the name of its content. Where the file can be read for now."""

    def reading(self, sha256: str, *, quarantined: bool = False) -> AbstractContextManager[Path]:
        """A path to the instance, whatever its content is now: see `verify`, which the decoder does by itself.

        Raise NotAnalysed: PIXELS_UNREADABLE, or PIXELS_DAMAGED where it is not there.
        """

    def quarantine(self, sha256: str) -> None:
        """Move a file out of the instances, durably. Of one that is there already nothing changes."""

    def delete(self, sha256: str, *, quarantined: bool = False) -> None:
        """Deleting what is not there is no error."""

    def files(self, older_than_seconds: float, *, quarantined: bool = False) -> Iterator[KeptFile]:
        """Every file last written at least so long ago."""


def room(*, quarantined: bool) -> str:
    return QUARANTINE if quarantined else INSTANCES


def name(sha256: str) -> str:
    """Below its room."""
    return f"{sha256[:2]}/{sha256}.dcm"


def sha256_of(path: Path) -> str:
    """Raise OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: Path, sha256: str) -> None:
    """Raise NotAnalysed unless this is still what was kept."""
    try:
        found = sha256_of(path)
    except FileNotFoundError:
        raise NotAnalysed(Reason.PIXELS_DAMAGED) from None
    except OSError:
        raise NotAnalysed(Reason.PIXELS_UNREADABLE) from None
    if found != sha256:
        raise NotAnalysed(Reason.PIXELS_DAMAGED)
