"""Which film is for us, which finding makes which priority, and the words the reader sees.

Clinical content lives here and in the card, never in the environment. A policy has a version, stored with every
priority it made. Nothing in here can lower a study: `combine` takes the highest so far.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from triage.budget import SENSITIVITY_MIN, Budget, Forecast, at, forecast, within
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
_WEIGHTS = re.compile("[0-9a-f]{12,64}")
_ENDS = {"threshold": 1, "prevalence": 1, "ppv_min": 1, "sensitivity_min": 1, "flags_per_100_max": 100}
UNKNOWNS = {"age": Reason.AGE_UNKNOWN, "view": Reason.VIEW_UNKNOWN, "body_part": Reason.BODY_PART_UNKNOWN}


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a site may decide. ``waiting_limit_minutes`` below the usual 90th percentile of waits undoes the triage.

    ``accept_unknown`` lists what a film may leave unsaid: "age", "view", "body_part".

    ``threshold`` asks for more flags than the card's, never for fewer, of the network that ``threshold_weights`` names
    (first 12 or more digits of its sha256). A budget asks for fewer: at most ``flags_per_100_max`` flags, or flags that
    are right at least ``ppv_min`` of the time, where ``prevalence`` of the analysed studies are pneumonias. It is
    refused if it would catch less than ``sensitivity_min`` of them, 0.9 if None. All are shares of 1 but the flags.
    """

    version: str = "default-1"
    waiting_limit_minutes: int = 240
    accept_unknown: tuple[str, ...] = ()
    threshold: float | None = None
    threshold_weights: str = ""
    prevalence: float | None = None
    flags_per_100_max: float | None = None
    ppv_min: float | None = None
    sensitivity_min: float | None = None

    def __post_init__(self) -> None:
        unknown = set(self.accept_unknown) - set(UNKNOWNS)
        if unknown:
            raise SettingsError(f"policy accept_unknown: {sorted(unknown)} is not among {sorted(UNKNOWNS)}")
        if not 1 <= self.waiting_limit_minutes <= 7 * 24 * 60:
            raise SettingsError("policy waiting_limit_minutes: must be between 1 and 10080")
        if not self.version or len(self.version) > 64:  # noqa: PLR2004 - width of the column
            raise SettingsError("policy version: must be 1 to 64 characters")
        self._refuse_strange_numbers()
        self._refuse_conflicts()

    @property
    def budget(self) -> Budget | None:
        if self.prevalence is None or (self.flags_per_100_max is None and self.ppv_min is None):
            return None
        return Budget(
            prevalence=self.prevalence,
            flags_per_100_max=self.flags_per_100_max,
            ppv_min=self.ppv_min,
            sensitivity_min=SENSITIVITY_MIN if self.sensitivity_min is None else self.sensitivity_min,
        )

    def _refuse_strange_numbers(self) -> None:
        for name, end in _ENDS.items():
            value = getattr(self, name)
            if value is not None and not 0.0 < value < end:
                raise SettingsError(f"[policy] {name}: must lie between 0 and {end}")
        if self.threshold_weights and not _WEIGHTS.fullmatch(self.threshold_weights):
            raise SettingsError(
                "[policy] threshold_weights: must be the first 12 or more digits of the weights' sha256"
            )

    def _refuse_conflicts(self) -> None:
        asked = [name for name in ("threshold", "flags_per_100_max", "ppv_min") if getattr(self, name) is not None]
        if len(asked) > 1:
            raise SettingsError(f"[policy] {asked[0]} and {asked[1]} exclude each other: set one of them")
        if self.threshold_weights and self.threshold is None:
            raise SettingsError("[policy] threshold_weights: says which network a threshold is for, but there is none")
        if self.sensitivity_min is not None and asked in ([], ["threshold"]):
            raise SettingsError("[policy] sensitivity_min: bounds flags_per_100_max or ppv_min, but there is neither")
        if self.prevalence is None and asked not in ([], ["threshold"]):
            raise SettingsError(
                f"[policy] {asked[0]}: needs prevalence, the share of pneumonias among analysed studies"
            )


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """From which P(pneumonia) on a study is flagged, and from which on it is called possible or likely.

    A budget moves ``flag`` alone: what is not raised for its sake is still called what the card calls it.
    """

    flag: float
    possible: float
    likely: float


