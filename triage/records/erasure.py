"""A study erased at request, with all that is known of it. What people did stays in the audit, under its UID.

Files go first, then rows: whoever is interrupted in between can begin again, while a file without a row would be taken
for one that was never listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, delete, func, or_, select, update

from triage.records.account_tables import accesses
from triage.records.store import SQLITE, OperationError, Store, has_open_job
from triage.records.tables import (
    enquiries,
    events,
    findings,
    hl7_messages,
    instances,
    jobs,
    opinions,
    orders,
    studies,
    subscribers,
    subscriptions,
    workitems,
)
from triage.study import Status


@dataclass(frozen=True, kw_only=True)
class Held:
    """A study as it is held. ``is_waited_for``: nobody has read it yet, or its analysis is still to come."""

    study_instance_uid: str
    status: str
    is_waited_for: bool
    instances: int


@dataclass(frozen=True, kw_only=True)
class Loose:
    """What is held of a patient beside studies: orders whose images have not come, messages that were refused."""

    orders: int
    messages: int


class Erasure:
    """Every method is one transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def of_study(self, study_instance_uid: str) -> list[Held]:
        """It alone, or nothing."""
        return self._held(studies.c.study_instance_uid == study_instance_uid)

    def of_patient(self, patient_id: str) -> list[Held]:
        """Studies that show this Patient ID. A film of another patient under one of them goes with it."""
        return self._held(studies.c.patient_id == patient_id)

    def _held(self, which: ColumnElement[bool]) -> list[Held]:
        own = instances.c.study_instance_uid == studies.c.study_instance_uid
        waits = select(func.count()).select_from(instances).where(own & has_open_job()).scalar_subquery()
        count = select(func.count()).select_from(instances).where(own).scalar_subquery()
        query = select(studies.c.study_instance_uid, studies.c.status, waits, count).where(which)
        with self._store.reading() as connection:
            rows = connection.execute(query.order_by(studies.c.study_instance_uid)).all()
        return [
            Held(
                study_instance_uid=uid,
                status=status,
                is_waited_for=status != Status.READ or bool(open_jobs),
                instances=films,
            )
            for uid, status, open_jobs, films in rows
        ]

    def count_conflicts(self) -> int:
        """Studies that may hold films of another patient, who is not known by the Patient ID they show."""
        query = select(func.count()).select_from(studies).where(studies.c.identity_conflict)
        with self._store.reading() as connection:
            return int(connection.execute(query).scalar_one())

    def files(self, study_instance_uid: str) -> list[str]:
        """The sha256 of each file that belongs to this study alone."""
        with self._store.reading() as connection:
            return _files(connection, study_instance_uid)

    def erase(self, study_instance_uid: str) -> list[str]:
        """All rows of a study, its orders and refused messages that name them. Raise StudyNotFoundError.

        The sha256 of each of its files: one may have come after the others had been deleted.
        """
        with self._erasing() as connection:
            study = self._store.lock_study(connection, study_instance_uid)
            files = _files(connection, study_instance_uid)
            known = self._instances(connection, study_instance_uid)
            for table in (findings, jobs):
                _delete(connection, table, table.c.instance_id.in_(known))
            own_items = select(workitems.c.workitem_uid).where(workitems.c.study_instance_uid == study_instance_uid)
            uids = subscriptions.c.workitem_uid
            _delete(connection, subscriptions, uids.in_(own_items) | (uids == study["workitem_uid"]))
            for table in (instances, events, opinions, workitems, enquiries, studies):
                _delete(connection, table, table.c.study_instance_uid == study_instance_uid)
            self._erase_order(connection, study)
            self._follow(connection)
        return files

    def erase_loose(self, patient_id: str, *, dry_run: bool = False) -> Loose:
        """Orders of this patient, and refused messages that name the ID; and whatever peers asked for in the past."""
        with self._erasing() as connection:
            which = orders.c.patient_id == patient_id
            messages = self._messages(connection, [patient_id])
            if dry_run:
                query = select(func.count()).select_from(orders).where(which)
                return Loose(orders=connection.execute(query).scalar_one(), messages=len(messages))
            count = _delete(connection, orders, which)
            _delete(connection, hl7_messages, hl7_messages.c.message_id.in_(messages))
            self._forget_questions(connection)
        return Loose(orders=count, messages=len(messages))

    def compact(self) -> None:
        """SQLite alone: rewrite the file, so that nothing stands in it that was ever deleted or changed.

        Whoever writes waits meanwhile: a second for each hundred megabytes or so. Raise DatabaseError, also if
        somebody has read for so long that the write-ahead log, with traces in it, had to stay.
        """
        if self._store.backend != "sqlite":
            return
        with self._store.engine.connect() as connection:
            driver = connection.connection.driver_connection
            if driver is not None:
                _rewrite(driver)

    @contextmanager
    def _erasing(self) -> Iterator[Connection]:
        """What is deleted is overwritten on SQLite; see `compact` for what lies about from earlier changes."""
        with self._store.writing() as connection:
            if self._store.backend == "sqlite":
                connection.exec_driver_sql("PRAGMA secure_delete=ON")
            yield connection

    def _instances(self, connection: Connection, study_instance_uid: str) -> list[int]:
        own = instances.c.study_instance_uid == study_instance_uid
        return list(connection.execute(select(instances.c.instance_id).where(own)).scalars())

    def _erase_order(self, connection: Connection, study: RowMapping) -> None:
        """Of this accession number and patient; another patient's order of the same number stays."""
        number, patient = study["accession_number"], study["patient_id"]
        if number:
            patients = or_(orders.c.patient_id.in_(("", patient)), patient == "")
            _delete(connection, orders, (orders.c.accession_number == number) & patients)
            found = self._messages(connection, [number, patient] if patient else [number])
            _delete(connection, hl7_messages, hl7_messages.c.message_id.in_(found))

    def _forget_questions(self, connection: Connection) -> None:
        """Earlier versions kept them. Those that an audit repository is still to be told of stay until then."""
        asked = (accesses.c.verb == "find") & (accesses.c.details != "") & ~accesses.c.waits
        connection.execute(update(accesses).where(asked).values(details=""))

    def _messages(self, connection: Connection, words: Sequence[str]) -> list[int]:
        """Refused ones in which all of these stand as whole fields or components."""
        kept = select(hl7_messages.c.message_id, hl7_messages.c.content).where(hl7_messages.c.content.is_not(None))
        return [number for number, content in connection.execute(kept) if _stands_in(words, bytes(content))]

    def _follow(self, connection: Connection) -> None:
        """SQLite gives the highest numbers again when they are free: nobody is to have been told of them already."""
        for column, key in (
            (subscribers.c.event_id, events.c.event_id),
            (subscribers.c.instance_id, instances.c.instance_id),
        ):
            last = connection.execute(select(func.max(key))).scalar_one() or 0
            connection.execute(update(subscribers).where(column > last).values({column.name: last}))


