"""How far explanations can be believed: where they point, whether it matters to the network, how still they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from triage.learning.evaluation import prepared_film
from triage.learning.films import LabelledFilm
from triage.vision.classifier import Classifier
from triage.vision.explain import (
    Attribution,
    crop_of,
    gradient,
    greys_of,
    hidden,
    log_odds_of,
    segments_of,
    superpixels,
)

Film = NDArray[np.float32]
Explainer = Callable[[Film, Classifier], Attribution]
EXPLAINERS: dict[str, Explainer] = {"superpixels": superpixels, "gradient": gradient}

# Orders drawn by lot, against which that of an explanation is held.
LOTS = 3
# How far a film is moved, of its side, to see whether its explanation moves along.
MOVED_BY = 0.02


@dataclass(frozen=True, kw_only=True)
class Faith:
    """Of one film, or the mean of several.

    ``inside``: share of what speaks for pneumonia that lies in the thorax, without the corners of its box.
    ``deletion``: mean P(pneumonia) while superpixels are hidden one after the other, strongest first: low is good.
    ``insertion``: while they are shown one after the other: high is good. ``..._by_lot``: the same in orders drawn by
    lot (V. Petsiuk et al., RISE, BMVC 2018). ``stability``: correlation with the explanation of the film moved by a
    fiftieth of its side, place by place of the child.
    """

    inside: float
    deletion: float
    deletion_by_lot: float
    insertion: float
    insertion_by_lot: float
    stability: float


FAITH_WORDS = {
    "inside": "share of what speaks for pneumonia that lies in the thorax",
    "deletion": "P(pneumonia) while the strongest parts are hidden first (low is good)",
    "deletion_by_lot": "the same, parts by lot",
    "insertion": "P(pneumonia) while the strongest parts are shown first (high is good)",
    "insertion_by_lot": "the same, parts by lot",
    "stability": "correlation with the explanation of the film moved by a fiftieth",
}


def flagged_pneumonias(films: Sequence[LabelledFilm], classifier: Classifier, *, most: int) -> Iterator[Film]:
    """The first so many of them, (size, size)."""
    for film in films:
        prepared = prepared_film(film, classifier) if film.pneumonia else None
        p = None if prepared is None else classifier.findings(prepared[None])[0].p_pneumonia
        if most and prepared is not None and p is not None and p >= classifier.card.threshold:
            most -= 1
            yield prepared


def mean_faith(
    films: Sequence[Film], classifier: Classifier, advance: Callable[[int], None] = lambda _films: None
) -> dict[str, dict[str, float]]:
    """Of each kind of explanation, the means of films (size, size) in [0, 1]; empty without films."""
    found: dict[str, list[dict[str, float]]] = {}
    for film in films:
        for name, explainer in EXPLAINERS.items():
            found.setdefault(name, []).append(asdict(faith(explainer, film, classifier)))
        advance(1)
    return {
        name: {figure: float(np.mean([one[figure] for one in each])) for figure in FAITH_WORDS}
        for name, each in found.items()
    }


def faith(explainer: Explainer, film: Film, classifier: Classifier) -> Faith:
    """Film (size, size) in [0, 1], best one that is flagged: of others there is little to explain."""
    found = explainer(film, classifier)
    crop, _ = crop_of(film, classifier)
    segments = segments_of(crop)
    strength = np.bincount(segments.ravel(), found.values.ravel()) / np.bincount(segments.ravel())
    orders = [np.argsort(-strength), *(np.random.default_rng(lot).permutation(len(strength)) for lot in range(LOTS))]
    deleted, inserted = (
        [area(order, crop, segments, classifier, shows=shows) for order in orders] for shows in (False, True)
    )
    return Faith(
        inside=inside(found, classifier),
        deletion=deleted[0],
        deletion_by_lot=float(np.mean(deleted[1:])),
        insertion=inserted[0],
        insertion_by_lot=float(np.mean(inserted[1:])),
        stability=stability(found, explainer, film, classifier),
    )


def area(
    order: NDArray[np.int64], crop: Film, segments: NDArray[np.int64], classifier: Classifier, *, shows: bool
) -> float:
    """Mean P(pneumonia) of the crop while its segments are hidden, or shown, in this order; in either grey."""
    place = np.argsort(order)
    done = np.arange(len(order) + 1)[:, None] > place  # (steps, segments)
    shown = np.tile((done if shows else ~done).astype(np.float64), (2, 1))
    odds = log_odds_of(hidden(crop, segments, shown, np.repeat(greys_of(crop), len(done))), classifier)
    return float((1 / (1 + np.exp(-odds))).mean())


def inside(found: Attribution, classifier: Classifier) -> float:
    """In a superellipse in the box of the thorax, as the locator marks it: the corners hold shoulders and the neck."""
    thorax = classifier.card.thorax
    wider = 1 + 2 * (thorax.margin if thorax else 0)
    side = found.values.shape[0]
    place = np.abs((np.arange(side) + 0.5) / side * 2 - 1) * wider
    within = place[:, None] ** 4 + place[None] ** 4 <= 1
    towards = found.values.clip(0)
    return float(towards[within].sum() / towards.sum()) if towards.any() else 1.0


def stability(found: Attribution, explainer: Explainer, film: Film, classifier: Classifier) -> float:
    """Of the film, and of the film moved to the right and down."""
    by = round(MOVED_BY * film.shape[0])
    moved = np.pad(film, ((by, 0), (by, 0)), mode="edge")[: film.shape[0], : film.shape[1]]
    there = on_square(explainer(moved, classifier), film.shape[0])[by:, by:]
    here = on_square(found, film.shape[0])[: film.shape[0] - by, : film.shape[1] - by]
    both = (here != 0) & (there != 0)
    if not both.any() or min(np.ptp(here[both]), np.ptp(there[both])) == 0:
        return 0.0
    return float(np.corrcoef(here[both], there[both])[0, 1])


def on_square(found: Attribution, side: int) -> Film:
    """The attribution on its film of this side, by nearest place; 0 outside of the crop."""
    left, top, right, bottom = found.box
    place = (np.arange(side) + 0.5) / side
    across, down = (place - left) / (right - left), (place - top) / (bottom - top)
    count = found.values.shape[0]
    columns, rows = ((axis * count).astype(int).clip(0, count - 1) for axis in (across, down))
    there = ((down >= 0) & (down < 1))[:, None] & ((across >= 0) & (across < 1))[None]
    return np.where(there, found.values[rows][:, columns], 0).astype(np.float32)
