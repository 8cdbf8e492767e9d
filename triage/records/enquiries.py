"""What the modality worklist is asked: the urgency of studies of which nobody has said anything yet."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, exists, insert, or_, select, update

from triage.order import Word
from triage.records.reading import Reading
from triage.records.store import Store
from triage.records.tables import IS_UNREAD, enquiries, events, orders, studies
from triage.study import ClinicalPriority, EventKind

# A study is asked for when it has come, and again so many seconds later: orders are entered late, too.
AGAIN_SECONDS = (60.0, 900.0)
ASKED_MAX = 1 + len(AGAIN_SECONDS)
# Nobody else asks for a study meanwhile; whoever asks and dies is replaced after this.
_LEASE_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Enquiry:
    """One study to ask for."""

    study_instance_uid: str
    accession_number: str = field(repr=False)
    patient_id: str = field(repr=False)
    asked: int


class Enquiries:
    """Every method is one transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reading = Reading(store)

    def claim(self, most: int) -> list[Enquiry]:
        """The studies that have waited longest, for the caller alone for a minute."""
        query = (
            select(studies, enquiries.c.asked)
            .outerjoin(enquiries, enquiries.c.study_instance_uid == studies.c.study_instance_uid)
            .where(*_nobody_has_spoken(), or_(enquiries.c.asked.is_(None), self._is_due()))
            .order_by(studies.c.waiting_since)
            .limit(most)
        )
        with self._store.writing() as connection:
            rows = connection.execute(query.with_for_update(of=studies, skip_locked=True)).mappings().all()
            lease = {"next_at": self._store.after(_LEASE_SECONDS)}
            for row in rows:
                uid = row["study_instance_uid"]
                if row["asked"] is None:
                    connection.execute(insert(enquiries).values(study_instance_uid=uid, asked=0, **lease))
                else:
                    connection.execute(update(enquiries).where(_own(uid)).values(lease))
        return [_enquiry(dict(row)) for row in rows]

    def _is_due(self) -> ColumnElement[bool]:
        return (enquiries.c.asked < ASKED_MAX) & (enquiries.c.next_at <= self._store.now())

    def answer(self, enquiry: Enquiry, clinical_priority: ClinicalPriority | None, word: Word) -> bool:
        """What it said, None for nothing. Whether the study has moved: whoever spoke meanwhile has the last word."""
        uid = enquiry.study_instance_uid
        asked = ASKED_MAX if clinical_priority is not None else enquiry.asked + 1
        wait = AGAIN_SECONDS[min(asked, len(AGAIN_SECONDS)) - 1]
        values = {"asked": asked, "next_at": self._store.after(wait)}
        with self._store.writing() as connection:
            self._store.meet(connection, enquiry.accession_number, alone=True)
            connection.execute(update(enquiries).where(_own(uid)).values(values))
            if clinical_priority is None:
                return False
            unsaid = select(studies).where(studies.c.study_instance_uid == uid, *_nobody_has_spoken())
            study = connection.execute(unsaid.with_for_update(of=studies)).mappings().one_or_none()
            return study is not None and self._reading.put_at(
                connection, study, clinical_priority, who=word.who, source=word.source
            )

    def put_back(self, claimed: list[Enquiry], seconds: float = 0.0) -> None:
        """The modality worklist did not answer: they can be asked for again, as often as before, after so long."""
        uids = [each.study_instance_uid for each in claimed]
        with self._store.writing() as connection:
            own = enquiries.c.study_instance_uid.in_(uids)
            connection.execute(update(enquiries).where(own).values(next_at=self._store.after(seconds)))


def _nobody_has_spoken() -> list[ColumnElement[bool]]:
    """Of open studies: neither the object, nor an order, nor anybody by another way."""
    patients = or_(orders.c.patient_id.in_(("", studies.c.patient_id)), studies.c.patient_id == "")
    ordered = exists().where(orders.c.accession_number == studies.c.accession_number, patients)
    told = exists().where(
        events.c.study_instance_uid == studies.c.study_instance_uid,
        events.c.kind == EventKind.PRIORITISED,
        events.c.who != "",
    )
    return [
        IS_UNREAD,
        studies.c.clinical_priority == int(ClinicalPriority.ROUTINE),
        studies.c.accession_number != "",
        ~ordered,
        ~told,
    ]


def _own(study_instance_uid: str) -> ColumnElement[bool]:
    return enquiries.c.study_instance_uid == study_instance_uid


def _enquiry(row: dict[str, object]) -> Enquiry:
    return Enquiry(
        study_instance_uid=str(row["study_instance_uid"]),
        accession_number=str(row["accession_number"]),
        patient_id=str(row["patient_id"]),
        asked=int(str(row["asked"] or 0)),
    )
