"""Alert budgets: what a threshold brings, and which one a site gets for what it can bear."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from making import CARD, finding
from triage.budget import SENSITIVITY_MIN, Budget, at, choices, forecast, offers, within
from triage.card import Card, OperatingPoint, read_card, write_card
from triage.errors import CardMismatchError, SettingsError
from triage.policy import Policy, expected, judge, thresholds
from triage.study import Etiology, Tier


def point(threshold: float) -> OperatingPoint:
    """Of a network whose scores have the distribution functions t^2 (pneumonias) and 1 - (1 - t)^2 (normals)."""
    return OperatingPoint(threshold=threshold, sensitivity=1 - threshold**2, specificity=1 - (1 - threshold) ** 2)


CURVED = replace(
    CARD, threshold=0.1, likely_threshold=0.25, curve=tuple(point(float(t)) for t in np.linspace(0.005, 0.995, 199))
)
prevalences = st.floats(0.02, 0.9)


@st.composite
def curves(draw: st.DrawFn) -> tuple[OperatingPoint, ...]:
    """Any that rises: steps, gaps, flat stretches."""
    share = st.floats(0.0, 1.0)
    count = draw(st.integers(1, 12))
    levels = draw(st.lists(st.floats(0.001, 0.999), min_size=count, max_size=count, unique=True))
    caught, spared = (draw(st.lists(share, min_size=count, max_size=count)) for _ in range(2))
    rows = zip(sorted(levels), sorted(caught, reverse=True), sorted(spared), strict=True)
    return tuple(OperatingPoint(threshold=t, sensitivity=s, specificity=p) for t, s, p in rows)


cards = st.builds(
    lambda curve, share: replace(CARD, curve=curve, threshold=share, likely_threshold=0.9995),
    curves(),
    st.floats(0.001, 0.999),
)


# -- the forecast --------------------------------------------------------------------------------------------------


def test_a_forecast_is_the_arithmetic_of_a_hundred_studies() -> None:
    # Of 30 pneumonias 27 are flagged, of 70 others 14.
    seen = forecast(OperatingPoint(threshold=0.4, sensitivity=0.9, specificity=0.8), prevalence=0.3)
    assert seen.flags_per_100 == pytest.approx(41)
    assert seen.ppv == pytest.approx(27 / 41)
    assert (seen.threshold, seen.sensitivity, seen.prevalence) == (0.4, 0.9, 0.3)


def test_a_curve_is_read_between_its_points_and_beyond_them() -> None:
    curve = (
        OperatingPoint(threshold=0.2, sensitivity=0.9, specificity=0.5),
        OperatingPoint(threshold=0.6, sensitivity=0.5, specificity=0.9),
    )
    for threshold, caught, spared in (
        (0.0, 1.0, 0.0),
        (0.1, 0.95, 0.25),
        (0.2, 0.9, 0.5),
        (0.3, 0.8, 0.6),
        (0.8, 0.25, 0.95),
    ):
        found = at(curve, threshold)
        assert (found.sensitivity, found.specificity) == (pytest.approx(caught), pytest.approx(spared))
    assert at(curve, 1.0).sensitivity == 0


# -- what a budget chooses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [30, 40, 50])
def test_the_threshold_for_a_number_of_flags_is_that_of_the_closed_form(flags: int) -> None:
    # 0.3 (1 - t^2) + 0.7 (1 - t)^2 = flags / 100, solved for t
    exact = (1.4 - np.sqrt(1.4**2 - 4 * 0.4 * (1 - flags / 100))) / 0.8
    found = within(CURVED, Budget(prevalence=0.3, flags_per_100_max=flags, sensitivity_min=0.5))
    assert exact <= found.threshold <= exact + 0.005 + 1e-9  # the curve's next point
    assert found.sensitivity == pytest.approx(1 - found.threshold**2)
    assert found.flags_per_100 <= flags


@pytest.mark.parametrize("ppv", [0.5, 0.6, 0.7])
def test_the_threshold_for_a_ppv_is_that_of_the_closed_form(ppv: float) -> None:
    # PPV / (1 - PPV) = 0.3 (1 + t) / (0.7 (1 - t))
    odds = ppv / (1 - ppv) * 0.7 / 0.3
    exact = (odds - 1) / (odds + 1)
    found = within(CURVED, Budget(prevalence=0.3, ppv_min=ppv, sensitivity_min=0.1))
    assert exact - 1e-9 <= found.threshold <= exact + 0.005 + 1e-9
    assert found.ppv >= ppv


def test_a_budget_with_room_to_spare_leaves_the_cards_threshold() -> None:
    assert within(CURVED, Budget(prevalence=0.3, flags_per_100_max=99)).threshold == CURVED.threshold


@given(cards, prevalences, st.floats(0.5, 99), st.floats(0.5, 99))
def test_more_flags_allowed_never_catch_less(card: Card, prevalence: float, one: float, other: float) -> None:
    few, many = (
        within(card, Budget(prevalence=prevalence, flags_per_100_max=flags, sensitivity_min=0.0))
        for flags in sorted((one, other))
    )
    assert few.sensitivity <= many.sensitivity
    assert few.threshold >= many.threshold >= card.threshold
    assert few.flags_per_100 <= min(one, other)


@given(cards, prevalences, st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_a_lower_ppv_never_catches_less_and_is_met(card: Card, prevalence: float, one: float, other: float) -> None:
    lax, strict = (
        within(card, Budget(prevalence=prevalence, ppv_min=ppv, sensitivity_min=0.0)) for ppv in sorted((one, other))
    )
    assert strict.sensitivity <= lax.sensitivity
    assert strict.threshold >= lax.threshold >= card.threshold
    assert strict.ppv >= max(one, other)


@given(cards, prevalences, st.floats(0.5, 99), st.floats(0.05, 0.99))
def test_what_is_granted_catches_what_it_must_and_nothing_better_was_to_be_had(
    card: Card, prevalence: float, flags: float, least: float
) -> None:
    budget = Budget(prevalence=prevalence, flags_per_100_max=flags, sensitivity_min=least)
    allowed = [choice for choice in choices(card, prevalence) if choice.flags_per_100 <= flags]
    best = max(choice.sensitivity for choice in allowed)
    if best < least:
        with pytest.raises(SettingsError):
            within(card, budget)
    else:
        assert within(card, budget).sensitivity == best


# -- refusals ------------------------------------------------------------------------------------------------------


def refused(card: Card, **policy: object) -> str:
    with pytest.raises(SettingsError) as error:
        thresholds(card, Policy(**policy))  # type: ignore[arg-type] # names and values are the test's
    return str(error.value)


def test_a_budget_that_would_catch_too_little_says_what_can_be_had() -> None:
    # The highest point with a sensitivity of 0.9 is t = 0.315: 27.03 + 32.85 = 59.88 flags, of which 45.1 % are right.
    assert refused(CURVED, prevalence=0.3, flags_per_100_max=20) == (
        "[policy] flags_per_100_max: at prevalence 0.3, 20 flags per 100 would catch 48 % of the pneumonias, "
        "below sensitivity_min 0.9; at least 60 flags are needed"
    )
    assert refused(CURVED, prevalence=0.3, ppv_min=0.6) == (
        "[policy] ppv_min: at prevalence 0.3, a PPV of 0.6 would catch 68 % of the pneumonias, "
        "below sensitivity_min 0.9; a PPV of 0.451 can be had"
    )
    assert thresholds(CURVED, Policy(prevalence=0.3, flags_per_100_max=20, sensitivity_min=0.4)).flag > 0.7


@given(prevalences, st.floats(0.5, 99), st.sampled_from([0.3, 0.6, 0.9]))
@example(prevalence=0.3, flags=20.0, least=0.9)
def test_what_a_refusal_offers_is_granted(prevalence: float, flags: float, least: float) -> None:
    for name, value, words in (
        ("flags_per_100_max", flags, "at least (.*) flags"),
        ("ppv_min", flags / 100, "PPV of ([^ ]*) can"),
    ):
        policy = Policy(**{"prevalence": prevalence, name: value, "sensitivity_min": least})
        try:
            thresholds(CURVED, policy)
        except SettingsError as error:
            offer = re.search(words, str(error))
            assert offer
            assume(float(offer[1]) < 100)
            assert thresholds(CURVED, replace(policy, **{name: float(offer[1])})).flag < 1


def test_more_than_the_network_can_catch_is_refused() -> None:
    asked = {"prevalence": 0.3, "flags_per_100_max": 80, "sensitivity_min": 0.995}
    assert refused(CURVED, **asked) == "[policy] sensitivity_min 0.995: the network's own threshold catches 99 %"


@pytest.mark.parametrize("limit", ["flags_per_100_max", "ppv_min"])
def test_a_card_without_a_curve_takes_no_budget(limit: str) -> None:
    assert (
        refused(CARD, prevalence=0.3, **{limit: 0.5})
        == f"[policy] {limit}: the card of network {'a' * 12} has no operating curve"
    )


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"prevalence": 0.3, "flags_per_100_max": 30, "ppv_min": 0.5}, "flags_per_100_max and ppv_min exclude"),
        ({"prevalence": 0.3, "flags_per_100_max": 30, "threshold": 0.1}, "threshold and flags_per_100_max exclude"),
        ({"prevalence": 0.3, "ppv_min": 0.5, "threshold": 0.1}, "threshold and ppv_min exclude"),
        ({"flags_per_100_max": 30}, "flags_per_100_max: needs prevalence"),
        ({"ppv_min": 0.5}, "ppv_min: needs prevalence"),
        ({"sensitivity_min": 0.8}, "sensitivity_min: bounds flags_per_100_max or ppv_min"),
        ({"threshold_weights": "a" * 12}, "threshold_weights: .* there is none"),
        ({"threshold": 0.1, "threshold_weights": "a" * 11}, "threshold_weights: must be the first 12"),
        ({"prevalence": 0.0}, "prevalence: must lie between 0 and 1"),
        ({"prevalence": 30}, "prevalence: must lie between 0 and 1"),
        ({"flags_per_100_max": 100}, "flags_per_100_max: must lie between 0 and 100"),
        ({"ppv_min": 1.0}, "ppv_min: must lie between 0 and 1"),
        ({"sensitivity_min": float("nan")}, "sensitivity_min: must lie between 0 and 1"),
    ],
)
def test_conflicting_wishes_are_refused_by_name(asked: dict[str, object], words: str) -> None:
    assert re.search(words, refused(CURVED, **asked))


def test_a_threshold_belongs_to_one_network() -> None:
    known = CARD.sha256[:12]
    assert refused(CARD, threshold=0.2) == (
        f'[policy] threshold: needs threshold_weights, the network it was chosen for (the one here is "{known}")'
    )
    assert refused(CARD, threshold=0.2, threshold_weights="b" * 64) == (
        f"[policy] threshold: was chosen for the network {'b' * 12}, the one here is {known}: "
        "choose it again, or remove it"
    )
    assert "0.51 is above the 0.5" in refused(CARD, threshold=0.51, threshold_weights=known)
    assert thresholds(CARD, Policy(threshold=0.2, threshold_weights=CARD.sha256)).flag == 0.2


# -- what readers see ----------------------------------------------------------------------------------------------


def test_a_budget_changes_who_is_raised_and_nothing_that_is_said_of_the_film() -> None:
    strict = Policy(prevalence=0.3, flags_per_100_max=60)
    limits = thresholds(CURVED, strict)
    assert (limits.possible, limits.likely) == (CURVED.threshold, CURVED.likely_threshold)
    assert limits.flag > CURVED.likely_threshold
    seen = [judge(finding(p), card=CURVED, policy=strict) for p in (0.05, 0.2, 0.3, 0.4)]
    assert [(each.tier, each.flagged) for each in seen] == [
        (Tier.UNLIKELY, False),
        (Tier.POSSIBLE, False),
        (Tier.LIKELY, False),
        (Tier.LIKELY, True),
    ]
    assert [each.words for each in seen] == [
        "analysed, not flagged",
        "pneumonia possible, not flagged within the alert budget",
        "pneumonia likely, not flagged within the alert budget",
        "flagged: pneumonia likely",
    ]
    assert [each.etiology for each in seen] == [None, None, None, Etiology.BACTERIAL]


def test_a_site_that_asks_for_more_flags_calls_them_possible() -> None:
    policy = Policy(threshold=0.2, threshold_weights=CARD.sha256[:12])
    assert judge(finding(0.3), card=CARD, policy=policy).tier is Tier.POSSIBLE


@given(st.floats(0, 1), st.floats(30, 99))
def test_whatever_the_budget_a_flagged_film_is_at_least_possible(p: float, flags: float) -> None:
    policy = Policy(prevalence=0.3, flags_per_100_max=flags, sensitivity_min=0.1)
    priority = judge(finding(p), card=CURVED, policy=policy)
    assert not (priority.flagged and priority.tier is Tier.UNLIKELY)


# -- what people can choose from -----------------------------------------------------------------------------------


def test_what_is_expected_is_what_the_budget_was_granted_for() -> None:
    budget = Policy(prevalence=0.3, flags_per_100_max=65)
    assert budget.budget
    granted, seen = within(CURVED, budget.budget), expected(CURVED, budget)
    assert seen
    assert asdict(seen) == pytest.approx(asdict(granted))
    assert expected(CARD, Policy(prevalence=0.3)) is None
    assert expected(CURVED, Policy()) is None


def test_the_offers_start_at_the_cards_threshold_and_each_is_granted() -> None:
    rows = offers(CURVED, 0.3, SENSITIVITY_MIN)
    assert rows[0].threshold == CURVED.threshold
    assert all(row.sensitivity >= SENSITIVITY_MIN for row in rows)
    whole = [int(np.ceil(row.flags_per_100)) for row in rows]
    assert whole == sorted(set(whole), reverse=True)
    for flags, row in zip(whole, rows, strict=True):
        assert within(CURVED, Budget(prevalence=0.3, flags_per_100_max=flags)) == row
    assert offers(CARD, 0.3, SENSITIVITY_MIN) == []


@pytest.mark.parametrize(
    "points",
    [
        [(0.3, 0.9, 0.5), (0.2, 0.8, 0.6)],
        [(0.3, 0.8, 0.5), (0.4, 0.9, 0.6)],
        [(0.3, 0.9, 0.5), (0.4, 0.8, 0.4)],
        [(0.3, 1.1, 0.5)],
        [(0.3, 0.9, -0.1)],
        [(0.0, 1.0, 0.0)],
        [(1.0, 0.0, 1.0)],
        [(0.3, float("nan"), 0.5)],
    ],
)
def test_a_curve_that_is_none_is_refused_with_its_card(
    tmp_path: Path, points: list[tuple[float, float, float]]
) -> None:
    path = tmp_path / "card.json"
    write_card(CURVED, path)
    assert read_card(path) == CURVED
    broken = [dict(zip(("threshold", "sensitivity", "specificity"), values, strict=True)) for values in points]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"curve": broken}))
    with pytest.raises(CardMismatchError, match="curve"):
        read_card(path)
