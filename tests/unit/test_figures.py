"""How figures and their intervals are reckoned, against what can be reckoned by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triage.learning.evaluation import metrics
from triage.learning.figures import (
    FIGURES,
    Judged,
    area_under_curve,
    at_hand,
    figures_of,
    intervals,
    patient_draws,
    patients_counted,
)
from triage.learning.figures import share as share_of
from triage.learning.films import BACTERIAL, NORMAL, VIRAL, LabelledFilm


def film(patient: str, label: int | None = NORMAL) -> LabelledFilm:
    return LabelledFilm(path=Path(patient), pneumonia=label != NORMAL, label=label, patient=patient)


def judged(p_pneumonia: list[float], labels: list[int | None], patients: list[str] | None = None) -> Judged:
    """All of P(pneumonia) is bacterial."""
    p = np.array(p_pneumonia)
    names = patients or [str(i) for i in range(len(p))]
    films = [film(name, label) for name, label in zip(names, labels, strict=True)]
    return Judged(films=films, scores=np.stack([1 - p, p, 0 * p], 1), threshold=0.5)


def only(name: str, of: Judged) -> float | None:
    return at_hand(figures_of(of, (name,)), len(of.films))[name]


# Figures


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=2, max_size=30))
def test_auc_is_the_share_of_pairs_in_right_order_ties_half_each_as_often_as_drawn(
    rows: list[tuple[int, bool, int]],
) -> None:
    scores, positive = np.array([r[0] / 5 for r in rows]), np.array([r[1] for r in rows])
    times = np.array([r[2] for r in rows], float)
    found = area_under_curve(scores, positive, times[None])[0]
    ill, well = scores[positive], scores[~positive]
    worth = np.outer(times[positive], times[~positive])
    right = (ill[:, None] > well) + 0.5 * (ill[:, None] == well)
    if worth.sum() == 0:
        assert np.isnan(found)
    else:
        assert found == pytest.approx((worth * right).sum() / worth.sum())


def test_calibration_error_is_the_gap_of_each_bin_counted_by_its_films() -> None:
    # Three films said to be ill with 0.9, two are; one said 0.1, it is not: 3/4 of |0.9 - 2/3| and 1/4 of 0.1.
    of = judged([0.9, 0.9, 0.9, 0.1], [BACTERIAL, BACTERIAL, NORMAL, NORMAL])
    assert only("expected_calibration_error", of) == pytest.approx(0.75 * (0.9 - 2 / 3) + 0.25 * 0.1)


def test_calibration_error_does_not_let_bins_make_up_for_each_other() -> None:
    of = judged([0.95, 0.05], [NORMAL, BACTERIAL])  # on average right
    assert only("expected_calibration_error", of) == pytest.approx(0.95)


def test_a_probability_of_one_has_a_bin() -> None:
    assert only("expected_calibration_error", judged([1.0, 1.0], [BACTERIAL, NORMAL])) == pytest.approx(0.5)


def test_brier_score_is_the_mean_square() -> None:
    assert only("brier", judged([0.8, 0.3], [VIRAL, NORMAL])) == pytest.approx((0.2**2 + 0.3**2) / 2)


def test_kinds_are_told_apart_whatever_the_probability_of_pneumonia() -> None:
    films = [film("a", BACTERIAL), film("b", VIRAL), film("c", None), film("d", NORMAL)]
    scores = np.array([[0.9, 0.08, 0.02], [0.1, 0.5, 0.4], [0.1, 0.0, 0.9], [0.0, 0.0, 1.0]])
    assert only("bacterial_viral_auc", Judged(films=films, scores=scores, threshold=0.5)) == 1.0


def test_metrics_count_each_film_once_and_flag_at_the_threshold() -> None:
    films = [film("a"), film("b"), film("c", BACTERIAL), film("d", VIRAL), film("e", None)]
    scores = np.array([[0.9, 0.1, 0], [0.5, 0.5, 0], [0.2, 0.7, 0.1], [0.6, 0.1, 0.3], [0.1, 0.1, 0.8]])
    found = metrics(scores, films, threshold=0.5)
    assert found == {
        "n": 5,
        "auc": pytest.approx(5 / 6),
        "threshold": 0.5,
        "true_positive": 2,
        "false_negative": 1,
        "false_positive": 1,
        "true_negative": 1,
        "sensitivity": pytest.approx(2 / 3),
        "specificity": pytest.approx(1 / 2),
        "three_class_accuracy": pytest.approx(3 / 4),
        "bacterial_viral_auc": 1.0,
        "expected_calibration_error": pytest.approx((0.1 + 0.5 + 0.2 + 0.6 + 0.1) / 5),
        "brier": pytest.approx((0.01 + 0.25 + 0.04 + 0.36 + 0.01) / 5),
    }


def test_figures_that_films_cannot_give_are_none() -> None:
    found = metrics(np.array([[0.9, 0.1, 0], [0.2, 0.7, 0.1]]), [film("a"), film("b", None)], threshold=0.5)
    assert found["three_class_accuracy"] is None
    assert found["bacterial_viral_auc"] is None
    assert found["auc"] == 1.0


@pytest.mark.parametrize("name", FIGURES)
def test_a_film_drawn_twice_counts_as_two_films(name: str) -> None:
    rng = np.random.default_rng(4)
    labels = [NORMAL, BACTERIAL, VIRAL] * 5
    scores = rng.dirichlet((1, 1, 1), 15)
    films = [film(str(i), label) for i, label in enumerate(labels)]
    times = rng.integers(0, 3, 15)
    rows = np.repeat(np.arange(15), times)
    twice = Judged(films=[films[i] for i in rows], scores=scores[rows], threshold=0.5)
    (drawn,) = FIGURES[name](Judged(films=films, scores=scores, threshold=0.5), times[None].astype(float))
    assert drawn == pytest.approx(only(name, twice))


# Intervals


def test_a_patient_is_drawn_with_all_films_or_none() -> None:
    patients = ["a", "b", "a", "c", "b", "a"]
    weights = np.concatenate(list(patient_draws(patients, draws=250)))
    assert weights.shape == (250, 6)
    assert (weights[:, [0, 0]] == weights[:, [2, 5]]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert len(np.unique(weights, axis=0)) > 5


def test_draws_repeat() -> None:
    first, second = (np.concatenate(list(patient_draws(["a", "b", "c"], draws=20))) for _ in range(2))
    assert (first == second).all()


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """200 samples of 60 patients with three films each that share their luck; the true share is 0.8."""
    rng = np.random.default_rng(1)
    patients = [str(i // 3) for i in range(180)]
    held, held_by_film = 0, 0
    for _ in range(200):
        right = np.repeat(rng.random(60) < 0.8, 3)
        low, high = intervals(lambda w, right=right: {"share": share_of(right, w)}, patients)["share"]
        held += low <= 0.8 <= high
        alone = [str(i) for i in range(180)]
        low, high = intervals(lambda w, right=right: {"share": share_of(right, w)}, alone)["share"]
        held_by_film += low <= 0.8 <= high
    assert 0.90 <= held / 200 <= 0.99
    assert held_by_film / 200 < 0.85  # drawing films would have promised too much


def test_a_share_without_a_miss_has_the_exact_bound_of_its_patients() -> None:
    patients = [f"p{i % 20}" for i in range(30)] + [f"n{i}" for i in range(10)]
    of = judged([0.9] * 30 + [0.1] * 10, [BACTERIAL] * 30 + [NORMAL] * 10, patients)
    found = intervals(figures_of(of, ("sensitivity", "specificity")), of.patients, patients_counted(of))
    assert found["sensitivity"] == pytest.approx([0.025 ** (1 / 20), 1.0])
    assert found["specificity"] == pytest.approx([0.025 ** (1 / 10), 1.0])


def test_no_interval_where_there_is_no_figure() -> None:
    of = judged([0.9, 0.8], [BACTERIAL, BACTERIAL])
    assert intervals(figures_of(of, ("auc",)), of.patients) == {"auc": None}
