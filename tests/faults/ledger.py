"""What must be so at any moment, and what must be so once all is quiet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from running import Daemon, wait_for
from sqlalchemy import text

from faults.readers import Readers
from faults.senders import Books
from triage.records.store import Store

_QUIET_SECONDS = 120.0
_REASONS = {None, "not_chest_frontal", "internal_error"}


@dataclass(frozen=True)
class Standing:
    """How a study stands: whatever of this falls has taken a place away from a patient."""

    urgency: int
    flagged: bool
    p_pneumonia: float

    def is_below(self, before: Standing) -> bool:
        return self.urgency < before.urgency or self.flagged < before.flagged or self.p_pneumonia < before.p_pneumonia


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
        for table, key in (("instances", "sop_instance_uid"), ("jobs", "instance_id"), ("findings", "instance_id")):
            query = f"SELECT {key} FROM {table} GROUP BY {key} HAVING count(*) > 1"
            self.doubled |= {f"{table} {found}" for (found,) in self._rows(query)}

    def _look_for_falls(self) -> None:
        query = "SELECT study_instance_uid, clinical_priority, flagged, p_pneumonia FROM studies"
        stands = {uid: Standing(-urgency, bool(flag), p or 0.0) for uid, urgency, flag, p in self._rows(query)}
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
