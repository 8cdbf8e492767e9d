"""Films that are kept although the database knows nothing of them: listed after all, as having waited since they came.

Their rows were never committed, or were lost with a damaged database, or are younger than the backup in its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from daemon.arrival import Arrivals, ContradictionError, UnidentifiableError
from daemon.kept import Kept, KeptFile, StoredFile, verify
from daemon.telemetry import describe, log
from triage.errors import NotAnalysed
from triage.records.intake import known_hashes
from triage.records.postgresql import is_away
from triage.records.store import Store


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """Safe to repeat, beside receivers too: whichever comes first lists a film, and for the other it is a duplicate."""

    store: Store
    kept: Kept
    arrivals: Arrivals

    def orphans(self, older_than_seconds: float = 0.0, *, quarantined: bool = False) -> list[KeptFile]:
        """In the order in which they came."""
        found = {file.sha256: file for file in self.kept.files(older_than_seconds, quarantined=quarantined)}
        unknown = found.keys() - known_hashes(self.store, list(found))
        return sorted((found[sha256] for sha256 in unknown), key=lambda file: (file.written_at, file.sha256))

    def adopt_all(self, orphans: list[KeptFile], *, quarantined: bool = False) -> Iterator[bool]:
        """Of each whether it could be read, is what its name says, and was taken. Raise while the database is away."""
        ahead = self.store.read_clock() - datetime.now(UTC)
        for orphan in orphans:
            arrived_at = min(orphan.written_at, datetime.now(UTC)) + ahead
            yield self._adopt(orphan, replace(self.arrivals, arrived_at=arrived_at), quarantined=quarantined)

    def _adopt(self, orphan: KeptFile, arrivals: Arrivals, *, quarantined: bool) -> bool:
        try:
            with self.kept.reading(orphan.sha256, quarantined=quarantined) as path:
                verify(path, orphan.sha256)
                stored = StoredFile(path=path, sha256=orphan.sha256, size_bytes=orphan.size_bytes)
                try:
                    arrivals.admit(stored)
                except ContradictionError:
                    return True  # listed, and set aside
                except UnidentifiableError:
                    return False
        except NotAnalysed as outcome:
            log().warning("orphan_unreadable", reason=outcome.reason)
            return False
        except Exception as error:
            if is_away(error):
                raise
            log().error("orphan_refused", **describe(error))  # it stays where it is: the others come first
            return False
        return True
