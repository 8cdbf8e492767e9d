"""How the worklist and the jobs stand, in numbers, for those who watch the daemon."""

from __future__ import annotations

from dataclasses import dataclass
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
    """Of open studies and open jobs. Times are Unix times; ``received_at`` is 0.0 if nothing was ever received."""

    readings: dict[str, int]
    pending: int
    pending_seconds: float
    flagged: int
    overdue: int
    not_analysed: dict[str, int]
    jobs: dict[str, int]
    due_seconds: float
    received_at: float
    now: float


def read_state(store: Store) -> State:
    """In one transaction, from what indices of open rows and the last instance's row tell."""
    with store.reading() as connection:
        studies_said = connection.execute(_of_studies(store)).one()
        jobs_said = connection.execute(_of_jobs(store)).one()
        last = select(instances.c.received_at).order_by(instances.c.instance_id.desc()).limit(1)
        received = connection.execute(last).scalar_one_or_none()
        now = connection.execute(select(store.now())).scalar_one()
        unread, reading, pending, flagged, overdue = studies_said
        queued, leased, oldest, due = jobs_said
        return State(
            readings=dict(zip((status.value for status in _READINGS), (unread, reading), strict=True)),
            pending=pending,
            pending_seconds=(now - oldest).total_seconds() if oldest else 0.0,
            flagged=flagged,
            overdue=overdue,
            not_analysed=_reasons(connection),
            jobs={JobState.QUEUED.value: queued, JobState.LEASED.value: leased},
            due_seconds=(now - due).total_seconds() if due else 0.0,
            received_at=received.timestamp() if received else 0.0,
            now=now.timestamp(),
        )


def _of_studies(store: Store) -> Select[*tuple[Any, ...]]:
    return select(
        *(_count(studies.c.status == status) for status in _READINGS),
        _count(studies.c.analysis == Analysis.PENDING),
        _count(studies.c.flagged),
        _count(studies.c.overdue_at <= store.now()),
    ).where(IS_UNREAD)


def _of_jobs(store: Store) -> Select[*tuple[Any, ...]]:
    due = IS_QUEUED & (jobs.c.available_at <= store.now())
    return select(
        _count(jobs.c.state == JobState.QUEUED),
        _count(jobs.c.state == JobState.LEASED),
        func.min(jobs.c.created_at),
        func.min(case((due, jobs.c.available_at))),
    ).where(IS_OPEN)


def _count(which: ColumnElement[bool]) -> ColumnElement[int]:
    return func.count(case((which, 1)))


def _reasons(connection: Connection) -> dict[str, int]:
    shown = IS_UNREAD & (studies.c.analysis == Analysis.NOT_ANALYSED)
    query = select(studies.c.reason, func.count()).where(shown).group_by(studies.c.reason)
    return {reason or "": count for reason, count in connection.execute(query)}


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
