"""The reading worklist as workitems: found, claimed and ended under the lock that the page's readers use as well."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, RowMapping, Select, select

from triage.records.past import note_progress
from triage.records.places import every_place, first_places, place_of, said
from triage.records.reading import Reading
from triage.records.sought import conditions
from triage.records.store import Store
from triage.records.subscriptions import is_subscribed
from triage.records.tables import instances, studies, workitems
from triage.study import EventKind, Status
from triage.workitem import PROGRESS_INFORMATION, STATES, StepState, Verdict, Workitem, cancel_verdict, verdict

# Databases take only so many parameters in a statement.
_NAMED_AT_ONCE = 1000


class Workitems:
    """Every method is one transaction. ``who``: the application entity, user or program that asks."""

    def __init__(self, store: Store, reading: Reading) -> None:
        self._store = store
        self._reading = reading

    def open(
        self, state: StepState | None = None, most: int | None = None, keys: Mapping[str, str] | None = None
    ) -> list[Workitem]:
        """SCHEDULED or IN PROGRESS, or either, in the order of the worklist; the first ``most`` of them, or all.

        ``keys``: of a query, by keyword. What certainly does not match them is left out.
        """
        status = next((status for status, its in STATES.items() if its is state), None)
        which = conditions(keys or {}, self._store.now())
        if status is not None:
            which.append(studies.c.status == status.value)
        chosen = self._chosen(which, most)
        found = (
            select(studies, workitems.c.progress, chosen.c.rank, *self._said())
            .join(chosen, chosen.c.study_instance_uid == studies.c.study_instance_uid)
            .outerjoin(workitems, workitems.c.workitem_uid == studies.c.workitem_uid)
            .order_by(chosen.c.rank)
        )
        with self._store.reading() as connection:
            return [_current(row) for row in connection.execute(found).mappings()]

    def _chosen(self, which: Collection[ColumnElement[bool]], most: int | None) -> FromClause:
        """Places of the open studies that are asked for."""
        if not which and most is not None:
            return first_places(self._store.clock, most)
        placed = every_place(self._store.clock)
        query = select(placed).join(studies, studies.c.study_instance_uid == placed.c.study_instance_uid)
        return query.where(*which).order_by(placed.c.rank).limit(most).subquery("chosen")

    def _said(self) -> list[ColumnElement[Any]]:
        return [said(name, self._store.clock) for name in ("why", "overdue")]

    def ended(self, most: int) -> list[Workitem]:
        """COMPLETED and CANCELED, the last to end first, at most so many of either kind."""
        read = _held().where(studies.c.status == Status.READ).order_by(studies.c.status_at.desc()).limit(most)
        return self._found(read, _past().order_by(workitems.c.ended_at.desc()).limit(most))

    def named(self, workitem_uids: Collection[str]) -> list[Workitem]:
        """Those that are held, open ones first and in their order."""
        if len(workitem_uids) == 1:
            return [item for item in map(self.get, workitem_uids) if item is not None]
        wanted = sorted(set(workitem_uids))
        found = self.open(keys={"SOPInstanceUID": "\\".join(wanted)})
        for first in range(0, len(wanted), _NAMED_AT_ONCE):
            some = wanted[first : first + _NAMED_AT_ONCE]
            read = _held().where((studies.c.status == Status.READ) & studies.c.workitem_uid.in_(some))
            found += self._found(read, _past().where(workitems.c.workitem_uid.in_(some)))
        named = frozenset(wanted)
        return [item for item in found if item.workitem_uid in named]

    def _found(self, read: Select[Any], past: Select[Any]) -> list[Workitem]:
        with self._store.reading() as connection:
            completed = [_current(row) for row in connection.execute(read).mappings()]
            return completed + [_ended(row) for row in connection.execute(past).mappings()]

    def get(self, workitem_uid: str) -> Workitem | None:
        """None if no such workitem is held."""
        with self._store.reading() as connection:
            row = connection.execute(_held().where(studies.c.workitem_uid == workitem_uid)).mappings().first()
            if row is None:
                past = connection.execute(_past().where(workitems.c.workitem_uid == workitem_uid)).mappings().first()
                return _ended(past) if past else None
            placed = place_of(self._store.clock, row["study_instance_uid"])
            query = select(placed.c.rank, *self._said()).join_from(
                placed, studies, studies.c.study_instance_uid == placed.c.study_instance_uid
            )
            place = connection.execute(query).mappings().first()
        return _current({**row, **(place or {})})

    def films(self, study_instance_uids: Collection[str]) -> dict[str, list[dict[str, str]]]:
        """What a reading is of: series, class, UID and sender of each object that was received, by study."""
        names = ("study_instance_uid", "series_instance_uid", "sop_class_uid", "sop_instance_uid", "calling_ae")
        query = select(*(instances.c[name] for name in names)).order_by(instances.c.instance_id)
        found: dict[str, list[dict[str, str]]] = {uid: [] for uid in study_instance_uids}
        with self._store.reading() as connection:
            for row in connection.execute(query.where(instances.c.study_instance_uid.in_(found))).mappings():
                found[row["study_instance_uid"]].append(dict(row))
        return found

    def change(self, workitem_uid: str, asked: str, transaction_uid: str, who: str) -> Verdict:
        """N-ACTION Change State. ``asked``: a `StepState`."""
        with self._store.writing() as connection:
            row = self._locked(connection, workitem_uid)
            if row is None:
                return self._of_past(connection, workitem_uid, asked, transaction_uid)
            state = STATES[Status(row["status"])]
            is_owner = bool(transaction_uid) and transaction_uid == (row["transaction_uid"] or "")
            is_owner = is_owner or bool(transaction_uid and state is StepState.SCHEDULED)
            found = verdict(state, asked, is_owner=is_owner)
            if found is Verdict.DONE:
                found = self._apply(connection, row, StepState(asked), transaction_uid, who)
            return found

    def _apply(
        self, connection: Connection, row: RowMapping, asked: StepState, transaction_uid: str, who: str
    ) -> Verdict:
        if asked is StepState.COMPLETED and row["changed_while_reading"]:
            return Verdict.NOT_FINISHED
        if asked is StepState.IN_PROGRESS:
            self._reading.set_status(connection, row, Status.READING, who, transaction_uid=transaction_uid)
        elif asked is StepState.COMPLETED:
            self._reading.set_status(
                connection, row, Status.READ, row["reader"], who=who, transaction_uid=transaction_uid
            )
        else:
            self._reading.set_status(connection, row, Status.UNREAD, None, who=who)
        return Verdict.DONE

    def ask_to_cancel(self, workitem_uid: str, who: str, reason: str = "") -> Verdict:
        """N-ACTION Request UPS Cancel. One that is read stays so: its subscribers are told, its performer among them.

        UNHEARD where nobody has subscribed to it.
        """
        with self._store.writing() as connection:
            row = self._locked(connection, workitem_uid)
            if row is None:
                past = self._past_state(connection, workitem_uid)
                return cancel_verdict(StepState(past["state"])) if past else Verdict.NOT_HELD
            found = cancel_verdict(STATES[Status(row["status"])])
            if found is not Verdict.DONE:
                return found
            if not is_subscribed(connection, workitem_uid):
                return Verdict.UNHEARD
            uid = row["study_instance_uid"]
            self._reading.history.note(connection, uid, EventKind.CANCEL_ASKED, who=who, words=reason)
        return Verdict.DONE

    def update(self, workitem_uid: str, transaction_uid: str, progress: str) -> Verdict:
        """N-SET by the performer. It says that the images that came are seen, too.

        ``progress``: a data set in the DICOM JSON model, whose attributes replace those said before.
        """
        with self._store.writing() as connection:
            row = self._locked(connection, workitem_uid)
            if row is None:
                return Verdict.ENDED if self._past_state(connection, workitem_uid) else Verdict.NOT_HELD
            if row["status"] != Status.READING:
                return Verdict.ENDED if row["status"] == Status.READ else Verdict.NOT_IN_PROGRESS
            if not transaction_uid or transaction_uid != row["transaction_uid"]:
                return Verdict.WRONG_TRANSACTION
            if PROGRESS_INFORMATION in note_progress(connection, row, progress):
                who = row["reader"] or ""
                self._reading.history.note(connection, row["study_instance_uid"], EventKind.PROGRESSED, who=who)
            if row["changed_while_reading"]:
                reader, kept = row["reader"], row["transaction_uid"]
                self._reading.set_status(connection, row, Status.READING, reader, transaction_uid=kept)
        return Verdict.DONE

    def _locked(self, connection: Connection, workitem_uid: str) -> RowMapping | None:
        """The study whose current workitem it is."""
        query = select(studies).where(studies.c.workitem_uid == workitem_uid).with_for_update()
        return connection.execute(query).mappings().one_or_none()

    def _past_state(self, connection: Connection, workitem_uid: str) -> RowMapping | None:
        query = select(workitems).where(workitems.c.workitem_uid == workitem_uid, workitems.c.state.is_not(None))
        return connection.execute(query).mappings().one_or_none()

    def _of_past(self, connection: Connection, workitem_uid: str, asked: str, transaction_uid: str) -> Verdict:
        row = self._past_state(connection, workitem_uid)
        if row is None:
            return Verdict.NOT_HELD
        is_owner = bool(transaction_uid) and transaction_uid == row["transaction_uid"]
        return verdict(StepState(row["state"]), asked, is_owner=is_owner)


def _held() -> Select[Any]:
    """A study's columns, and what was said of its current workitem."""
    said = workitems.c.workitem_uid == studies.c.workitem_uid
    return select(studies, workitems.c.progress).outerjoin(workitems, said)


