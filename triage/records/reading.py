"""The reading of studies: the worklist as the view orders it, and who reads what."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from sqlalchemy import Connection, RowMapping, Update, delete, exists, func, insert, select, tuple_, update

from triage.errors import ConflictError, Reason, StudyNotFoundError
from triage.records.history import History
from triage.records.listing import Asked, Listing
from triage.records.past import replace
from triage.records.store import Store
from triage.records.tables import IS_UNREAD, KEPT_FOR_STUDY, findings, instances, opinions, orders, studies
from triage.study import ClinicalPriority, EventKind, Opinion, Status, WorklistEntry
from triage.workitem import StepState

_EVENTS = {Status.UNREAD: EventKind.RELEASED, Status.READING: EventKind.STARTED, Status.READ: EventKind.READ}

_FILMS_MAX = 1000


class Reading:
    """Verbs of worklist viewers. Every method is one transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._history = History(store)

    @cached_property
    def listing(self) -> Listing:
        """The worklist a page at a time."""
        return Listing(self._store)

    @property
    def history(self) -> History:
        """What happened to each study."""
        return self._history

    def worklist(self, limit: int | None = None) -> list[WorklistEntry]:
        """The reading worklist in its order, from the view; all of it without ``limit``."""
        return list(self.listing.page(Asked(limit=limit)).entries)

    def study(self, study_instance_uid: str) -> dict[str, Any]:
        """All columns of one study, read or not. Raise StudyNotFoundError if it is not held."""
        query = select(studies).where(studies.c.study_instance_uid == study_instance_uid)
        with self._store.reading() as connection:
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise StudyNotFoundError("no study is held under this Study Instance UID")
        return {**row, "clinical_priority": ClinicalPriority(row["clinical_priority"]).name}

    def film_to_explain(self, study_instance_uid: str) -> str:
        """The sha256 of the study's film with the highest P(pneumonia) that is still kept. Raise StudyNotFoundError."""
        query = (
            select(instances.c.sha256)
            .join(findings, findings.c.instance_id == instances.c.instance_id)
            .where(
                instances.c.study_instance_uid == study_instance_uid,
                instances.c.pixels_deleted_at.is_(None),
                ~instances.c.quarantined,
                findings.c.p_pneumonia.is_not(None),
            )
            .order_by(findings.c.p_pneumonia.desc(), instances.c.instance_id)
            .limit(1)
        )
        with self._store.reading() as connection:
            sha256 = connection.execute(query).scalar_one_or_none()
        if sha256 is None:
            raise StudyNotFoundError("no film of this study was analysed and is still kept")
        return str(sha256)

    def films(self, study_instance_uid: str) -> list[str]:
        """The sha256 of each film that is kept, the one most likely ill first, then by arrival.

        Raise StudyNotFoundError if the study is not held.
        """
        self.study(study_instance_uid)
        likely = select(func.max(findings.c.p_pneumonia)).where(findings.c.instance_id == instances.c.instance_id)
        query = (
            select(instances.c.sha256)
            .where(
                instances.c.study_instance_uid == study_instance_uid,
                instances.c.pixels_deleted_at.is_(None),
                ~instances.c.quarantined,
            )
            .order_by(func.coalesce(likely.scalar_subquery(), -1.0).desc(), instances.c.instance_id)
            .limit(_FILMS_MAX)
        )
        with self._store.reading() as connection:
            return list(connection.execute(query).scalars())

    def count_not_analysed(self, reason: Reason) -> int:
        """Open studies that show this reason."""
        shown = IS_UNREAD & (studies.c.reason == reason)
        with self._store.reading() as connection:
            return int(connection.execute(select(func.count()).select_from(studies).where(shown)).scalar_one())

    def start_reading(self, study_instance_uid: str, reader: str) -> None:
        """Raise ConflictError if another reader holds it or it has been read."""
        with self._store.writing() as connection:
            row = self._store.lock_study(connection, study_instance_uid)
            if row["status"] == Status.READ:
                raise ConflictError("the study has been read")
            _refuse_another(row, reader)
            kept = row["transaction_uid"] if row["status"] == Status.READING else None
            self.set_status(connection, row, Status.READING, reader, transaction_uid=kept)

    def release(self, study_instance_uid: str, reader: str | None = None, *, insists: bool = False) -> None:
        """Back to unread, at its old place. Raise ConflictError if it was read, or ``reader`` is not who holds it.

        ``insists``: whoever holds it, for a reader who has gone.
        """
        with self._store.writing() as connection:
            row = self._store.lock_study(connection, study_instance_uid)
            if row["status"] == Status.READ:
                raise ConflictError("the study has been read")
            _refuse_another(row, None if insists else reader)
            self.set_status(connection, row, Status.UNREAD, None, who=reader or "")

    def close(self, study_instance_uid: str, reader: str | None = None) -> None:
        """The study has been read and leaves the worklist; closing it again changes nothing.

        Raise ConflictError if ``reader`` is not who holds it, or if images came after the reading was started: starting
        it again says that they have been seen.
        """
        with self._store.writing() as connection:
            row = self._store.lock_study(connection, study_instance_uid)
            if row["status"] == Status.READ:
                return
            _refuse_another(row, reader)
            if row["changed_while_reading"]:
                raise ConflictError("new images have arrived since the reading was started: start it again to see them")
            kept = row["transaction_uid"]
            self.set_status(connection, row, Status.READ, reader or row["reader"], transaction_uid=kept)

    def reopen(self, study_instance_uid: str, reader: str) -> None:
        """It was not read after all: back to unread, as if it had waited all the time. Raise ConflictError if it waits.

        What was found stays; its next reading is another workitem, since the one that ended has been told as such. An
        order that came meanwhile and says that it is more urgent counts.
        """
        accession_number = self.study(study_instance_uid)["accession_number"]
        with self._store.writing() as connection:
            self._store.meet(connection, accession_number, alone=False)
            row = self._store.lock_study(connection, study_instance_uid)
            if row["status"] != Status.READ:
                raise ConflictError("the study is on the worklist")
            replace(self._store, connection, row, StepState.COMPLETED)
            values = {"status": Status.UNREAD, "reader": None, "status_at": self._store.now(), "transaction_uid": None}
            connection.execute(_of(study_instance_uid).values(values))
            words = "it has not been read after all"
            self._history.note(connection, study_instance_uid, EventKind.REOPENED, who=reader, words=words)
            self._heed(connection, row)

    def _heed(self, connection: Connection, study: RowMapping) -> None:
        """The last order that was kept since the study was said to be read; it only raises."""
        latest = select(orders).where(KEPT_FOR_STUDY, orders.c.at > study["status_at"]).order_by(orders.c.at.desc())
        named = {name: study[name] for name in ("accession_number", "patient_id")}
        order = connection.execute(latest.limit(1), named).mappings().first() if named["accession_number"] else None
        if order is not None and order["clinical_priority"] < study["clinical_priority"]:
            urgency = ClinicalPriority(order["clinical_priority"])
            self.put_at(connection, study, urgency, who=order["who"], source=order["source"])

    def prioritise(self, study_instance_uid: str, clinical_priority: ClinicalPriority, who: str, source: str) -> bool:
        """What people say of the order's urgency, up or down; the analysis has no part in it. False if it was so.

        ``source``: where they said it, in words. Raise ConflictError if the study has been read.
        """
        with self._store.writing() as connection:
            row = self._store.lock_study(connection, study_instance_uid)
            if row["status"] == Status.READ:
                raise ConflictError("the study has been read")
            return self.put_at(connection, row, clinical_priority, who=who, source=source)

    def put_at(
        self, connection: Connection, study: RowMapping, clinical_priority: ClinicalPriority, *, who: str, source: str
    ) -> bool:
        """Within the caller's transaction, for a study that is open and whose row is locked. False if it was so."""
        if study["clinical_priority"] == clinical_priority:
            return False
        uid = study["study_instance_uid"]
        before = self._history.rank(connection, uid)
        connection.execute(_of(uid).values(clinical_priority=int(clinical_priority)))
        words = f"{ClinicalPriority(study['clinical_priority']).name} to {clinical_priority.name} by {source}"
        ranks = before, self._history.rank(connection, uid)
        self._history.note(connection, uid, EventKind.PRIORITISED, who=who, words=words, ranks=ranks)
        return True

    def opine(self, study_instance_uid: str, reader: str, opinion: Opinion) -> None:
        """A reader's word on the analysis, instead of an earlier one. Raise ConflictError if there is no analysis."""
        with self._store.writing() as connection:
            row = self._store.lock_study(connection, study_instance_uid)
            if row["p_pneumonia"] is None:
                raise ConflictError("the study was not analysed")
            key = {"study_instance_uid": study_instance_uid, "episode": row["episode"], "reader": reader[:64]}
            same = [opinions.c[name] == value for name, value in key.items()]
            connection.execute(delete(opinions).where(*same))
            said = {name: row[name] for name in ("flagged", "policy_version")}
            connection.execute(insert(opinions).values(**key, **said, opinion=opinion, at=self._store.now()))
            self._history.note(connection, study_instance_uid, EventKind.OPINION, who=reader, words=opinion.value)

    def opinion_of(self, study_instance_uid: str, reader: str) -> Opinion | None:
        """A reader's own word on the analysis, of the reading that is open or was last."""
        mine = (opinions.c.study_instance_uid == study_instance_uid) & (opinions.c.reader == reader[:64])
        same = studies.c.study_instance_uid == opinions.c.study_instance_uid
        query = select(opinions.c.opinion).join(studies, same & (studies.c.episode == opinions.c.episode)).where(mine)
        with self._store.reading() as connection:
            found = connection.execute(query).scalar_one_or_none()
        return None if found is None else Opinion(found)

    def opinions(self) -> dict[Opinion, int]:
        """Of flagged studies: how often readers agreed, disagreed or were unsure.

        Of each reading the last word: two readers of one film are not two films.
        """
        later = opinions.alias("later")
        same = (later.c.study_instance_uid == opinions.c.study_instance_uid) & (later.c.episode == opinions.c.episode)
        is_later = tuple_(later.c.at, later.c.reader) > tuple_(opinions.c.at, opinions.c.reader)
        last = opinions.c.flagged & ~exists().where(same, is_later)
        said = select(opinions.c.opinion, func.count()).where(last).group_by(opinions.c.opinion)
        with self._store.reading() as connection:
            found: dict[str, int] = {row[0]: row[1] for row in connection.execute(said)}
        return {opinion: found.get(opinion.value, 0) for opinion in Opinion}

    def set_status(
        self,
        connection: Connection,
        row: RowMapping,
        status: Status,
        reader: str | None,
        *,
        who: str | None = None,
        transaction_uid: str | None = None,
    ) -> None:
        """``row``: of the study, locked. ``who``: of the event, if not the reader. ``transaction_uid``: the claim's."""
        uid = row["study_instance_uid"]
        values = {"status": status, "reader": reader, "status_at": self._store.now(), "changed_while_reading": False}
        connection.execute(_of(uid).values(values | {"transaction_uid": transaction_uid}))
        told = (reader or "") if who is None else who
        self._history.note(connection, uid, _EVENTS[status], who=told)
        if status is Status.UNREAD and row["status"] == Status.READING:
            replace(self._store, connection, row, StepState.CANCELED)


def _of(study_instance_uid: str) -> Update:
    return update(studies).where(studies.c.study_instance_uid == study_instance_uid)


def _refuse_another(row: RowMapping, reader: str | None) -> None:
    if reader and row["status"] == Status.READING and row["reader"] != reader:
        raise ConflictError("another reader holds the study")
