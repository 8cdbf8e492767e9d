"""How well a classifier does on labelled films: the numbers a card states and a site can check on its own films."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from triage.errors import NotAnalysed, TriageError
from triage.learning.films import NORMAL, both_kinds, labelled_films
from triage.vision.pixels import prepare, read_film

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from triage.learning.films import LabelledFilm
    from triage.vision.classifier import Classifier

BATCH = 16


def evaluate(directory: Path, classifier: Classifier) -> dict[str, Any]:
    """Score every film in folders NORMAL and PNEUMONIA (or normal, bacterial, viral): JPEG, PNG or DICOM, any size.

    ``n`` counts the films analysed, ``not_analysed`` those that cannot be read or judged: they are in no other figure.
    ``three_class_accuracy`` counts films whose kind is stated by folder or name, None if no pneumonia's is.
    Raise TriageError on missing folders, or if films of one kind only could be analysed.
    """
    films = labelled_films(directory)
    scores = list(scores_of(films, classifier))
    analysed = [film for film, score in zip(films, scores, strict=True) if score is not None]
    if not both_kinds(analysed):
        raise TriageError(f"{directory}: needs films of both kinds that can be read, normal and pneumonia")
    measured = metrics(
        np.stack([score for score in scores if score is not None]), analysed, threshold=classifier.card.threshold
    )
    return measured | {"not_analysed": len(films) - len(analysed)}


def scores_of(films: Sequence[LabelledFilm], classifier: Classifier) -> Iterator[NDArray[np.float64] | None]:
    """Probabilities (3) of each film, None where it cannot be read or judged."""
    for start in range(0, len(films), BATCH):
        prepared = [_prepared(film, classifier) for film in films[start : start + BATCH]]
        batch = [pixels for pixels in prepared if pixels is not None]
        rows = iter(classifier.score(np.stack(batch))) if batch else iter(())
        for pixels in prepared:
            yield None if pixels is None else next(rows)


def _prepared(film: LabelledFilm, classifier: Classifier) -> NDArray[np.float32] | None:
    try:
        return prepare(read_film(film.path), classifier.card.preprocessing)
    except (NotAnalysed, OSError):
        return None


def metrics(scores: NDArray[np.float64], films: Sequence[LabelledFilm], *, threshold: float) -> dict[str, Any]:
    """Probabilities (N, 3) of N films to counts, AUC and accuracy. Flagged: P(pneumonia) >= ``threshold``."""
    positive = np.array([film.pneumonia for film in films])
    p_pneumonia = 1 - scores[:, NORMAL]
    flagged = p_pneumonia >= threshold
    return {
        "n": len(films),
        "auc": auc(p_pneumonia, positive),
        "threshold": threshold,
        "true_positive": int((flagged & positive).sum()),
        "false_negative": int((~flagged & positive).sum()),
        "false_positive": int((flagged & ~positive).sum()),
        "true_negative": int((~flagged & ~positive).sum()),
        "three_class_accuracy": three_class_accuracy(scores, films),
    }


def auc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve by ranks (Mann-Whitney), ties counted half. Needs both kinds."""
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(count) - (count - 1) / 2  # of equal scores, from 1
    positives = int(positive.sum())
    above = mean_rank[place][positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(positive) - positives)))


def three_class_accuracy(scores: NDArray[np.float64], films: Sequence[LabelledFilm]) -> float | None:
    stated = [(row, film.label) for row, film in zip(scores, films, strict=True) if film.label is not None]
    if all(label == NORMAL for _, label in stated):
        return None
    return float(np.mean([row.argmax() == label for row, label in stated]))
