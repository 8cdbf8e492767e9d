"""Workitems whose reading is over, kept under their own UIDs; and what performers have said of theirs."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, RowMapping, func, insert, select, update

from triage.records.store import Store
from triage.records.tables import events, studies, workitems
from triage.workitem import StepState, new_workitem_uid


def note_progress(connection: Connection, row: RowMapping, progress: str) -> set[str]:
    """``row``: of the study, locked, so that of two performers' words neither is lost. What was said of other
    attributes before stays. The tags of those that have changed.
    """
    said = select(workitems.c.progress).where(workitems.c.workitem_uid == row["workitem_uid"])
    before = json.loads(connection.execute(said).scalar_one_or_none() or "{}")
    now = json.loads(progress)
    _write(connection, row, {"progress": json.dumps(before | now, separators=(",", ":"))})
    return {tag for tag, value in now.items() if before.get(tag) != value}


def retire(store: Store, connection: Connection, row: RowMapping, state: StepState) -> None:
    """The study's workitem has ended in this state, with the event noted last; the study is about to get another."""
    last = select(func.max(events.c.event_id)).where(events.c.study_instance_uid == row["study_instance_uid"])
    told = {name: row[name] for name in ("reader", "transaction_uid")}
    ended = {"state": state, "ended_at": store.now(), "last_event_id": connection.execute(last).scalar_one() or 0}
    _write(connection, row, {**told, **ended})


def replace(store: Store, connection: Connection, row: RowMapping, state: StepState) -> None:
    """The same, and the study has its new one."""
    retire(store, connection, row, state)
    same = studies.c.study_instance_uid == row["study_instance_uid"]
    connection.execute(update(studies).where(same).values(workitem_uid=new_workitem_uid()))


def _write(connection: Connection, row: RowMapping, values: dict[str, Any]) -> None:
    uid = row["workitem_uid"]
    changed = connection.execute(update(workitems).where(workitems.c.workitem_uid == uid).values(values))
    if not changed.rowcount:
        key = {"workitem_uid": uid, "study_instance_uid": row["study_instance_uid"]}
        connection.execute(insert(workitems).values(key | values))
