"""Which calibrator generalises: ``python -m tests.benchmarks.calibrators LOGITS.npz``, of out-of-fold predictions.

The file holds ``logits`` (N, 3), ``labels`` (N) and ``patients`` (N). Each calibrator is fitted on the patients of all
folds but one and judged on that one, by the negative log-likelihood (nats) and the expected calibration error (equal
counts a bin) of P(pneumonia).
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from triage.learning.calibration import temperature_of

Floats = NDArray[np.float64]
Calibrator = Callable[[Floats], Floats]  # logits (N, 3) to P(pneumonia)
NORMAL, BINS, FOLDS = 0, 15, 5


def p_pneumonia(logits: Floats) -> Floats:
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return 1 - grown[:, NORMAL] / grown.sum(axis=1)


def uncalibrated(_: Floats, __: NDArray[np.int64]) -> Calibrator:
    return p_pneumonia


def temperature(logits: Floats, labels: NDArray[np.int64]) -> Calibrator:
    divisor = temperature_of(logits, labels)
    return lambda new: p_pneumonia(new / divisor)


def temperature_and_bias(logits: Floats, labels: NDArray[np.int64]) -> Calibrator:
    """Bias-corrected temperature (Alexandari et al., ICML 2020): one divisor, one shift for each class."""
    scale, bias = torch.ones(1, dtype=torch.double), torch.zeros(3, dtype=torch.double)
    x, y = torch.from_numpy(logits), torch.from_numpy(labels)
    optimizer = torch.optim.LBFGS(
        [scale.requires_grad_(), bias.requires_grad_()], max_iter=200, line_search_fn="strong_wolfe"
    )

    def surprise() -> torch.Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(x * scale + bias, y)
        torch.autograd.backward(loss)
        return loss

    optimizer.step(surprise)
    factor, shift = scale.detach().numpy(), bias.detach().numpy()
    return lambda new: p_pneumonia(new * factor + shift)


def isotonic(logits: Floats, labels: NDArray[np.int64]) -> Calibrator:
    """A rising step function of the tempered P(pneumonia), kept 1e-3 from 0 and 1; steps joined by straight lines."""
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


def surprise_of(p: Floats, positive: NDArray[np.bool_]) -> float:
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return float(-np.where(positive, np.log(p), np.log1p(-p)).mean())


def calibration_error(p: Floats, positive: NDArray[np.bool_]) -> float:
    bins = np.array_split(np.argsort(p), BINS)
    return float(sum(len(rows) * abs(p[rows].mean() - positive[rows].mean()) for rows in bins) / len(p))


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
        table[fit.__name__] = {"nll": surprise_of(p, positive), "ece": calibration_error(p, positive)}
    return table


if __name__ == "__main__":
    with np.load(sys.argv[1]) as stored:
        found = compare(stored["logits"].astype(float), stored["labels"].astype(np.int64), stored["patients"])
    for name, figures in found.items():
        print(f"{name:22} NLL {figures['nll']:.4f}  ECE {figures['ece']:.4f}")  # noqa: T201
