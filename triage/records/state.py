"""How the worklist and the jobs stand, in numbers, for those who watch the daemon."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, case, func, select

from triage.jobs import JobState
from triage.records.store import Store
from triage.records.tables import IS_OPEN, IS_QUEUED, IS_UNREAD, findings, instances, jobs, studies
from triage.study import Analysis, Status

_LOOKED_BACK = 20_000
_READINGS = (Status.UNREAD, Status.READING)


@dataclass(frozen=True, kw_only=True)
class State:
    """Of open studies and open jobs. ``not_analysed``: studies by the reason that they show.

    ``due_seconds``: how long the first job that is due has waited for a worker.
    """

    readings: dict[str, int]
    pending: int
    pending_seconds: float
    flagged: int
    overdue: int
    not_analysed: dict[str, int]
    jobs: dict[str, int]
    due_seconds: float
    received_at: datetime | None
    now: datetime

    @property
    def open_studies(self) -> int:
        return sum(self.readings.values())


def read_state(store: Store) -> State:
    """In one transaction. Raise DatabaseError."""
    with store.reading() as connection:
        return state_of(store, connection)


def state_of(store: Store, connection: Connection) -> State:
    """From what indices of open rows and the last instance's row tell."""
    unread, reading, pending, flagged, overdue = connection.execute(_of_studies(store)).one()
    queued, leased, oldest = connection.execute(_of_jobs()).one()
    last = select(instances.c.received_at).order_by(instances.c.instance_id.desc()).limit(1)
    now = connection.execute(select(store.now())).scalar_one()
    return State(
        readings=dict(zip((status.value for status in _READINGS), (unread, reading), strict=True)),
        pending=pending,
        pending_seconds=(now - oldest).total_seconds() if oldest else 0.0,
        flagged=flagged,
        overdue=overdue,
        not_analysed=_reasons(connection),
        jobs={JobState.QUEUED.value: queued, JobState.LEASED.value: leased},
        due_seconds=_due_seconds(store, connection),
        received_at=connection.execute(last).scalar_one_or_none(),
        now=now,
    )


def oldest_due_seconds(store: Store) -> float:
    """How long the first job that is due has waited for a worker; 0 if there is none. Raise DatabaseError."""
    with store.reading() as connection:
        return _due_seconds(store, connection)


def _of_studies(store: Store) -> Select[*tuple[Any, ...]]:
    return select(
        *(_count(studies.c.status == status) for status in _READINGS),
        _count(studies.c.analysis == Analysis.PENDING),
        _count(studies.c.flagged),
        _count(studies.c.overdue_at <= store.now()),
    ).where(IS_UNREAD)


def _of_jobs() -> Select[*tuple[Any, ...]]:
    counts = (_count(jobs.c.state == state) for state in (JobState.QUEUED, JobState.LEASED))
    return select(*counts, func.min(jobs.c.created_at)).where(IS_OPEN)


def _due_seconds(store: Store, connection: Connection) -> float:
    due = IS_QUEUED & (jobs.c.available_at <= store.now())
    oldest, now = connection.execute(select(func.min(jobs.c.available_at), store.now()).where(due)).one()
    return 0.0 if oldest is None else float((now - oldest).total_seconds())


def _count(which: ColumnElement[bool]) -> ColumnElement[int]:
    return func.count(case((which, 1)))


def _reasons(connection: Connection) -> dict[str, int]:
    shown = IS_UNREAD & (studies.c.analysis == Analysis.NOT_ANALYSED)
    query = select(studies.c.reason, func.count()).where(shown).group_by(studies.c.reason)
    return dict(sorted((reason or "", count) for reason, count in connection.execute(query)))


def recent_scores(store: Store, weights_sha256: str, most: int) -> list[float]:
    """Calibrated P(pneumonia) of the last so many films that this network has analysed.

    It does not look further back than ``_LOOKED_BACK`` instances: a new network has analysed few, and they are new.
    """
    last = select(func.max(findings.c.instance_id)).scalar_subquery()
    latest = (
        select(findings.c.p_pneumonia)
        .where(findings.c.instance_id > last - _LOOKED_BACK)
        .where((findings.c.weights_sha256 == weights_sha256) & findings.c.p_pneumonia.is_not(None))
        .order_by(findings.c.instance_id.desc())
        .limit(most)
    )
    with store.reading() as connection:
        return list(connection.execute(latest).scalars())
