"""Asks a modality worklist (PS3.4 annex K) how urgent an order is, by its accession number."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import ModalityWorklistInformationFind  # type: ignore[attr-defined]  # made at import

from daemon.dicom.silence import silence_libraries
from triage.order import priority_of
from triage.study import ClinicalPriority

# Short String (PS3.5 6.2); what is longer, or would be a pattern (PS3.4 C.2.2.2), is nothing that a provider can match.
_ACCESSION_CHARACTERS_MAX = 16
_PATTERN = frozenset("*?\\")
_ANSWERS_MAX = 50
_PENDING = {0xFF00, 0xFF01}


class UnavailableError(Exception):
    """The provider did not answer, or not as the standard has it."""


@dataclass(frozen=True, kw_only=True)
class ModalityWorklist:
    """One provider. ``seconds``: a limit to each step of the dialogue, and to all answers about one order.

    ``tls``: what it is asked over, and has to show a certificate for ``host``.
    """

    ae_title: str
    peer_ae_title: str
    host: str
    port: int
    seconds: float
    tls: Callable[[], ssl.SSLContext] | None = None

    @contextmanager
    def asking(self) -> Iterator[Association]:
        """Raise UnavailableError if no association can be had."""
        silence_libraries()
        ae = AE(self.ae_title)
        ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = self.seconds
        ae.add_requested_context(ModalityWorklistInformationFind, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        secure = (self.tls(), self.host) if self.tls else None
        association = ae.associate(self.host, self.port, ae_title=self.peer_ae_title, tls_args=secure)
        if not association.is_established:
            raise UnavailableError
        try:
            yield association
        finally:
            if association.is_established:
                association.release()
            association.join(self.seconds)

    def priority(self, association: Association, accession_number: str, patient_id: str) -> ClinicalPriority | None:
        """The most urgent that an entry of this order, and patient where both are named, states. None if none does.

        Raise UnavailableError if it does not answer.
        """
        if not _can_be_asked(accession_number):
            return None
        stated = [
            priority_of(_text(entry, "RequestedProcedurePriority"))
            for entry in self._entries(association, _query(accession_number))
            if _is_of(entry, accession_number, patient_id)
        ]
        return min((priority for priority in stated if priority is not None), default=None)

    def _entries(self, association: Association, query: Dataset) -> Sequence[Dataset]:
        found: list[Dataset] = []
        deadline = time.monotonic() + self.seconds
        for status, identifier in association.send_c_find(query, ModalityWorklistInformationFind):
            code = status.get("Status")
            if code is None or time.monotonic() > deadline or len(found) > _ANSWERS_MAX:
                association.abort()
                raise UnavailableError
            if code in _PENDING and identifier is not None:
                found.append(identifier)
        return found


def _can_be_asked(accession_number: str) -> bool:
    is_plain = accession_number.isascii() and accession_number.isprintable()
    return is_plain and len(accession_number) <= _ACCESSION_CHARACTERS_MAX and not _PATTERN & set(accession_number)


def _query(accession_number: str) -> Dataset:
    """The key, and what is to be returned (PS3.4 table K.6-1)."""
    step = Dataset()
    for keyword in (
        "Modality",
        "ScheduledStationAETitle",
        "ScheduledProcedureStepStartDate",
        "ScheduledProcedureStepID",
    ):
        setattr(step, keyword, "")
    query = Dataset()
    query.AccessionNumber = accession_number
    for keyword in ("PatientID", "RequestedProcedureID", "RequestedProcedurePriority"):
        setattr(query, keyword, "")
    query.ScheduledProcedureStepSequence = [step]
    return query


def _is_of(entry: Dataset, accession_number: str, patient_id: str) -> bool:
    """A provider that does not know the key returns everything."""
    patient = _text(entry, "PatientID")
    same_patient = not patient or not patient_id or patient == patient_id
    return _text(entry, "AccessionNumber") == accession_number and same_patient


def _text(entry: Dataset, keyword: str) -> str:
    try:
        value: Any = entry.get(keyword)
    except Exception:  # noqa: BLE001 - whatever its value is, it is not one that can be used
        return ""
    return "" if value is None else str(value).strip()