def _past() -> Select[Any]:
    """A study's columns, and those of a workitem of it that has ended."""
    own = [workitems.c[name].label(f"past_{name}") for name in _OWN]
    joined = select(studies, *own).join(studies, studies.c.study_instance_uid == workitems.c.study_instance_uid)
    return joined.where(workitems.c.state.is_not(None))


_OWN = ("workitem_uid", "state", "reader", "transaction_uid", "ended_at", "progress")


def _current(row: RowMapping | dict[str, Any]) -> Workitem:
    return Workitem(
        workitem_uid=row["workitem_uid"],
        study_instance_uid=row["study_instance_uid"],
        state=STATES[Status(row["status"])],
        reader=row["reader"] or "",
        transaction_uid=row["transaction_uid"] or "",
        changed_at=row["status_at"] or row["received_at"],
        progress=row["progress"] or "",
        study=dict(row),
    )


def _ended(row: RowMapping) -> Workitem:
    return Workitem(
        workitem_uid=row["past_workitem_uid"],
        study_instance_uid=row["study_instance_uid"],
        state=StepState(row["past_state"]),
        reader=row["past_reader"] or "",
        transaction_uid=row["past_transaction_uid"] or "",
        changed_at=row["past_ended_at"],
        progress=row["past_progress"] or "",
        study=dict(row),
    )
