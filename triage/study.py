"""The nouns: header, instance, image, finding, priority, entry. DICOM keywords (PS3.6) in snake_case.

Fields that could identify a patient have ``repr=False``, so that no traceback or log line shows them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from triage.errors import Reason


class ClinicalPriority(IntEnum):
    """Priority of the order, set by people; the analysis never changes it. Smaller is read first."""

    STAT = 0
    URGENT = 1
    ROUTINE = 2


class Status(StrEnum):
    """Where the reading of a study stands."""

    UNREAD = "unread"
    READING = "reading"
    READ = "read"


class EventKind(StrEnum):
    """What can happen to a study."""

    RECEIVED = "received"
    ANALYSED = "analysed"
    NOT_ANALYSED = "not_analysed"
    REQUEUED = "requeued"
    PRIORITISED = "prioritised"
    REOPENED = "reopened"
    OPENED = "opened"
    STARTED = "started"
    RELEASED = "released"
    READ = "read"
    OVERDUE = "overdue"
    PROGRESSED = "progressed"
    OPINION = "opinion"
    CANCEL_ASKED = "cancel_asked"
    # What a later version has written and this one, put back, does not know.
    OTHER = "other"

    @classmethod
    def _missing_(cls, value: object) -> EventKind:
        del value
        return cls.OTHER


class Opinion(StrEnum):
    """What a reader thinks of the analysis of a study."""

    AGREE = "agree"
    DISAGREE = "disagree"
    UNSURE = "unsure"


class Analysis(StrEnum):
    """Where the analysis of a study stands."""

    PENDING = "pending"
    ANALYSED = "analysed"
    NOT_ANALYSED = "not_analysed"


class Tier(StrEnum):
    """What the reader is told instead of a raw probability."""

    LIKELY = "likely"
    POSSIBLE = "possible"
    UNLIKELY = "unlikely"


class Etiology(StrEnum):
    """Shown muted and with a caveat; never part of the order (not reliable on films)."""

    BACTERIAL = "bacterial"
    VIRAL = "viral"


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a data set says of itself, without pixels. Text as received, "" where absent.

    ``age_years`` comes from PatientAge, else from PatientBirthDate and the study's date; None if neither can be read.
    ``body_part_examined`` and ``view_position`` come from their code sequences where they are empty: as the defined
    term of a code that is known, else as SCHEME:VALUE.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str = ""
    transfer_syntax_uid: str = ""
    modality: str = ""
    body_part_examined: str = ""
    view_position: str = ""
    presentation_intent_type: str = ""
    age_years: float | None = None
    clinical_priority: ClinicalPriority = ClinicalPriority.ROUTINE
    study_date: str = field(default="", repr=False)
    study_description: str = field(default="", repr=False)
    accession_number: str = field(default="", repr=False)
    patient_id: str = field(default="", repr=False)
    patient_name: str = field(default="", repr=False)
    patient_birth_date: str = field(default="", repr=False)
    patient_sex: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class ReceivedInstance:
    """One SOP instance, durable on disk under the sha256 of its file, not yet in the database."""

    header: Header
    sha256: str
    size_bytes: int
    calling_ae: str = ""
    quarantined: bool = False
    # Set where the object can be kept but not analysed (another SOP class, no usable identifiers).
    not_analysed: Reason | None = None
    # By the database's clock, where it was not listed when it came: its study has waited since then.
    arrived_at: datetime | None = None
    # It was found, not sent: it may have been read since, so that its limit begins when it is listed.
    found: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class PixelImage:
    """A film as the network may see it: float32 (H, W) in [0, 1], bright = dense.

    ``whole``: rows and columns of the film itself, where each of ``pixels`` is the mean over a block of its pixels.
    """

    pixels: NDArray[np.float32] = field(repr=False)
    whole: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the film itself."""
        rows, columns = self.whole or self.pixels.shape
        return rows, columns

    @property
    def sides(self) -> tuple[float, float]:
        """Height and width of the film in ``pixels``; the last row and column may lie on it in part."""
        rows, columns = (whole / -(-whole // left) for whole, left in zip(self.shape, self.pixels.shape, strict=True))
        return rows, columns


class Explanation(StrEnum):
    """How it is shown what moved the network: superpixels outlined, the same by strength, or a gradient."""

    SUPERPIXELS = "superpixels"
    HEAT = "heat"
    GRADIENT = "gradient"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the analysis has to say of one instance: probabilities in [0, 1] that sum to 1, or a reason.

    ``weights_sha256`` names the network that was loaded, "" if none was.
    """

    weights_sha256: str = ""
    p_normal: float | None = None
    p_bacterial: float | None = None
    p_viral: float | None = None
    reason: Reason | None = None

    @property
    def p_pneumonia(self) -> float | None:
        """1 - P(normal); None if not analysed."""
        return None if self.p_normal is None else 1.0 - self.p_normal


@dataclass(frozen=True, kw_only=True)
class Priority:
    """What a finding does to its study. ``words`` is what the reader sees under "why here?"."""

    analysis: Analysis
    flagged: bool = False
    tier: Tier | None = None
    etiology: Etiology | None = None
    p_pneumonia: float | None = None
    reason: Reason | None = None
    words: str
    policy_version: str


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a study. ``who``: user, application entity or program; "" for the daemon itself.

    The ranks are given where the event moved the study on the worklist.
    """

    event_id: int | None
    at: datetime
    kind: EventKind
    who: str = field(default="", repr=False)
    words: str = ""
    rank_from: int | None = None
    rank_to: int | None = None


@dataclass(frozen=True, kw_only=True)
class WorklistEntry:
    """One row of the ``reading_worklist`` view: names and order of fields are those of its columns."""

    rank: int
    study_instance_uid: str = field(repr=False)
    accession_number: str = field(repr=False)
    patient_id: str = field(repr=False)
    patient_name: str = field(repr=False)
    patient_birth_date: str = field(repr=False)
    patient_sex: str = field(repr=False)
    age_years: float | None
    modality: str
    study_date: str = field(repr=False)
    study_description: str = field(repr=False)
    received_at: datetime
    waiting_since: datetime
    waiting_seconds: int
    clinical_priority: str
    status: str
    reader: str | None = field(repr=False)
    analysis: str
    reason: str | None
    flagged: bool
    overdue: bool
    tier: str | None
    etiology: str | None
    p_pneumonia: float | None
    identity_conflict: bool
    why: str


# Any UUID will do, as long as it stays: workitems are known to others by what is derived from it.
_WORKITEMS = UUID("6f0f3c1e-8d53-4f0c-9a55-7a0b3c1d2e4f")


def workitem_uid(study_instance_uid: str, episode: int) -> str:
    """UID of the Unified Procedure Step that stands for one reading of a study (PS3.5 B.2: 2.25 and a UUID)."""
    return f"2.25.{uuid5(_WORKITEMS, f'{study_instance_uid} {episode}').int}"
