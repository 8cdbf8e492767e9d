"""How the daemon stands, in numbers: nothing of any patient or study."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, func, literal_column, select

from triage.records.store import Store
from triage.records.tables import IS_LEASED, IS_QUEUED, IS_UNREAD, events, findings, instances, jobs, policies, studies
from triage.study import EventKind

_DAY_SECONDS = 86400.0
# Of the last day at most so many of the newest films are counted, however many are held.
_NEWEST = 100_000


@dataclass(frozen=True, kw_only=True)
class Tally:
    """``oldest_due_seconds``: how long the first job that is due has waited for a worker.

    ``not_analysed``: films of the last day by reason. ``shown``: open studies by the reason they show.
    """

    queued: int
    running: int
    oldest_due_seconds: float
    last_received_at: datetime | None
    last_analysed_at: datetime | None
    received: int
    not_analysed: dict[str, int] = field(default_factory=dict)
    shown: dict[str, int] = field(default_factory=dict)
    open_studies: int
    reading: int
    flagged: int
    overdue: int
    pending: int
    policy: str | None


def tally(store: Store) -> Tally:
    """Raise DatabaseError."""
    with store.reading() as connection:
        return Tally(
            **_of_jobs(store, connection),
            **_of_films(store, connection),
            **_of_studies(store, connection),
            policy=_first(connection, select(policies.c.version).order_by(policies.c.first_used_at.desc())),
        )


def _of_jobs(store: Store, connection: Connection) -> dict[str, Any]:
    due = IS_QUEUED & (jobs.c.available_at <= store.now())
    oldest, now = connection.execute(select(func.min(jobs.c.available_at), store.now()).where(due)).one()
    counts = {
        name: connection.execute(select(func.count()).select_from(jobs).where(state)).scalar_one()
        for name, state in (("queued", IS_QUEUED), ("running", IS_LEASED))
    }
    return {**counts, "oldest_due_seconds": 0.0 if oldest is None else (now - oldest).total_seconds()}


def _of_films(store: Store, connection: Connection) -> dict[str, Any]:
    last_id = select(func.max(instances.c.instance_id)).scalar_subquery()
    is_of_today = (instances.c.instance_id > last_id - _NEWEST) & (instances.c.received_at > store.after(-_DAY_SECONDS))
    reasons = (
        select(findings.c.reason, func.count())
        .join(instances, instances.c.instance_id == findings.c.instance_id)
        .where(is_of_today & findings.c.reason.is_not(None))
        .group_by(findings.c.reason)
    )
    received = select(instances.c.received_at).order_by(instances.c.instance_id.desc())
    analysed = select(events.c.at).where(events.c.kind == EventKind.ANALYSED).order_by(events.c.event_id.desc())
    return {
        "last_received_at": _first(connection, received),
        "last_analysed_at": _first(connection, analysed),
        "received": connection.execute(select(func.count()).select_from(instances).where(is_of_today)).scalar_one(),
        "not_analysed": _by_reason(connection, reasons),
    }


def _of_studies(store: Store, connection: Connection) -> dict[str, Any]:
    conditions: dict[str, ColumnElement[bool]] = {
        "reading": studies.c.status == literal_column("'reading'"),
        "flagged": studies.c.flagged,
        "overdue": studies.c.overdue_at <= store.now(),
        "pending": studies.c.analysis == literal_column("'pending'"),
    }
    sums = [func.coalesce(func.sum(case((each, 1), else_=0)), 0).label(name) for name, each in conditions.items()]
    row = connection.execute(select(func.count().label("open_studies"), *sums).where(IS_UNREAD)).mappings().one()
    shown = select(studies.c.reason, func.count()).where(IS_UNREAD & studies.c.reason.is_not(None))
    return {**row, "shown": _by_reason(connection, shown.group_by(studies.c.reason))}


def _by_reason(connection: Connection, query: Any) -> dict[str, int]:  # noqa: ANN401 - a select of two columns
    return dict(sorted((str(reason), int(count)) for reason, count in connection.execute(query)))


def _first(connection: Connection, query: Any) -> Any:  # noqa: ANN401 - a select of one column
    return connection.execute(query.limit(1)).scalar_one_or_none()
