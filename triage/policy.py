"""Which film is for us, which finding makes which priority, and the words the reader sees.

Clinical content lives here and in the card, never in the environment. A policy has a version, stored with every
priority it made. Nothing in here can lower a study: `combine` takes the highest so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from triage.card import Card, Population
from triage.errors import Reason, SettingsError
from triage.study import Analysis, Etiology, Finding, Header, Priority, Tier

DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"  # Digital X-Ray Image Storage - For Processing
ANALYSED_SOP_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography Image Storage
        "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray Image Storage - For Presentation
        DX_FOR_PROCESSING,
        "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture Image Storage
    }
)
# Objects without an image of their own: they never reopen a study that has been read (PS3.4 B.5 lists the classes).
_NON_IMAGES = ("11.", "88.", "104.", "66", "67", "9.", "90.1", "481.3", "481.5", "481.8", "481.9")
NON_IMAGE_SOP_CLASSES = tuple("1.2.840.10008.5.1.4.1.1." + branch for branch in _NON_IMAGES)
UNKNOWNS = {"age": Reason.AGE_UNKNOWN, "view": Reason.VIEW_UNKNOWN, "body_part": Reason.BODY_PART_UNKNOWN}


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a site may decide. ``waiting_limit_minutes`` below the usual 90th percentile of waits undoes the triage.

    ``accept_unknown`` lists what a film may leave unsaid: "age", "view", "body_part". ``threshold`` replaces the
    card's and must not be above it: a site may ask for more flags, never hide what the card would flag.
    """

    version: str = "default-1"
    waiting_limit_minutes: int = 240
    accept_unknown: tuple[str, ...] = ()
    threshold: float | None = None

    def __post_init__(self) -> None:
        unknown = set(self.accept_unknown) - set(UNKNOWNS)
        if unknown:
            raise SettingsError(f"policy accept_unknown: {sorted(unknown)} is not among {sorted(UNKNOWNS)}")
        if not 1 <= self.waiting_limit_minutes <= 7 * 24 * 60:
            raise SettingsError("policy waiting_limit_minutes: must be between 1 and 10080")
        if self.threshold is not None and not 0.0 < self.threshold < 1.0:
            raise SettingsError("policy threshold: must lie between 0 and 1")
        if not self.version or len(self.version) > 64:  # noqa: PLR2004 - width of the column
            raise SettingsError("policy version: must be 1 to 64 characters")


def gate(header: Header, *, population: Population, policy: Policy) -> Reason | None:
    """Why this film is not for the classifier, judged from its attributes alone; None if it is."""
    if header.sop_class_uid not in ANALYSED_SOP_CLASSES:
        return Reason.UNSUPPORTED_SOP_CLASS
    if header.sop_class_uid == DX_FOR_PROCESSING or header.presentation_intent_type == "FOR PROCESSING":
        return Reason.FOR_PROCESSING
    if header.modality not in population.modalities:
        return Reason.UNSUPPORTED_MODALITY
    reasons = (_body_part(header, population), _view(header, population), _age(header, population))
    accepted = {UNKNOWNS[name] for name in policy.accept_unknown}
    return next((reason for reason in reasons if reason and reason not in accepted), None)


def _body_part(header: Header, population: Population) -> Reason | None:
    if not header.body_part_examined:
        return Reason.BODY_PART_UNKNOWN
    return None if header.body_part_examined in population.body_parts else Reason.NOT_CHEST_FRONTAL


def _view(header: Header, population: Population) -> Reason | None:
    if not header.view_position:
        return Reason.VIEW_UNKNOWN
    return None if header.view_position in population.views else Reason.NOT_CHEST_FRONTAL


def _age(header: Header, population: Population) -> Reason | None:
    if header.age_years is None:
        return Reason.AGE_UNKNOWN
    inside = population.age_min_years <= header.age_years <= population.age_max_years
    return None if inside else Reason.AGE_OUT_OF_RANGE


def judge(finding: Finding, *, card: Card | None, policy: Policy) -> Priority:
    """What one finding asks for. ``card`` belongs to the weights that made it; None only without probabilities."""
    probability = finding.p_pneumonia
    if probability is None or card is None:
        return not_analysed(finding.reason or Reason.MODEL_UNAVAILABLE, policy)
    threshold = min(card.threshold, policy.threshold or card.threshold)
    flagged = probability >= threshold
    tier = Tier.UNLIKELY
    if flagged:
        tier = Tier.LIKELY if probability >= card.likely_threshold else Tier.POSSIBLE
    bacterial, viral = finding.p_bacterial or 0.0, finding.p_viral or 0.0
    return Priority(
        analysis=Analysis.ANALYSED,
        flagged=flagged,
        tier=tier,
        etiology=(Etiology.BACTERIAL if bacterial >= viral else Etiology.VIRAL) if flagged else None,
        p_pneumonia=probability,
        words=f"flagged: pneumonia {tier}" if flagged else "analysed, not flagged",
        policy_version=policy.version,
    )


def not_analysed(reason: Reason, policy: Policy) -> Priority:
    """Never a negative finding: the study keeps its place by arrival."""
    words = f"not analysed: {reason.words}"
    return Priority(analysis=Analysis.NOT_ANALYSED, reason=reason, words=words, policy_version=policy.version)


def pending(policy: Policy) -> Priority:
    """A study from the moment it is received."""
    return Priority(analysis=Analysis.PENDING, words="not yet analysed", policy_version=policy.version)


def combine(priorities: Sequence[Priority], open_jobs: int, policy: Policy) -> Priority:
    """The priority of a study from those of its instances: the highest so far, whatever the order of arrival.

    A flag counts at once. "Not flagged" is said only when every film has been looked at, and says how many were not.
    """
    analysed = [p for p in priorities if p.analysis is Analysis.ANALYSED]
    others = [p for p in priorities if p.analysis is Analysis.NOT_ANALYSED]
    best = max(analysed, key=lambda p: (p.flagged, p.p_pneumonia or 0.0), default=None)
    if best and best.flagged:
        return best
    if open_jobs:
        return pending(policy)
    if best:
        return best if not others else _partly(best, len(others), len(priorities))
    if others:
        return max(others, key=lambda p: list(Reason).index(p.reason or Reason.INTERNAL_ERROR))
    return not_analysed(Reason.MISSING_PIXELS, policy)


def _partly(best: Priority, missing: int, total: int) -> Priority:
    return Priority(
        analysis=best.analysis,
        tier=best.tier,
        p_pneumonia=best.p_pneumonia,
        words=f"{best.words} ({missing} of {total} objects not analysed)",
        policy_version=best.policy_version,
    )


def reopens(sop_class_uid: str) -> bool:
    """Whether a late object of this class puts a study that was read back on the worklist: any image does."""
    return not sop_class_uid.startswith(NON_IMAGE_SOP_CLASSES)