def _rewrite(driver: Any) -> None:  # noqa: ANN401 - the driver has no types
    """Either statement waits for others, for the seconds that the connection has been given."""
    try:
        driver.execute("VACUUM")
        is_busy, *_ = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except SQLITE.OperationalError as error:
        raise OperationError("VACUUM", None, error) from None
    if is_busy:
        raise OperationError("wal_checkpoint", None, SQLITE.OperationalError("database is locked"))


def _stands_in(words: Sequence[str], content: bytes) -> bool:
    parts = set(content.replace(b"^", b"|").replace(b"~", b"|").replace(b"\r", b"|").replace(b"\n", b"|").split(b"|"))
    return all(word.encode("utf-8", "replace") in parts or word.encode("latin-1", "replace") in parts for word in words)


def _files(connection: Connection, study_instance_uid: str) -> list[str]:
    other = instances.alias()
    elsewhere = select(other.c.instance_id).where(
        other.c.sha256 == instances.c.sha256, other.c.study_instance_uid != study_instance_uid
    )
    own = (instances.c.study_instance_uid == study_instance_uid) & ~elsewhere.exists()
    return list(connection.execute(select(instances.c.sha256).where(own).distinct()).scalars())


def _delete(connection: Connection, table: Any, which: ColumnElement[bool]) -> int:  # noqa: ANN401 - any of ours
    return connection.execute(delete(table).where(which)).rowcount
