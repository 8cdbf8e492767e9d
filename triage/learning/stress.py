"""The same films under one shift after another: which figures hold, and how many answers change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from triage.card import Preprocessing
from triage.errors import NotAnalysed, TriageError
from triage.learning.evaluation import Answer, scores_of
from triage.learning.figures import Judged, Measure, at_hand, figures_of, intervals, patients_counted, share
from triage.learning.films import LabelledFilm, both_kinds, draw
from triage.learning.out_of_fold import digest_of
from triage.learning.shifts import CLEAN, SHIFTS, Shift
from triage.vision.pixels import prepare, read_film

if TYPE_CHECKING:
    from triage.vision.classifier import Classifier

FIGURES = ("auc", "sensitivity", "specificity", "expected_calibration_error")
# Films changed side by side, and at a time: each is some 50 films of the network's size.
CHANGERS = 2
AT_A_TIME = 8


def stress(
    films: Sequence[LabelledFilm],
    classifier: Classifier,
    shifts: Sequence[Shift] = SHIFTS,
    advance: Callable[[int], None] = lambda _films: None,
) -> list[dict[str, Any]]:
    """Row by row, the first of the films as they are: ``shift``, ``name``, ``strength``, figures and ``intervals``.

    ``flips``: share of films flagged as they are but not so changed, or the other way round. ``mean_change``: of
    P(pneumonia). Both are of films analysed either way, as all figures are of those analysed; ``refused``: share of
    all films. None for what the films cannot give. ``advance`` is told of each film done.
    """
    p = probabilities_under((CLEAN, *shifts), films, classifier, advance)
    rows = [
        row_of(shift, films, changed, p[0], classifier.card.threshold)
        for shift, changed in zip((CLEAN, *shifts), p, strict=True)
    ]
    rows[0] |= {"flips": None, "mean_change": None}  # against themselves
    return rows


def fit_for_stress(given: Sequence[Answer], sample: int | None) -> tuple[list[LabelledFilm], bool]:
    """Which films to stress, and whether the network was trained on them.

    Of a film trained on there is no honest answer but for the film as it is, so it is left out, unless there are no
    others. ``sample``: patients by lot, always the same ones, until there are so many films. A film is known by its
    pixels: one that was trained on at another size is taken for a new one. Raise TriageError if the lot is of one kind.
    """
    others = [answer.film for answer in given if not answer.trained_on]
    chosen = others if both_kinds(others) else [answer.film for answer in given]
    by_lot = sorted(chosen, key=lambda film: (draw(film.patient, 0), film.patient, film.path.name))
    if not both_kinds(by_lot[:sample]):
        raise TriageError(f"a sample of {sample} films has none that are normal, or none that are not: take more")
    return by_lot[:sample], chosen is not others


def probabilities_under(
    shifts: Sequence[Shift],
    films: Sequence[LabelledFilm],
    classifier: Classifier,
    advance: Callable[[int], None] = lambda _films: None,
) -> NDArray[np.float64]:
    """Calibrated probabilities, (shifts, films, 3); NaN where the film is refused. The first shift is none."""
    found = np.full((len(shifts), len(films), 3), np.nan)
    with ThreadPoolExecutor(CHANGERS) as changers:
        changed = changed_films(shifts, films, classifier.card.preprocessing, changers)
        for column, versions in enumerate(changed):
            rows = [row for row, version in enumerate(versions) if version is not None]
            scored = scores_of(np.stack([v for v in versions if v is not None]), classifier) if rows else []
            for row, scores in zip(rows, scored, strict=True):
                found[row, column] = np.nan if scores is None else scores
            advance(1)
    return found


def changed_films(
    shifts: Sequence[Shift], films: Sequence[LabelledFilm], preprocessing: Preprocessing, changers: Executor
) -> Iterator[list[NDArray[np.float32] | None]]:
    """Of each film every version, ready for the network; a few films ahead."""
    versions = partial(versions_of, shifts=shifts, preprocessing=preprocessing)
    for start in range(0, len(films), AT_A_TIME):
        yield from changers.map(versions, films[start : start + AT_A_TIME])


def versions_of(
    film: LabelledFilm, *, shifts: Sequence[Shift], preprocessing: Preprocessing
) -> list[NDArray[np.float32] | None]:
    """Under each shift, (size, size); None where it can be read no more, or never could."""
    try:
        image = read_film(film.path)
        digest = digest_of(prepare(image, preprocessing))
    except (NotAnalysed, OSError):
        return [None] * len(shifts)
    found: list[NDArray[np.float32] | None] = []
    for shift in shifts:
        try:
            found.append(prepare(shift.apply(image, digest), preprocessing))
        except NotAnalysed:
            found.append(None)
    return found


def row_of(
    shift: Shift,
    films: Sequence[LabelledFilm],
    scores: NDArray[np.float64],
    clean: NDArray[np.float64],
    threshold: float,
) -> dict[str, Any]:
    """Row of one shift, see ``stress``; ``scores`` and ``clean`` (N, 3), NaN where refused."""
    patients = [film.patient for film in films]
    analysed = _analysed(scores)
    judged = Judged(
        films=[film for film, seen in zip(films, analysed, strict=True) if seen],
        scores=scores[analysed],
        threshold=threshold,
    )
    measure = _with_changes(judged, scores, clean)
    return {
        "shift": shift.words,
        "name": shift.name,
        "strength": shift.strength,
        "films": len(films),
        **at_hand(measure, len(films)),
        "intervals": intervals(measure, patients, patients_counted(judged)),
    }


def _with_changes(judged: Judged, scores: NDArray[np.float64], clean: NDArray[np.float64]) -> Measure:
    """Of weights of all films: figures of those analysed, changes among those analysed before and after."""
    analysed = _analysed(scores)
    both = analysed & _analysed(clean)
    before, after = 1 - clean[both, 0], 1 - scores[both, 0]
    flips = np.asarray((before >= judged.threshold) != (after >= judged.threshold))
    figures = figures_of(judged, FIGURES)

    def measure(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return figures(weights[:, analysed]) | {
            "flips": share(flips, weights[:, both]),
            "mean_change": share(np.abs(after - before), weights[:, both]),
            "refused": share(~analysed, weights),
        }

    return measure


def _analysed(scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(scores).all(axis=1))
