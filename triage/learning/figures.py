"""Figures of how well films were judged: one formula each, for the films at hand and for any draw of their patients.

Weights (D, N) say how often each of N films counts in each of D draws; a figure is (D), NaN where nothing counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triage.learning.films import BACTERIAL, NORMAL, VIRAL, LabelledFilm

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Measure = Callable[[Array], dict[str, Array]]

BINS = 15
DRAWS = 1000
# Draws at a time: all of them for thousands of films would be gigabytes.
_AT_ONCE = 100
_CONFIDENCE = 0.95
_UNSTATED = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """Films with calibrated probabilities, ``scores`` (N, 3). Flagged: P(pneumonia) >= ``threshold``."""

    films: Sequence[LabelledFilm]
    scores: Array
    threshold: float

    @cached_property
    def p_pneumonia(self) -> Array:
        rest: Array = 1 - self.scores[:, NORMAL]
        return rest

    @cached_property
    def positive(self) -> Mask:
        return np.array([film.pneumonia for film in self.films], bool)

    @cached_property
    def kinds(self) -> NDArray[np.int64]:
        """Index into the classes, -1 for a pneumonia of unstated kind."""
        return np.array([_UNSTATED if film.label is None else film.label for film in self.films])

    @property
    def flagged(self) -> Mask:
        return np.asarray(self.p_pneumonia >= self.threshold)

    @property
    def patients(self) -> list[str]:
        return [film.patient for film in self.films]


def auc(judged: Judged, weights: Array) -> Array:
    return area_under_curve(judged.p_pneumonia, judged.positive, weights)


def sensitivity(judged: Judged, weights: Array) -> Array:
    return share(judged.flagged, weights * judged.positive)


def specificity(judged: Judged, weights: Array) -> Array:
    return share(~judged.flagged, weights * ~judged.positive)


def three_class_accuracy(judged: Judged, weights: Array) -> Array:
    """Among films whose kind is stated; NaN if no pneumonia's is."""
    stated = judged.kinds != _UNSTATED
    if not (stated & judged.positive).any():
        return np.full(len(weights), np.nan)
    return share(judged.scores.argmax(axis=1) == judged.kinds, weights * stated)


def bacterial_viral_auc(judged: Judged, weights: Array) -> Array:
    """P(bacterial) / (P(bacterial) + P(viral)), on pneumonias of stated kind."""
    stated = np.isin(judged.kinds, (BACTERIAL, VIRAL))
    either = judged.scores[stated][:, [BACTERIAL, VIRAL]]
    share_bacterial = either[:, 0] / np.maximum(either.sum(axis=1), np.finfo(np.float64).tiny)
    return area_under_curve(share_bacterial, judged.kinds[stated] == BACTERIAL, weights[:, stated])


def expected_calibration_error(judged: Judged, weights: Array) -> Array:
    """15 equal bins of P(pneumonia), each gap counted by its films (Guo et al., ICML 2017, section 2)."""
    p = judged.p_pneumonia
    in_bin = np.eye(BINS)[np.minimum((p * BINS).astype(int), BINS - 1)]  # (N, 15)
    with np.errstate(invalid="ignore"):
        gap: Array = np.abs((weights * (judged.positive - p)) @ in_bin).sum(axis=1) / weights.sum(axis=1)
    return gap


def brier(judged: Judged, weights: Array) -> Array:
    return share((judged.p_pneumonia - judged.positive) ** 2, weights)


FIGURES: dict[str, Callable[[Judged, Array], Array]] = {
    "auc": auc,
    "sensitivity": sensitivity,
    "specificity": specificity,
    "expected_calibration_error": expected_calibration_error,
    "brier": brier,
    "three_class_accuracy": three_class_accuracy,
    "bacterial_viral_auc": bacterial_viral_auc,
}
WORDS = {
    "auc": "AUC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "expected_calibration_error": "calibration error",
    "brier": "Brier score",
    "three_class_accuracy": "accuracy of three classes",
    "bacterial_viral_auc": "AUC bacterial against viral",
    "flips": "flips",
    "mean_change": "mean change of P",
    "refused": "refused",
}
# Those an interval of no width means nothing for: where every film drawn is right, none can come out wrong.
SHARES = ("sensitivity", "specificity", "three_class_accuracy", "flips", "refused")


