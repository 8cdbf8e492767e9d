"""Orders: what people say of a study's urgency, whether its images have come or not.

An order and a study meet by accession number, and by patient ID where both name one. The latest word of people counts,
up or down; the same word said again is none. A study that was read is left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Table,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from triage.order import KeptOrder, Order, RefusedMessage, Word
from triage.records.reading import Reading
from triage.records.store import Store
from triage.records.tables import IS_UNREAD, hl7_messages, orders, studies
from triage.study import ClinicalPriority

TAKEN = "AA"
_REFUSED_MAX = 10_000
_ROWS_AT_ONCE = 1000
# Most have their images: those that have none are looked for among so many that came last.
_LOOKED_THROUGH = 10_000
_DAY_SECONDS = 86400.0


class Effect(StrEnum):
    """What became of a message. Of several orders in it, the one with the most to show."""

    APPLIED = "applied"
    KEPT = "kept"
    NOTHING = "nothing"
    REPEATED = "repeated"


@dataclass(frozen=True, kw_only=True)
class Message:
    """``sha256``: of sender, control ID and content, so that the same message sent again has the same."""

    sha256: str
    who: str = ""
    address: str = ""


class Orders:
    """Every method is one transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reading = Reading(store)

    def take(self, message: Message, said: Sequence[Order], word: Word) -> Effect:
        """All orders of a message, or none. A message that was taken before changes nothing."""
        with self._store.writing() as connection:
            if not self._enter(connection, message):
                return Effect.REPEATED
            # Before any study is locked, and in one sequence for all: nobody can wait for somebody who waits for him.
            for number in sorted({each.accession_number for each in said}):
                self._store.meet(connection, number, alone=True)
            effects = [self._take(connection, each, word) for each in said]
        return min(effects, key=list(Effect).index, default=Effect.NOTHING)

    def refuse(self, message: Message, answer: str, problem: str, content: bytes) -> None:
        """Keep it whole; one that comes again is counted."""
        row = _row(message) | {"answer": answer, "problem": problem[:128], "content": content}
        same = hl7_messages.c.sha256 == message.sha256
        with self._store.writing() as connection:
            if not self._insert_message(connection, row):
                again = {"times": hl7_messages.c.times + 1, "at": self._store.now()}
                connection.execute(update(hl7_messages).where(same).values(again))

    def refused(self, most: int = 100) -> list[RefusedMessage]:
        """Newest first."""
        query = select(hl7_messages).where(_IS_REFUSED).order_by(hl7_messages.c.message_id.desc()).limit(most)
        with self._store.reading() as connection:
            return [_refused(row) for row in connection.execute(query).mappings()]

    def count_refused(self) -> int:
        query = select(func.count()).select_from(hl7_messages).where(_IS_REFUSED)
        with self._store.reading() as connection:
            return int(connection.execute(query).scalar_one())

    def kept(self, most: int = 100) -> list[KeptOrder]:
        """Those of the last 10,000 whose images have not come, newest first."""
        last = select(orders).order_by(orders.c.order_id.desc()).limit(_LOOKED_THROUGH).subquery("last")
        has_come = exists().where(
            studies.c.accession_number == last.c.accession_number,
            or_(last.c.patient_id == "", studies.c.patient_id.in_(("", last.c.patient_id))),
        )
        waiting = select(last).where(~last.c.cancelled & ~has_come).order_by(last.c.order_id.desc())
        with self._store.reading() as connection:
            return [_kept(row) for row in connection.execute(waiting.limit(most)).mappings()]

    def tidy(self, days: float) -> int:
        """Forget what is older, and all but the newest 10,000 refused messages. How many rows went."""
        old = self._store.after(-days * _DAY_SECONDS)
        newest = select(hl7_messages.c.message_id).where(_IS_REFUSED).order_by(hl7_messages.c.message_id.desc())
        with self._store.reading() as connection:
            last = connection.execute(newest.offset(_REFUSED_MAX).limit(1)).scalar_one_or_none() or 0
        count = self._delete(orders, orders.c.at < old) + self._delete(hl7_messages, hl7_messages.c.at < old)
        return count + self._delete(hl7_messages, _IS_REFUSED & (hl7_messages.c.message_id <= last))

    def _delete(self, table: Table, condition: ColumnElement[bool]) -> int:
        """A thousand at a time: nobody waits long for the lock."""
        (key,) = table.primary_key
        some = delete(table).where(key.in_(select(key).where(condition).limit(_ROWS_AT_ONCE)))
        total, count = 0, _ROWS_AT_ONCE
        while count == _ROWS_AT_ONCE:
            with self._store.writing() as connection:
                count = connection.execute(some).rowcount
            total += count
        return total

    def _enter(self, connection: Connection, message: Message) -> bool:
        """Whether it is to be acted upon. One that was refused may be, once the site has changed a setting."""
        if self._insert_message(connection, _row(message) | {"answer": TAKEN}):
            return True
        was_refused = (hl7_messages.c.sha256 == message.sha256) & (hl7_messages.c.answer != TAKEN)
        taken = {"answer": TAKEN, "problem": "", "content": None}
        return connection.execute(update(hl7_messages).where(was_refused).values(taken)).rowcount > 0

    def _insert_message(self, connection: Connection, row: dict[str, Any]) -> bool:
        inserting = self._store.insert_if_absent(hl7_messages).values(row | {"at": self._store.now(), "times": 1})
        return bool(connection.execute(inserting, execution_options={"preserve_rowcount": True}).rowcount > 0)

    def _take(self, connection: Connection, order: Order, word: Word) -> Effect:
        if order.cancelled:
            return self._cancel(connection, order)
        if order.clinical_priority is None or not self._keep(connection, order, order.clinical_priority, word):
            return Effect.NOTHING
        query = select(studies.c.study_instance_uid).where(IS_UNREAD, _matches(studies, order))
        found = connection.execute(query.order_by(studies.c.study_instance_uid)).scalars().all()
        for uid in found:
            study = self._store.lock_study(connection, uid)
            self._reading.put_at(connection, study, order.clinical_priority, who=word.who, source=word.source)
        return Effect.APPLIED if found else Effect.KEPT

    def _cancel(self, connection: Connection, order: Order) -> Effect:
        """Nothing is expected any more; what has come stays where it is, since somebody must read it."""
        kept = _matches(orders, order) & ~orders.c.cancelled
        count = connection.execute(update(orders).where(kept).values(cancelled=True, at=self._store.now())).rowcount
        return Effect.KEPT if count else Effect.NOTHING

    def _keep(self, connection: Connection, order: Order, priority: ClinicalPriority, word: Word) -> bool:
        """False if this order has said the same before: a repetition must not undo what was said since."""
        own = (orders.c.accession_number == order.accession_number) & (orders.c.patient_id == order.patient_id)
        said = {"clinical_priority": int(priority), "cancelled": False, "at": self._store.now()}
        said |= {"who": word.who[:64], "source": word.source[:64]}
        before = connection.execute(select(orders).where(own)).mappings().one_or_none()
        if before is None:
            key = {"accession_number": order.accession_number, "patient_id": order.patient_id}
            connection.execute(insert(orders).values(key | said))
            return True
        is_new = bool(before["cancelled"] or before["clinical_priority"] != priority)
        if is_new:
            connection.execute(update(orders).where(own).values(said))
        return is_new


_IS_REFUSED = hl7_messages.c.content.is_not(None)


def _matches(table: Table, order: Order) -> ColumnElement[bool]:
    """Rows of the same accession number, and of the same patient where both sides name one."""
    same = table.c.accession_number == order.accession_number
    return same & table.c.patient_id.in_(("", order.patient_id)) if order.patient_id else same


def _row(message: Message) -> dict[str, Any]:
    return {"sha256": message.sha256, "who": message.who[:64], "address": message.address[:64]}


def _kept(row: RowMapping) -> KeptOrder:
    told = {name: row[name] for name in ("accession_number", "patient_id", "who", "source", "at")}
    return KeptOrder(**told, clinical_priority=ClinicalPriority(row["clinical_priority"]).name)


def _refused(row: RowMapping) -> RefusedMessage:
    at: datetime = row["at"]
    told = {name: row[name] for name in ("message_id", "who", "address", "answer", "problem", "times")}
    return RefusedMessage(**told, at=at.isoformat(timespec="seconds"), content=bytes(row["content"]))
