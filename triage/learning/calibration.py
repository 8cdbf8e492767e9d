"""From logits on validation films to a temperature and two thresholds. Pure functions of arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Thresholds keep clear of 0 and 1, where a calibrated probability can no longer be told from certainty.
LOWEST, HIGHEST = 0.01, 0.99


def temperature_of(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Divisor of the logits (N, 3), 0.25 to 8, that makes the labels likeliest (Guo et al., ICML 2017, section 4.2)."""
    candidates = np.geomspace(0.25, 8, 501)
    return float(min(candidates, key=lambda divisor: mean_surprise(logits / divisor, labels)))


def mean_surprise(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Mean negative log-likelihood, in nats."""
    top = logits.max(axis=1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
    return float((log_sum - logits[np.arange(len(labels)), labels]).mean())


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
