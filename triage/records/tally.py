"""How the daemon stands and what a day has brought, in numbers: nothing of any patient or study."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from triage.records.state import State, state_of
from triage.records.store import Store
from triage.records.tables import events, findings, instances, policies
from triage.study import EventKind

_DAY_SECONDS = 86400.0
# Of the last day at most so many of the newest films are counted, however many are held.
_NEWEST = 100_000


@dataclass(frozen=True, kw_only=True)
class Tally:
    """``not_analysed``: films of the last day by reason."""

    state: State
    received: int
    not_analysed: dict[str, int] = field(default_factory=dict)
    last_analysed_at: datetime | None
    policy: str | None


def tally(store: Store) -> Tally:
    """Raise DatabaseError."""
    with store.reading() as connection:
        return Tally(
            state=state_of(store, connection),
            **_of_films(store, connection),
            policy=_first(connection, select(policies.c.version).order_by(policies.c.first_used_at.desc())),
        )


def _of_films(store: Store, connection: Connection) -> dict[str, Any]:
    last_id = select(func.max(instances.c.instance_id)).scalar_subquery()
    is_of_today = (instances.c.instance_id > last_id - _NEWEST) & (instances.c.received_at > store.after(-_DAY_SECONDS))
    reasons = (
        select(findings.c.reason, func.count())
        .join(instances, instances.c.instance_id == findings.c.instance_id)
        .where(is_of_today & findings.c.reason.is_not(None))
        .group_by(findings.c.reason)
    )
    analysed = select(events.c.at).where(events.c.kind == EventKind.ANALYSED).order_by(events.c.event_id.desc())
    return {
        "received": connection.execute(select(func.count()).select_from(instances).where(is_of_today)).scalar_one(),
        "not_analysed": dict(sorted((str(reason), count) for reason, count in connection.execute(reasons))),
        "last_analysed_at": _first(connection, analysed),
    }


def _first(connection: Connection, query: Any) -> Any:  # noqa: ANN401 - a select of one column
    return connection.execute(query.limit(1)).scalar_one_or_none()
