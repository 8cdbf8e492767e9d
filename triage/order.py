"""What people say of a study's urgency before or after it comes: orders, and the words and codes for urgency."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from triage.study import ClinicalPriority

_STAT, _URGENT, _ROUTINE = ClinicalPriority.STAT, ClinicalPriority.URGENT, ClinicalPriority.ROUTINE

# DICOM's terms are STAT, HIGH, ROUTINE, MEDIUM, LOW (PS3.3 C.4.11); many systems send HL7's (table 0485) or words.
RAISING = dict.fromkeys(("STAT", "S", "EMERGENCY", "EMERGENT"), _STAT) | dict.fromkeys(
    ("HIGH", "URGENT", "ASAP", "A"), _URGENT
)
# HL7 table 0485 and its forerunner 0027. Timing critical and pre-operative have a time by which they must be read.
_CODES = {
    **RAISING,
    **dict.fromkeys(("T", "P"), _URGENT),
    **dict.fromkeys(("R", "ROUTINE", "MEDIUM", "LOW", "C", "PRN"), _ROUTINE),
}


def priority_of(code: str) -> ClinicalPriority | None:
    """What an order's code for its priority means; None if it means nothing to us."""
    return _CODES.get(code.strip().upper())


@dataclass(frozen=True, kw_only=True)
class Order:
    """What one order says. ``clinical_priority`` is None where it says nothing of it.

    ``cancelled``: images that have not come are not expected any more; those that have come must still be read.
    """

    accession_number: str = field(repr=False)
    patient_id: str = field(default="", repr=False)
    clinical_priority: ClinicalPriority | None = None
    cancelled: bool = False


@dataclass(frozen=True, kw_only=True)
class Word:
    """Who says it, and by which way it came, in words: both are shown in the study's history."""

    who: str
    source: str


@dataclass(frozen=True, kw_only=True)
class KeptOrder:
    """The last word of an order whose images have not come. ``at``: when it was said."""

    accession_number: str = field(repr=False)
    patient_id: str = field(repr=False)
    clinical_priority: str
    who: str
    source: str
    at: datetime


@dataclass(frozen=True, kw_only=True)
class RefusedMessage:
    """A message that could not be used, as people list it; ``content`` is the message itself, with patient data."""

    message_id: int
    at: str
    who: str
    address: str
    answer: str
    problem: str
    times: int
    content: bytes = field(repr=False)
