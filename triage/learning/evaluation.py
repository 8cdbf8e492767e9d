"""How well a classifier does on labelled films: the numbers a card states and a site can check on its own films."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from triage.errors import NotAnalysed, TriageError
from triage.learning.figures import Judged, at_hand, figures_of, intervals, patients_counted
from triage.learning.films import LabelledFilm, both_kinds, labelled_films
from triage.learning.out_of_fold import OutOfFold, digest_of
from triage.vision.classifier import probabilities
from triage.vision.pixels import prepare, read_film

if TYPE_CHECKING:
    from triage.vision.classifier import Classifier

BATCH = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """What is said of one film: probabilities (3), None if it cannot be read or judged.

    ``trained_on``: the network was fitted to it, so the answer is that of one which was not.
    """

    film: LabelledFilm
    scores: NDArray[np.float64] | None
    trained_on: bool = False


def evaluate(source: Path, classifier: Classifier, out_of_fold: OutOfFold | None = None) -> dict[str, Any]:
    """Judge every film in folders NORMAL and PNEUMONIA (or normal, bacterial, viral), or of a table: see ``summary``.

    JPEG, PNG or DICOM, any size. Raise TriageError if there are no such films, or of one kind only can be analysed.
    """
    return summary(list(answers(labelled_films(source), classifier, out_of_fold)), classifier.card.threshold)


def summary(given: Sequence[Answer], threshold: float) -> dict[str, Any]:
    """Figures of the films analysed, with their ``intervals``; ``metrics`` says what they are.

    ``not_analysed`` counts films that cannot be read or judged: they are in no other figure. ``out_of_fold`` counts
    those judged by a network that was not trained on them. Raise TriageError without films of both kinds.
    """
    judged = judged_films(given, threshold)
    if not both_kinds(judged.films):
        raise TriageError("needs films of both kinds that can be analysed, normal and pneumonia")
    return metrics(judged.scores, judged.films, threshold=threshold) | {
        "patients": len(set(judged.patients)),
        "out_of_fold": sum(answer.trained_on for answer in given if answer.scores is not None),
        "not_analysed": len(given) - len(judged.films),
        "intervals": intervals(figures_of(judged), judged.patients, patients_counted(judged)),
    }


def judged_films(given: Sequence[Answer], threshold: float) -> Judged:
    """Without those that were not analysed."""
    analysed = [(answer.film, answer.scores) for answer in given if answer.scores is not None]
    scores = np.array([scores for _, scores in analysed], np.float64).reshape(-1, 3)
    return Judged(films=[film for film, _ in analysed], scores=scores, threshold=threshold)


def answers(
    films: Sequence[LabelledFilm], classifier: Classifier, out_of_fold: OutOfFold | None = None
) -> Iterator[Answer]:
    """One for each film, in order. A film trained on that the network refuses is refused, not looked up."""
    for part in _parts(films):
        prepared = [prepared_film(film, classifier) for film in part]
        seen = [pixels for pixels in prepared if pixels is not None]
        found = iter(scores_of(np.stack(seen), classifier) if seen else [])
        for film, pixels in zip(part, prepared, strict=True):
            scores = None if pixels is None else next(found)
            logits = out_of_fold.of(digest_of(pixels)) if out_of_fold and pixels is not None else None
            if scores is not None and logits is not None:
                (scores,) = probabilities(logits[None], films=1, calibration=classifier.card.calibration)
            yield Answer(film=film, scores=scores, trained_on=logits is not None)


def scores_of(films: NDArray[np.float32], classifier: Classifier) -> list[NDArray[np.float64] | None]:
    """Calibrated probabilities (3) of each film (N, size, size), None where the network refuses it."""
    return [
        None if finding.reason else np.array([finding.p_normal, finding.p_bacterial, finding.p_viral], np.float64)
        for finding in classifier.findings(films)
    ]


def prepared_film(film: LabelledFilm, classifier: Classifier) -> NDArray[np.float32] | None:
    """As the network gets it, (size, size); None if it cannot be read."""
    try:
        return prepare(read_film(film.path), classifier.card.preprocessing)
    except (NotAnalysed, OSError):
        return None


def metrics(scores: NDArray[np.float64], films: Sequence[LabelledFilm], *, threshold: float) -> dict[str, Any]:
    """Probabilities (N, 3) of N films to counts and to the figures of ``triage.learning.figures``.

    Flagged: P(pneumonia) >= ``threshold``. None for a figure that these films cannot give, such as
    ``three_class_accuracy`` where no pneumonia's kind is stated by folder or name.
    """
    judged = Judged(films=films, scores=scores, threshold=threshold)
    flagged, positive = judged.flagged, judged.positive
    return {
        "n": len(films),
        "threshold": threshold,
        "true_positive": int((flagged & positive).sum()),
        "false_negative": int((~flagged & positive).sum()),
        "false_positive": int((flagged & ~positive).sum()),
        "true_negative": int((~flagged & ~positive).sum()),
        **at_hand(figures_of(judged), len(films)),
    }


def _parts(films: Sequence[LabelledFilm]) -> Iterator[Sequence[LabelledFilm]]:
    return (films[start : start + BATCH] for start in range(0, len(films), BATCH))
