"""Which calibrator generalises: ``python -m tests.benchmarks.calibrators LOGITS.npz``, of out-of-fold predictions.

The file holds ``logits`` (N, 3), ``labels`` (N) and ``patients`` (N). Each calibrator is fitted on the patients of all
folds but one and judged on that one, by the negative log-likelihood (nats) and the expected calibration error (equal
counts a bin) of P(pneumonia), as if half of the films showed pneumonia.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from triage.learning.calibration import calibration_of, half_of_them_ill

Floats = NDArray[np.float64]
Calibrator = Callable[[Floats], Floats]  # logits (N, 3) to P(pneumonia)
NORMAL, BINS, FOLDS = 0, 15, 5


def p_pneumonia(logits: Floats) -> Floats:
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return 1 - grown[:, NORMAL] / grown.sum(axis=1)


def uncalibrated(_: Floats, __: NDArray[np.int64]) -> Calibrator:
    return p_pneumonia


def temperature(logits: Floats, labels: NDArray[np.int64]) -> Calibrator:
    """One divisor (C. Guo et al., ICML 2017), 0.25 to 8."""
    weight, rows = half_of_them_ill(labels), np.arange(len(labels))

    def surprise(divisor: float) -> float:
        scaled = logits / divisor
        top = scaled.max(axis=1)
        return float((weight * (top + np.log(np.exp(scaled - top[:, None]).sum(axis=1)) - scaled[rows, labels])).mean())

    divisor = float(min(np.geomspace(0.25, 8, 501), key=surprise))
    return lambda new: p_pneumonia(new / divisor)


def temperature_and_bias(logits: Floats, labels: NDArray[np.int64]) -> Calibrator:
    found = calibration_of(logits, labels)
    return lambda new: p_pneumonia(new / found.temperature + np.array(found.bias))


def isotonic(logits: Floats, labels: NDArray[np.int64]) -> Calibrator:
    """A rising step function of the tempered P(pneumonia), kept 1e-3 from 0 and 1; steps joined by straight lines.

    Of the films as they are: their share of pneumonias is in it.
    """
    tempered = temperature(logits, labels)
    scores = tempered(logits)
    order = np.argsort(scores)
    heights = rising((labels != NORMAL)[order].astype(float))
    return lambda new: np.clip(np.interp(tempered(new), scores[order], heights), 1e-3, 1 - 1e-3)


def rising(values: Floats) -> Floats:
    """The closest sequence that never falls (pool adjacent violators)."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        mean, count = float(value), 1
        while blocks and blocks[-1][0] >= mean:
            before, number = blocks.pop()
            mean, count = (mean * count + before * number) / (count + number), count + number
        blocks.append((mean, count))
    return np.repeat([mean for mean, _ in blocks], [count for _, count in blocks])


def surprise_of(p: Floats, positive: NDArray[np.bool_], weight: Floats) -> float:
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return float(-(weight * np.where(positive, np.log(p), np.log1p(-p))).mean())


def calibration_error(p: Floats, positive: NDArray[np.bool_], weight: Floats) -> float:
    bins = np.array_split(np.argsort(p), BINS)
    return float(sum(abs((weight * (p - positive))[rows].sum()) for rows in bins) / weight.sum())


def compare(logits: Floats, labels: NDArray[np.int64], patients: NDArray[np.str_]) -> dict[str, dict[str, float]]:
    _, patient = np.unique(patients, return_inverse=True)
    fold = np.random.default_rng(0).permutation(patient.max() + 1)[patient] % FOLDS
    table = {}
    for fit in (uncalibrated, temperature, temperature_and_bias, isotonic):
        p = np.empty(len(labels))
        for left_out in range(FOLDS):
            rest = fold != left_out
            p[~rest] = fit(logits[rest], labels[rest])(logits[~rest])
        positive = labels != NORMAL
        judged = (p, positive, half_of_them_ill(labels))
        table[fit.__name__] = {"nll": surprise_of(*judged), "ece": calibration_error(*judged)}
    return table


if __name__ == "__main__":
    with np.load(sys.argv[1]) as stored:
        found = compare(stored["logits"].astype(float), stored["labels"].astype(np.int64), stored["patients"])
    for name, figures in found.items():
        print(f"{name:22} NLL {figures['nll']:.4f}  ECE {figures['ece']:.4f}")  # noqa: T201
