"""Why an instance has no finding, in one table; and the errors a caller is expected to catch."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """Code and words for "not analysed". A missing analysis is never a negative one.

    The codes are part of the interface (worklist, SQL view, logs): never rename one.
    """

    words: str

    def __new__(cls, code: str, words: str = "") -> Self:
        member = str.__new__(cls, code)
        member._value_ = code
        member.words = words
        return member

    # Is it for us? Judged from the attributes, before any pixel is decoded.
    UNSUPPORTED_SOP_CLASS = "unsupported_sop_class", "not a kind of object the classifier reads"
    UNSUPPORTED_MODALITY = "unsupported_modality", "not a plain radiograph"
    FOR_PROCESSING = "for_processing", "raw detector image, not for presentation"
    NOT_CHEST_FRONTAL = "not_chest_frontal", "not a frontal chest film"
    BODY_PART_UNKNOWN = "body_part_unknown", "body part not stated"
    VIEW_UNKNOWN = "view_unknown", "projection not stated"
    AGE_OUT_OF_RANGE = "age_out_of_range", "age outside the validated range"
    AGE_UNKNOWN = "age_unknown", "age not stated"
    # Is it still there, as it came? Found while reading it back.
    PIXELS_UNREADABLE = "pixels_unreadable", "stored file cannot be read just now"
    PIXELS_DAMAGED = "pixels_damaged", "stored file missing or altered"
    # Can it be seen? Found while decoding.
    MISSING_PIXELS = "missing_pixels", "no image in the object"
    BAD_PIXELS = "bad_pixels", "image inconsistent, blank or saturated"
    TOO_LARGE = "too_large", "image larger than the limit"
    UNSUPPORTED_SYNTAX = "unsupported_syntax", "compression not supported"
    DECODE_ERROR = "decode_error", "file cannot be decoded"
    DECODE_CRASH = "decode_crash", "decoder crashed on this file"
    DECODE_TIMEOUT = "decode_timeout", "decoder exceeded its time limit"
    # Could it be judged?
    NOT_A_CHEST_FILM = "not_a_chest_film", "image does not look like a frontal chest film"
    MODEL_UNAVAILABLE = "model_unavailable", "classifier not available"
    MODEL_OUTPUT_INVALID = "model_output_invalid", "classifier gave no valid answer"
    RESOURCE_EXHAUSTED = "resource_exhausted", "not enough memory"
    TIMEOUT = "timeout", "no answer within the time limit"
    INTERNAL_ERROR = "internal_error", "analysis failed repeatedly"
    # Is it itself?
    IDENTITY_CONFLICT = "identity_conflict", "identifiers missing or contradictory"
    QUARANTINED = "quarantined", "object set aside, could not be stored as sent"


class NotAnalysed(Exception):  # noqa: N818 - an outcome, not a fault of the program
    """This instance gets no finding. Carries a reason and no text of the data set: it may be logged."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class TriageError(Exception):
    """Something a person has to mend; the text says what, and holds no patient data."""


class CardMismatchError(TriageError):
    """Weights, card and code do not belong together."""


class SettingsError(TriageError):
    """A setting is unknown or makes no sense; the text names it."""


class StudyNotFoundError(TriageError):
    """No study is held under this Study Instance UID."""


class ConflictError(TriageError):
    """The study's status does not allow this change, e.g. another reader holds it."""


class CursorError(TriageError):
    """A page cannot go on from there."""


class BusyError(TriageError):
    """It cannot be had just now; the same request may succeed later."""


class LostLeaseError(TriageError):
    """The lease ran out or was given to another worker: the result must be dropped."""
