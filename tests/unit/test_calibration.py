"""Operating curves, thresholds with a margin, and the comparison of calibrators."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.calibrators import compare, rising
from triage.learning.calibration import LOWEST, operating_curve, sensitive_threshold, threshold_with_margin


def scored(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores with the distribution functions t^2 (pneumonias, two of three films) and 1 - (1 - t)^2 (normals)."""
    random = np.random.default_rng(seed)
    positive = random.random(count) < 2 / 3
    uniform = random.random(count)
    return np.where(positive, np.sqrt(uniform), 1 - np.sqrt(1 - uniform)), positive


# -- the operating curve -------------------------------------------------------------------------------------------


def test_a_curve_is_the_closed_form_of_its_scores() -> None:
    curve = operating_curve(*scored(200_000))
    for point in curve:
        assert point.sensitivity == pytest.approx(1 - point.threshold**2, abs=0.006)
        assert point.specificity == pytest.approx(1 - (1 - point.threshold) ** 2, abs=0.006)


def test_a_curve_moves_by_even_steps_to_both_ends() -> None:
    curve = operating_curve(*scored(20_000), points=100)
    assert len(curve) == pytest.approx(100, abs=2)
    for name in ("sensitivity", "specificity"):
        shares = np.array([getattr(point, name) for point in curve])
        assert np.abs(np.diff(shares)).max() < 0.022
        assert shares.max() > 0.99
        assert shares.min() < 0.01


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.floats(0.1, 10)), min_size=2, max_size=40).filter(
        lambda rows: len({kind for _, kind, _ in rows}) == 2
    )
)
def test_every_curve_rises_and_says_what_its_thresholds_do(rows: list[tuple[float, bool, float]]) -> None:
    p, positive, weights = (np.array(column) for column in zip(*rows, strict=True))
    curve = operating_curve(p, positive, weights)
    for low, high in pairwise(curve):
        assert low.threshold < high.threshold
        assert low.sensitivity >= high.sensitivity
        assert low.specificity <= high.specificity
    for point in curve:
        flagged = p >= point.threshold
        assert 0 < point.threshold < 1
        assert point.sensitivity == pytest.approx(np.average(flagged[positive], weights=weights[positive]))
        assert point.specificity == pytest.approx(1 - np.average(flagged[~positive], weights=weights[~positive]))


# -- a threshold with a margin -------------------------------------------------------------------------------------


def test_the_margin_holds_on_new_patients_about_as_often_as_asked_and_the_plain_threshold_half_the_time() -> None:
    with_margin, plain = [], []
    for seed in range(100):
        p, positive = scored(900, seed)
        patients = np.arange(900).astype(str)
        chosen = threshold_with_margin(p, positive, patients, sensitivity=0.9, confidence=0.9)
        with_margin.append(1 - chosen**2 >= 0.9)  # the true sensitivity
        plain.append(1 - sensitive_threshold(p, positive, sensitivity=0.9) ** 2 >= 0.9)
    assert 0.8 <= np.mean(with_margin) <= 0.97
    assert 0.35 <= np.mean(plain) <= 0.65


def test_films_of_one_patient_stand_or_fall_together() -> None:
    p, positive = scored(600)
    ten_each = np.sort(p[positive]).repeat(10)
    alone = [str(n) for n in range(len(ten_each))]
    together = [str(n // 10) for n in range(len(ten_each))]
    everyone = np.ones(len(ten_each), dtype=bool)
    loose, tight = (
        threshold_with_margin(ten_each, everyone, patients, sensitivity=0.9, confidence=0.95)
        for patients in (alone, together)
    )
    assert tight < loose < sensitive_threshold(ten_each, everyone, sensitivity=0.9)


def test_the_margin_grows_with_confidence_and_the_draw_repeats() -> None:
    p, positive = scored(900)
    patients = np.arange(900).astype(str)
    at = [threshold_with_margin(p, positive, patients, sensitivity=0.95, confidence=c) for c in (0.5, 0.8, 0.95, 0.99)]
    assert at == sorted(at, reverse=True)
    assert at[0] > at[-1]
    assert at[1] == threshold_with_margin(p, positive, patients, sensitivity=0.95, confidence=0.8)


def test_the_order_of_films_and_the_normals_do_not_matter() -> None:
    p, positive = scored(400)
    patients = np.arange(400) // 2
    order = np.random.default_rng(3).permutation(400)
    asked = {"sensitivity": 0.9, "confidence": 0.9}
    found = threshold_with_margin(p, positive, patients, **asked)
    assert threshold_with_margin(p[order], positive[order], patients[order], **asked) == found
    assert threshold_with_margin(np.where(positive, p, 0.5), positive, patients, **asked) == found


def test_all_of_them_means_the_lowest_at_hand() -> None:
    p = np.array([0.3, 0.5, 0.7])
    every = np.ones(3, dtype=bool)
    assert threshold_with_margin(p, every, ["a", "b", "c"], sensitivity=1.0, confidence=0.999) == 0.3
    assert threshold_with_margin(p / 1000, every, ["a", "b", "c"], sensitivity=0.5, confidence=0.5) == LOWEST


# -- calibrators ---------------------------------------------------------------------------------------------------


def test_each_distortion_is_mended_by_the_calibrator_made_for_it() -> None:
    random = np.random.default_rng(1)
    labels = random.choice(3, 3000, p=(0.5, 0.25, 0.25))
    logits = random.normal(size=(3000, 3))
    logits[np.arange(3000), labels] += 2
    right = logits * 2 + [math.log(2), 0, 0]  # log-likelihoods of unit normals two apart, up to a constant
    patients = np.arange(3000).astype(str)
    hot, shifted = (compare(x, labels, patients) for x in (right * 2, right * 2 + np.array([2.0, 0, 0])))
    assert hot["temperature"]["nll"] < hot["uncalibrated"]["nll"] - 0.02
    assert hot["temperature"]["ece"] < 0.02 < hot["uncalibrated"]["ece"]
    assert shifted["temperature_and_bias"]["nll"] < shifted["temperature"]["nll"] - 0.02
    assert (
        max(shifted[name]["ece"] for name in ("temperature_and_bias", "isotonic"))
        < 0.02
        < shifted["temperature"]["ece"]
    )


def test_pooling_gives_the_closest_rising_sequence() -> None:
    assert rising(np.array([1.0, 0.0, 2.0, 5.0, 3.0, 1.0])).tolist() == [0.5, 0.5, 2.0, 3.0, 3.0, 3.0]
