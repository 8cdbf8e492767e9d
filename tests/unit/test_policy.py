"""Which film is for us, and what a finding does to a study."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from making import CARD, POLICY, finding, header
from triage.errors import Reason, SettingsError
from triage.policy import Policy, combine, gate, judge, not_analysed
from triage.study import Analysis, Finding, Priority, Tier


@pytest.mark.fault(49)
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.2"}, Reason.UNSUPPORTED_SOP_CLASS),
        ({"presentation_intent_type": "FOR PROCESSING"}, Reason.FOR_PROCESSING),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1.1"}, Reason.FOR_PROCESSING),
        ({"modality": "OT"}, Reason.UNSUPPORTED_MODALITY),
        ({"body_part_examined": "LEG"}, Reason.NOT_CHEST_FRONTAL),
        ({"body_part_examined": ""}, Reason.BODY_PART_UNKNOWN),
        ({"view_position": "LL"}, Reason.NOT_CHEST_FRONTAL),
        ({"view_position": ""}, Reason.VIEW_UNKNOWN),
        ({"age_years": 40.0}, Reason.AGE_OUT_OF_RANGE),
        ({"age_years": 0.5}, Reason.AGE_OUT_OF_RANGE),
        ({"age_years": None}, Reason.AGE_UNKNOWN),
    ],
)
def test_a_film_outside_the_card_gets_a_reason(changes: dict[str, Any], reason: Reason | None) -> None:
    assert gate(header(**changes), population=CARD.population, policy=POLICY) is reason


def test_a_site_may_accept_an_unknown_age_but_not_a_wrong_one() -> None:
    policy = Policy(accept_unknown=("age",))
    assert gate(header(age_years=None), population=CARD.population, policy=policy) is None
    assert gate(header(age_years=40.0), population=CARD.population, policy=policy) is Reason.AGE_OUT_OF_RANGE
    assert gate(header(view_position=""), population=CARD.population, policy=policy) is Reason.VIEW_UNKNOWN


@pytest.mark.parametrize(
    ("probability", "flagged", "tier"),
    [(0.49, False, Tier.UNLIKELY), (0.5, True, Tier.POSSIBLE), (0.9, True, Tier.LIKELY)],
)
def test_the_threshold_itself_is_flagged(probability: float, flagged: bool, tier: Tier) -> None:  # noqa: FBT001
    priority = judge(finding(probability), card=CARD, policy=POLICY)
    assert (priority.flagged, priority.tier) == (flagged, tier)


def test_a_site_can_lower_the_threshold_and_never_raise_it() -> None:
    here = {"card": CARD, "policy": Policy(threshold=0.2, threshold_weights=CARD.sha256)}
    assert judge(finding(0.3), **here).flagged
    assert not judge(finding(0.1), **here).flagged
    with pytest.raises(SettingsError, match="above"):
        judge(finding(0.6), card=CARD, policy=Policy(threshold=0.8, threshold_weights=CARD.sha256))


def test_a_finding_without_probabilities_is_never_negative() -> None:
    priority = judge(Finding(reason=Reason.DECODE_ERROR), card=CARD, policy=POLICY)
    assert (priority.analysis, priority.tier, priority.reason) == (Analysis.NOT_ANALYSED, None, Reason.DECODE_ERROR)


@pytest.mark.fault(118)
def test_not_flagged_is_not_said_before_every_film_was_seen() -> None:
    clear = judge(finding(0.1), card=CARD, policy=POLICY)
    assert combine([clear], 1, POLICY).analysis is Analysis.PENDING
    failed = not_analysed(Reason.DECODE_ERROR, POLICY)
    assert "1 of 2" in combine([clear, failed], 0, POLICY).words


def test_a_flag_counts_at_once() -> None:
    flagged = judge(finding(0.95), card=CARD, policy=POLICY)
    assert combine([flagged], 3, POLICY) == flagged


def priorities() -> st.SearchStrategy[Priority]:
    scored = st.floats(0, 1).map(lambda p: judge(finding(p), card=CARD, policy=POLICY))
    failed = st.sampled_from(list(Reason)).map(lambda reason: not_analysed(reason, POLICY))
    return scored | failed


@pytest.mark.fault(118)
@given(st.lists(priorities(), min_size=1, max_size=6), priorities(), st.integers(0, 3), st.randoms())
def test_more_findings_never_lower_a_study_whatever_their_order(
    some: list[Priority], another: Priority, open_jobs: int, random: Any
) -> None:
    before = combine(some, open_jobs, POLICY)
    mixed = [*some, another]
    random.shuffle(mixed)
    assert combine(mixed, open_jobs, POLICY).flagged >= before.flagged


def test_nonsense_is_refused() -> None:
    for changes in ({"accept_unknown": ("sex",)}, {"waiting_limit_minutes": 0}, {"threshold": 1.5}, {"version": ""}):
        with pytest.raises(SettingsError):
            replace(POLICY, **changes)
