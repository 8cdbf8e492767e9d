"""What must be so at any moment, and what must be so once all is quiet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from running import Daemon, wait_for
from sqlalchemy import select, text

from faults.readers import Readers
from faults.senders import Books
from triage.records.store import Store
from triage.records.tables import studies

_QUIET_SECONDS = 120.0
# Studies of which more films were concluded, as their history tells, than have come to an end. A late worker's second
# conclusion would leave this trace alone: of a job and of a finding there is one row whatever happens.
_CONCLUDED_TWICE = """
SELECT study_instance_uid FROM events AS told WHERE kind IN ('analysed', 'not_analysed')
GROUP BY study_instance_uid HAVING count(*) > (
    SELECT count(*) FROM jobs JOIN instances ON instances.instance_id = jobs.instance_id
    WHERE instances.study_instance_uid = told.study_instance_uid AND jobs.state IN ('done', 'buried')
)
"""
_REASONS = {None, "not_chest_frontal", "internal_error"}


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a study stands: whatever of this falls, or comes later, has taken a place away from a patient."""

    clinical_priority: int
    flagged: bool
    p_pneumonia: float | None
    received_at: datetime
    waiting_since: datetime

    def is_below(self, before: Standing) -> bool:
        return (
            self.clinical_priority > before.clinical_priority  # the first is the most urgent
            or self.flagged < before.flagged
            or (self.p_pneumonia or 0.0) < (before.p_pneumonia or 0.0)
            or self.received_at > before.received_at
            or self.waiting_since > before.waiting_since
        )


_STANDING = [each.name for each in fields(Standing)]


@dataclass
class Ledger:
    """Holds the books of senders and readers against the database and the disk. What it finds is kept."""

    daemon: Daemon
    store: Store
    books: Books
    readers: Readers
    lost: set[str] = field(default_factory=set)
    doubled: set[str] = field(default_factory=set)
    fallen: set[str] = field(default_factory=set)
    unread: set[str] = field(default_factory=set)
    _stood: dict[str, Standing] = field(default_factory=dict)

    def look(self) -> None:
        """At any moment. What was promised is taken down before the database is asked."""
        promised = {sop: film.study for sop, film in dict(self.books.acknowledged).items()}
        started, closed = set(self.readers.started), set(self.readers.closed)
        held = dict(self._rows("SELECT sop_instance_uid, study_instance_uid FROM instances"))
        listed = {uid for (uid,) in self._rows("SELECT study_instance_uid FROM reading_worklist")}
        status = dict(self._rows("SELECT study_instance_uid, status FROM studies"))
        self.lost |= {sop for sop, study in promised.items() if held.get(sop) != study}
        self.lost |= {uid for uid in promised.values() if uid not in listed and status.get(uid) != "read"}
        self.unread |= {uid for uid in closed if status[uid] != "read"}
        self.unread |= {uid for uid in started if status[uid] not in ("reading", "read")}
        self._look_for_doubles()
        self._look_for_falls()

    def _look_for_doubles(self) -> None:
        for table, key in (("instances", "sop_instance_uid"), ("findings", "instance_id")):
            query = f"SELECT {key} FROM {table} GROUP BY {key} HAVING count(*) > 1"
            self.doubled |= {f"{table} {found}" for (found,) in self._rows(query)}
        self.doubled |= {f"events {found}" for (found,) in self._rows(_CONCLUDED_TWICE)}

    def _look_for_falls(self) -> None:
        columns = [studies.c[name] for name in _STANDING]
        with self.store.reading() as connection:
            rows = connection.execute(select(studies.c.study_instance_uid, *columns))
            stands = {uid: Standing(**dict(zip(_STANDING, row, strict=True))) for uid, *row in rows}
        self.fallen |= self._stood.keys() - stands.keys()
        self.fallen |= {uid for uid, now in stands.items() if uid in self._stood and now.is_below(self._stood[uid])}
        self._stood = stands

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        with self.store.reading() as connection:
            return [tuple(row) for row in connection.execute(text(query))]

    # -- once all is quiet -----------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Wait until every job has come to its end and every file has its row."""
        waiting = "SELECT 1 FROM jobs WHERE state IN ('queued', 'leased')"
        self._until(lambda: not self._rows(waiting), "jobs are left")
        self._until(lambda: not self._orphans(), "files are left without a row")
        self._until(lambda: not self._left_over(), f"left over: {self._left_over()}")

    def _until(self, ask: Callable[[], bool], otherwise: str) -> None:
        try:
            wait_for(ask, _QUIET_SECONDS, pause=0.5)
        except TimeoutError as error:
            raise AssertionError(f"{otherwise}\n{self.daemon.log()[-3000:]}") from error

    def _orphans(self) -> set[str]:
        return self._on_disk() - {sha256 for (sha256,) in self._rows("SELECT sha256 FROM instances")}

    def _on_disk(self) -> set[str]:
        return {path.stem for path in self.daemon.files("instances")}

    def _left_over(self) -> list[str]:
        """Half-written files of the dead: films, and lines of the audit."""
        half = [*self.daemon.files("incoming"), *self.daemon.data_dir.glob("trail/*.new")]
        return [path.name for path in (*half, *self.daemon.files("quarantine"))]

    def assert_settled(self) -> None:
        held = self._rows("SELECT sop_instance_uid, sha256 FROM instances")
        assert {sop for sop, _ in held} <= self.books.made.keys()
        assert {sop for sop, _ in held} | self.books.given_up >= self.books.made.keys()
        assert {sha256 for _, sha256 in held} == self._on_disk()
        for path in self.daemon.files("instances"):
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem
        self._assert_all_answered()

    def _assert_all_answered(self) -> None:
        """Analysed, or not analysed and why; and the deaths cost no more than the films they interrupted."""
        assert {analysis for (analysis,) in self._rows("SELECT DISTINCT analysis FROM studies")} <= {
            "analysed",
            "not_analysed",
        }
        assert {reason for (reason,) in self._rows("SELECT DISTINCT reason FROM findings")} <= _REASONS
        ((given_up, all_of_them),) = self._rows(
            "SELECT count(CASE WHEN reason = 'internal_error' THEN 1 END), count(*) FROM findings"
        )
        assert given_up <= 0.1 * all_of_them
