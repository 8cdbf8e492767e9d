"""From logits on validation films to calibrated log-odds and two thresholds. Pure functions of arrays."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from triage.card import Calibration, OperatingPoint
from triage.learning.films import NORMAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Thresholds keep clear of 0 and 1, where a calibrated probability can no longer be told from certainty.
LOWEST, HIGHEST = 0.01, 0.99
DRAWS = 2000
# Towards no calibration at all, so that films told apart without a fault do not ask for an endless one.
PULL = 1e-4


def calibration_of(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> Calibration:
    """What makes the labels (N) likeliest from logits (N, 3), where half of the films show pneumonia.

    A divisor and a bias for each class (bias-corrected temperature scaling: A. Alexandari et al., ICML 2020). Films are
    weighted to that half, because neither the share at hand nor the one that a site has is known to the network.
    """
    x, y = torch.from_numpy(logits), torch.from_numpy(labels)
    weight = torch.from_numpy(half_of_them_ill(labels))
    sought = torch.zeros(3, dtype=torch.double, requires_grad=True)  # logarithm of the factor, bias of the two last
    optimizer = torch.optim.LBFGS([sought], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        log_odds = x * sought[0].exp() + functional.pad(sought[1:], (1, 0))  # only differences count: normal has none
        surprise = (weight * functional.cross_entropy(log_odds, y, reduction="none")).mean()
        total: torch.Tensor = surprise + PULL * sought.square().sum()
        torch.autograd.backward(total)
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call] # untyped in torch
    log_factor, bacterial, viral = sought.tolist()
    return Calibration(temperature=math.exp(-log_factor), bias=(0.0, bacterial, viral))


def half_of_them_ill(labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weights (N), mean 1, that give the films with and without pneumonia as much as each other."""
    ill = labels != NORMAL
    shares = np.array([(~ill).mean(), ill.mean()])
    return np.asarray(0.5 / shares[ill.astype(int)], np.float64)


def sensitive_threshold(p_pneumonia: NDArray[np.float64], positive: NDArray[np.bool_], *, sensitivity: float) -> float:
    """Return the highest threshold that still flags at least this share of the pneumonias (rounded down, 4 places)."""
    pneumonias = np.sort(p_pneumonia[positive])
    missed = int(np.floor((1 - sensitivity) * len(pneumonias) + 1e-9))
    return float(np.clip(np.floor(pneumonias[min(missed, len(pneumonias) - 1)] * 1e4) / 1e4, LOWEST, HIGHEST))


def likely_threshold(
    p_pneumonia: NDArray[np.float64], positive: NDArray[np.bool_], *, ppv: float, least: float
) -> float:
    """Return the lowest threshold from ``least`` on where a flag is right with chance ``ppv`` if half of them are ill.

    The films at hand are mostly pneumonias, a site's are not: so the share is reckoned from both rates, not counted.
    """
    for threshold in np.unique(np.append(p_pneumonia[p_pneumonia > least], least)):
        flagged = p_pneumonia >= threshold
        true_rate, false_rate = flagged[positive].mean(), flagged[~positive].mean()
        if true_rate and true_rate / (true_rate + false_rate) >= ppv:
            return float(np.clip(np.ceil(threshold * 1e4) / 1e4, least, HIGHEST))
    return HIGHEST


def threshold_with_margin(
    p_pneumonia: NDArray[np.float64],
    positive: NDArray[np.bool_],
    patients: Sequence[str],
    *,
    sensitivity: float,
    confidence: float,
) -> float:
    """Return the highest threshold that, drawn anew, the patients would let keep this sensitivity so surely.

    Bootstrap over patients, whose films stand or fall together: in at least the share ``confidence`` of the draws the
    threshold flags the share ``sensitivity`` of the pneumonias. Fixed seed; rounded down, 4 places. Draws hold no film
    lower than the lowest at hand: the margin comes out a little small, with few patients or a high goal the more so.
    """
    scores = p_pneumonia[positive]
    order = np.argsort(scores)
    _, patient = np.unique(np.asarray(patients)[positive][order], return_inverse=True)
    generator, count = np.random.default_rng(0), int(patient.max()) + 1
    reached = [
        _lowest_but(
            scores[order], np.bincount(generator.integers(count, size=count), minlength=count)[patient], sensitivity
        )
        for _ in range(DRAWS)
    ]
    threshold = np.quantile(reached, 1 - confidence, method="lower")
    return float(np.clip(np.floor(threshold * 1e4) / 1e4, LOWEST, HIGHEST))


def _lowest_but(scores: NDArray[np.float64], times: NDArray[np.int64], sensitivity: float) -> float:
    """The highest threshold that flags the share ``sensitivity`` of rising scores, each counted so many times."""
    missed = np.cumsum(times)
    return float(scores[np.searchsorted(missed, (1 - sensitivity) * missed[-1] + 1e-9, side="right")])


def operating_curve(
    p_pneumonia: NDArray[np.float64],
    positive: NDArray[np.bool_],
    weights: NDArray[np.float64] | None = None,
    points: int = 100,
) -> tuple[OperatingPoint, ...]:
    """About so many points, rising in threshold; films count by ``weights`` (N), all the same if None.

    Half the thresholds are quantiles of the pneumonias' scores, half of the normals', so that sensitivity and
    specificity each move by even steps and neither end is bare.
    """
    weights = np.ones(len(p_pneumonia)) if weights is None else weights
    shares = np.linspace(0, 1, points // 2)
    quantiles = [np.quantile(p_pneumonia[kind], shares, method="nearest") for kind in (positive, ~positive)]
    thresholds: NDArray[np.float64] = np.unique(np.round(np.concatenate(quantiles), 6))
    caught = _share_from(thresholds, p_pneumonia[positive], weights[positive])
    flagged = _share_from(thresholds, p_pneumonia[~positive], weights[~positive])
    return tuple(
        OperatingPoint(threshold=float(threshold), sensitivity=float(true), specificity=float(1 - false))
        for threshold, true, false in zip(thresholds, caught, flagged, strict=True)
        if 0 < threshold < 1
    )


def _share_from(
    thresholds: NDArray[np.float64], scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Share of the weight at or above each threshold."""
    order = np.argsort(scores)
    below = np.concatenate([[0.0], np.cumsum(weights[order])])
    share: NDArray[np.float64] = 1 - below[np.searchsorted(scores[order], thresholds)] / below[-1]
    return np.clip(share, 0, 1)  # sums of the same weights in another order differ in the last digit