def ungated(_: Header) -> Reason | None:
    """For who wants to see any film. By its name the sandbox knows it."""
    return None


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


def thresholds(card: Card, policy: Policy) -> Thresholds:
    """Raise SettingsError if the policy asks for what this network cannot give, or was made for another one."""
    possible = card.threshold if policy.threshold is None else _threshold_of_site(policy.threshold, card, policy)
    flag = within(card, policy.budget).threshold if policy.budget else possible
    return Thresholds(flag=flag, possible=possible, likely=card.likely_threshold)


def _threshold_of_site(threshold: float, card: Card, policy: Policy) -> float:
    if not policy.threshold_weights:
        raise SettingsError(
            "[policy] threshold: needs threshold_weights, the network it was chosen for "
            f'(the one here is "{card.sha256[:12]}")'
        )
    if not card.sha256.startswith(policy.threshold_weights):
        raise SettingsError(
            f"[policy] threshold: was chosen for the network {policy.threshold_weights[:12]}, the one here is "
            f"{card.sha256[:12]}: choose it again, or remove it"
        )
    if threshold > card.threshold:
        raise SettingsError(
            f"[policy] threshold: {threshold:g} is above the {card.threshold:g} of the network's card; it may ask for "
            "more flags, fewer are for flags_per_100_max or ppv_min"
        )
    return threshold


def expected(card: Card, policy: Policy) -> Forecast | None:
    """What the policy brings with this network; None without the site's prevalence or a curve. Raise SettingsError."""
    flag = thresholds(card, policy).flag
    return forecast(at(card.curve, flag), policy.prevalence) if policy.prevalence and card.curve else None


def judge(finding: Finding, *, card: Card | None, policy: Policy) -> Priority:
    """What one finding asks for. ``card`` belongs to the weights that made it; None only without probabilities."""
    probability = finding.p_pneumonia
    if probability is None or card is None:
        return not_analysed(finding.reason or Reason.MODEL_UNAVAILABLE, policy)
    limits = thresholds(card, policy)
    flagged, tier = probability >= limits.flag, _tier(probability, limits)
    bacterial, viral = finding.p_bacterial or 0.0, finding.p_viral or 0.0
    return Priority(
        analysis=Analysis.ANALYSED,
        flagged=flagged,
        tier=tier,
        etiology=(Etiology.BACTERIAL if bacterial >= viral else Etiology.VIRAL) if flagged else None,
        p_pneumonia=probability,
        words=_words(tier, flagged=flagged),
        policy_version=policy.version,
    )


def _tier(probability: float, limits: Thresholds) -> Tier:
    if probability < limits.possible:
        return Tier.UNLIKELY
    return Tier.LIKELY if probability >= limits.likely else Tier.POSSIBLE


def _words(tier: Tier, *, flagged: bool) -> str:
    if flagged:
        return f"flagged: pneumonia {tier}"
    return (
        "analysed, not flagged" if tier is Tier.UNLIKELY else f"pneumonia {tier}, not flagged within the alert budget"
    )


def not_analysed(reason: Reason, policy: Policy) -> Priority:
    """Never a negative finding: the study keeps its place by arrival."""
    words = f"not analysed: {reason.words}"
    return Priority(analysis=Analysis.NOT_ANALYSED, reason=reason, words=words, policy_version=policy.version)


def pending(policy: Policy) -> Priority:
    """A study from the moment it is received."""
    return Priority(analysis=Analysis.PENDING, words="not yet analysed", policy_version=policy.version)


def of_object(looks: Sequence[Priority]) -> Priority:
    """What all looks at one object come to: one that failed takes nothing from another, nor does it count beside it."""
    analysed = [look for look in looks if look.analysis is Analysis.ANALYSED]
    return max(analysed or looks, key=lambda look: (look.flagged, look.p_pneumonia or 0.0))


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
