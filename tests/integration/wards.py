"""A site with a few studies, and a peer that speaks Unified Procedure Step: pynetdicom's own messages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from listening import USUAL, Site, listening
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association
from sqlalchemy import Engine

from daemon.dicom.finding import Finding
from daemon.dicom.ups import Ups
from daemon.telemetry import Pseudonym
from making import POLICY, received
from triage.records.intake import Intake
from triage.records.reading import Reading
from triage.records.store import Store
from triage.records.subscriptions import Subscriptions
from triage.records.workitems import Workitems
from triage.study import ClinicalPriority

PUSH, WATCH, PULL, EVENT, QUERY = (f"1.2.840.10008.5.1.4.34.6.{number}" for number in (1, 2, 3, 4, 5))
BOTH = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
CONTEXTS = (*USUAL, *((uid, BOTH) for uid in (PUSH, WATCH, PULL, QUERY)))
ALL = "1.2.840.10008.5.1.4.34.5"
PENDING = {0xFF00, 0xFF01}


def keys(**values: Any) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


@dataclass
class Peer:
    """One association."""

    association: Association

    def calm(self) -> Association:
        """With its own thread at rest: pynetdicom 3.0.4 may else take an answer away before its caller sees it."""
        self.association._reactor_checkpoint.clear()
        time.sleep(0.02)
        return self.association

    def find(self, model: str = PULL, **values: Any) -> list[Dataset]:
        return self.ask(keys(**values), model)[1]

    def ask(self, identifier: Dataset, model: str = PULL) -> tuple[list[int], list[Dataset]]:
        """Statuses, identifiers."""
        answers = list(self.calm().send_c_find(identifier, model))
        return [status.Status for status, _ in answers], [each for _, each in answers if each is not None]

    def uids(self, **values: Any) -> list[str]:
        return [str(each.SOPInstanceUID) for each in self.find(**values)]

    def get(self, uid: str, tags: list[int] | None = None) -> tuple[int, Dataset | None]:
        status, found = self.calm().send_n_get(tags or [], PUSH, uid, meta_uid=PULL)
        return status.Status, found

    def change(self, uid: str, state: str, transaction_uid: str | None) -> int:
        info = keys(ProcedureStepState=state)
        if transaction_uid is not None:
            info.TransactionUID = transaction_uid
        return int(self.calm().send_n_action(info, 1, PUSH, uid, meta_uid=PULL)[0].Status)

    def set(self, uid: str, **values: Any) -> int:
        return int(self.calm().send_n_set(keys(**values), PUSH, uid, meta_uid=PULL)[0].Status)

    def watch(self, action: int, uid: str, **values: Any) -> int:
        info = keys(**values) if values else None
        return int(self.calm().send_n_action(info, action, PUSH, uid, meta_uid=WATCH)[0].Status)

    def state(self, uid: str) -> str:
        _, found = self.get(uid)
        return "" if found is None else str(found.ProcedureStepState)


@dataclass
class Ward:
    """The records, and a listener that serves them."""

    store: Store
    intake: Intake
    reading: Reading
    workitems: Workitems
    subscriptions: Subscriptions
    finding: Finding
    site: Site

    @contextmanager
    def peer(self, calling: str = "VIEWER") -> Iterator[Peer]:
        with self.site.associate(*CONTEXTS, calling=calling) as association:
            yield Peer(association)


@contextmanager
def ward(engine: Engine, folder: Path, *, most: int = 500) -> Iterator[Ward]:
    """Studies 1.2.1 to 1.2.4 came in this order; 1.2.2 is urgent, 1.2.3 STAT."""
    store = Store(engine)
    intake, reading = Intake(store, POLICY), Reading(store)
    for number in (1, 2, 3, 4):
        intake.receive(received(number, series_instance_uid=f"1.2.{number}.7", study_description=f"CHEST {number}"))
    reading.prioritise("1.2.2", ClinicalPriority.URGENT, "ris", "order")
    reading.prioritise("1.2.3", ClinicalPriority.STAT, "ris", "order")
    workitems, subscriptions = Workitems(store, reading), Subscriptions(store)
    finding = Finding(workitems=workitems, most=most)
    ups = Ups(workitems=workitems, subscriptions=subscriptions, finding=finding, pseudonym=Pseudonym(folder))
    patient = {"pdu_seconds": 20, "acse_seconds": 20, "idle_seconds": 60, "dimse_seconds": 60}
    with listening(handlers=ups.handlers(), **patient) as site:
        yield Ward(store, intake, reading, workitems, subscriptions, finding, site)
