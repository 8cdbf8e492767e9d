"""Drawn films whose answers the card holds: does a network say on this machine what it said where it was made?

They are drawings with the shapes of a chest, by arithmetic alone, so that they are the same wherever they are drawn.
Nothing may be claimed from what a network says of them: only that it says the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from triage.errors import CardMismatchError, NotAnalysed
from triage.vision.classifier import Classifier

# Kernels, threads and processors round differently; a wrong one is far off.
TOLERANCE = 0.02


def golden_films(size_px: int) -> NDArray[np.float32]:
    """(3, size, size) in [0, 1], as ``pixels.prepare`` gives films: clear lungs, one patch, streaks in both."""
    place = np.mgrid[0 : 1 : size_px * 1j, 0 : 1 : size_px * 1j]
    y, x = place
    body = _blob(place, (0.62, 0.5), (0.62, 0.46))
    lungs = np.maximum(_blob(place, (0.45, 0.31), (0.31, 0.15)), _blob(place, (0.45, 0.69), (0.31, 0.15)))
    middle = _blob(place, (0.5, 0.5), (0.6, 0.08)) + 0.8 * _blob(place, (0.6, 0.56), (0.15, 0.14))
    ribs = 0.06 * lungs * (1 + np.sin(2 * np.pi * (y * 11 - 2.2 * np.abs(x - 0.5))))
    chest = 0.66 * body - 0.46 * lungs + 0.2 * middle + ribs
    patch = 0.38 * lungs * _blob(place, (0.6, 0.34), (0.12, 0.1))
    streaks = 0.12 * lungs * (np.sin(60 * x + 25 * y) * np.sin(55 * y - 20 * x)) ** 2
    films = np.stack([chest, chest + patch, chest + streaks])
    return np.asarray(np.clip(films, 0, 1), np.float32)


def _blob(place: NDArray[np.float64], centre: tuple[float, float], half: tuple[float, float]) -> NDArray[np.float64]:
    """1 inside of an ellipse, 0 outside, with a soft edge; all as (y, x) in shares of the film's side."""
    (y, x), (at_y, at_x), (high, wide) = place, centre, half
    beyond = 18 * (((x - at_x) / wide) ** 2 + ((y - at_y) / high) ** 2 - 1)
    return np.asarray(1 / (1 + np.exp(np.minimum(beyond, 50))), np.float64)


def answers(classifier: Classifier) -> tuple[tuple[float, ...], ...]:
    """Probabilities (3 films, 3 classes), to four places. Raise NotAnalysed."""
    scores = classifier.score(golden_films(classifier.card.preprocessing.size_px))
    return tuple(tuple(round(float(p), 4) for p in film) for film in scores)


def refuse_wrong(classifier: Classifier) -> None:
    """Raise CardMismatchError unless the golden films get the card's answers; cards without any are not asked."""
    if not classifier.card.golden:
        return
    try:
        found = answers(classifier)
    except NotAnalysed as outcome:
        raise CardMismatchError(f"self-test: {outcome.reason.words}") from None
    except (RuntimeError, MemoryError) as error:  # a device without memory, or that is lost
        raise CardMismatchError(f"self-test: the network failed ({type(error).__name__})") from None
    off = float(np.abs(np.subtract(found, classifier.card.golden)).max())
    if not off <= TOLERANCE:
        raise CardMismatchError(f"self-test: golden films are judged otherwise than the card says, off by {off:.3f}")