def share(values: NDArray[Any], weights: Array) -> Array:
    """Weighted mean of ``values`` (N) in each draw."""
    with np.errstate(invalid="ignore"):
        mean: Array = weights @ values.astype(np.float64) / weights.sum(axis=1)
    return mean


def area_under_curve(scores: Array, positive: Mask, weights: Array) -> Array:
    """Under the ROC curve, by ranks (Mann-Whitney), ties counted half; NaN in draws that lack either kind."""
    if not len(scores):
        return np.full(len(weights), np.nan)
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # of each run of equal scores
    ill, well = (np.add.reduceat(weights[:, order] * kind[order], starts, axis=1) for kind in (positive, ~positive))
    lower = np.cumsum(well, axis=1) - well / 2
    with np.errstate(invalid="ignore"):
        area: Array = (ill * lower).sum(axis=1) / (ill.sum(axis=1) * well.sum(axis=1))
    return area


def figures_of(judged: Judged, names: Sequence[str] = tuple(FIGURES)) -> Measure:
    """Measure of these figures for any weights."""
    return lambda weights: {name: FIGURES[name](judged, weights) for name in names}


def at_hand(measure: Measure, films: int) -> dict[str, float | None]:
    """Every film once; None for a figure that these films cannot give."""
    return {name: stated(values[0]) for name, values in measure(np.ones((1, films))).items()}


def stated(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def intervals(
    measure: Measure, patients: Sequence[str], counted: Mapping[str, int] | None = None
) -> dict[str, list[float] | None]:
    """[low, high] of each figure, 95 %: percentiles over 1000 seeded draws of patients, each with all its films.

    A share that comes out as 0 or 1 in every draw gets the exact bound of so many patients instead (Clopper and
    Pearson, 1934): those ``counted`` for it, else all. An AUC of 1 does not: of [1, 1] believe the number of films.
    None where no draw gives the figure.
    """
    parts = [measure(weights) for weights in patient_draws(patients)]
    everybody = len(set(patients))
    return {
        name: _interval(np.concatenate([part[name] for part in parts]), (counted or {}).get(name, everybody), name)
        for name in parts[0]
    }


def patients_counted(judged: Judged) -> dict[str, int]:
    """How many patients the shares are of."""
    stated_kind = judged.kinds != _UNSTATED
    masks = {"sensitivity": judged.positive, "specificity": ~judged.positive, "three_class_accuracy": stated_kind}
    return {name: len(set(np.asarray(judged.patients)[mask])) for name, mask in masks.items()}


def patient_draws(patients: Sequence[str], draws: int = DRAWS, seed: int = 0) -> Iterator[Array]:
    """Weights (100, N) at a time: patients drawn with replacement, as many as there are."""
    _, whose = np.unique(np.asarray(patients), return_inverse=True)
    count = int(whose.max()) + 1
    generator = np.random.default_rng(seed)
    for start in range(0, draws, _AT_ONCE):
        times = generator.multinomial(count, np.full(count, 1 / count), size=min(_AT_ONCE, draws - start))
        yield times[:, whose].astype(np.float64)


def _interval(drawn: Array, patients: int, name: str) -> list[float] | None:
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return None
    tail = (1 - _CONFIDENCE) / 2
    low, high = (float(x) for x in np.quantile(drawn, (tail, 1 - tail)))
    if name in SHARES and drawn.min() == drawn.max() and low in (0.0, 1.0):
        room = 1.0 - tail ** (1 / patients)
        low, high = max(0.0, low - room), min(1.0, low + room)
    return [low, high]


def written(figures: Mapping[str, Any], name: str) -> str:
    """Figure with its interval, where there is one, for people."""
    value, interval = figures.get(name), (figures.get("intervals") or {}).get(name)
    if value is None:
        return "-"
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")
