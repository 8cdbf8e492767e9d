"""Asks the modality worklist for the urgency of studies of which nobody has said anything, at a pace of its own."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from daemon.absence import Absence
from daemon.dicom.enquiry import ModalityWorklist, UnavailableError
from daemon.metrics import ORDER_ENQUIRIES
from daemon.telemetry import Pseudonym, describe, log
from triage.order import Word
from triage.records.enquiries import Enquiries
from triage.records.store import DatabaseError

STUDIES_A_TURN = 20
SOURCE = "the modality worklist"
PAUSE_SECONDS_MAX = 300.0
ASIDE_SECONDS = 300.0


@dataclass(kw_only=True)
class Enquirer:
    """One thread. While the provider is away the pause between turns doubles, up to five minutes."""

    enquiries: Enquiries
    worklist: ModalityWorklist
    pseudonym: Pseudonym
    absence: Absence
    seconds: float
    _failures: int = 0
    _since: float = field(default_factory=time.monotonic)

    def run(self, stop: threading.Event) -> None:
        pause = 0.0
        while not stop.wait(pause):
            self.absence.beat()
            try:
                self._turn(stop)
                self.absence.over()
                pause = self._is_there()
            except UnavailableError:
                pause = self._is_away()
            except DatabaseError as error:
                self.absence.noticed(error)
                pause = self.seconds
            except Exception as error:  # noqa: BLE001 - a provider that nobody has foreseen ends nothing
                log().error("enquiry_failed", **describe(error))
                pause = self._is_away()

    def _turn(self, stop: threading.Event) -> None:
        waiting = self.enquiries.claim(STUDIES_A_TURN)
        if not waiting:
            return
        try:
            with self.worklist.asking() as association:
                while waiting and not stop.is_set():
                    study = waiting[0]
                    try:
                        said = self.worklist.priority(association, study.accession_number, study.patient_id)
                    except UnavailableError:
                        self.enquiries.put_back([waiting.pop(0)], ASIDE_SECONDS)  # others come before it next time
                        raise
                    moved = self.enquiries.answer(study, said, Word(who=self.worklist.peer_ae_title, source=SOURCE))
                    waiting.pop(0)
                    ORDER_ENQUIRIES.labels("answered").inc()
                    told = "nothing" if said is None else said.name
                    name = self.pseudonym(study.study_instance_uid)
                    log().info("order_enquiry", study=name, outcome=told, count=int(moved))
        finally:
            if waiting:
                self.enquiries.put_back(waiting)

    def _is_there(self) -> float:
        if self._failures:
            log().warning("modality_worklist_back", seconds=time.monotonic() - self._since, count=self._failures)
        self._failures = 0
        return self.seconds

    def _is_away(self) -> float:
        ORDER_ENQUIRIES.labels("failed").inc()
        if not self._failures:
            self._since = time.monotonic()
            log().error("modality_worklist_unavailable", host=self.worklist.host, port=self.worklist.port)
        self._failures += 1
        return float(min(self.seconds * 2.0 ** min(self._failures, 16), PAUSE_SECONDS_MAX))
