"""Whether the scores of late are such as the network was measured with: a population stability index.

It compares shares of films in bins of P(pneumonia): the sum of (share - expected) * ln(share / expected). Below 0.1
they are alike; from 0.25 on something has changed: the films, the equipment, the children, or the network. How many of
them have pneumonia differs between sites and seasons and is no drift.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from triage.card import Scores

# What an empty bin counts for, in films.
_HALF = 0.5
# Shares of pneumonias that are thought possible where the site has not said its own: beyond, something is wrong.
_PREVALENCES = tuple(number / 100 for number in range(2, 91))


@dataclass(frozen=True, kw_only=True)
class Drift:
    """``index``, against films with ``prevalence`` of pneumonias."""

    index: float
    prevalence: float


def drift(recent: Sequence[float], scores: Scores, prevalence: float | None = None) -> Drift:
    """Of calibrated P(pneumonia); where the site's prevalence is not known, of the one that fits best."""
    shares = _shares(_counted(recent, scores.edges))
    drifts = [
        Drift(index=_index(shares, scores, share), prevalence=share)
        for share in (_PREVALENCES if prevalence is None else (prevalence,))
    ]
    return min(drifts, key=lambda each: each.index)


def _index(shares: Sequence[float], scores: Scores, prevalence: float) -> float:
    pairs = zip(_shares(scores.normal), _shares(scores.pneumonia), strict=True)
    expected = [(1 - prevalence) * normal + prevalence * pneumonia for normal, pneumonia in pairs]
    return sum((share - should) * math.log(share / should) for share, should in zip(shares, expected, strict=True))


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts) + _HALF * len(counts)
    return [(count + _HALF) / total for count in counts]


def binned(pneumonia: Sequence[float], normal: Sequence[float], bins: int = 10) -> Scores:
    """The card's histogram, from scores of films that the network was not trained on. Bins hold about as many each."""
    ordered = sorted([*pneumonia, *normal])
    quantiles = [ordered[len(ordered) * number // bins] for number in range(1, bins)]
    edges = tuple(sorted({round(edge, 6) for edge in quantiles} - {0.0, 1.0}))
    return Scores(edges=edges, pneumonia=_counted(pneumonia, edges), normal=_counted(normal, edges))


def _counted(scores: Sequence[float], edges: Sequence[float]) -> tuple[int, ...]:
    counts = [0] * (len(edges) + 1)
    for score in scores:
        counts[bisect_right(edges, score)] += 1
    return tuple(counts)
