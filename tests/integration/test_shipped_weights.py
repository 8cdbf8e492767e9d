"""The weights that go with the project, on real films of patients they were not trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import triage
from triage.learning.evaluation import evaluate, prepared_film, scores_of
from triage.learning.films import labelled_films
from triage.learning.out_of_fold import OutOfFold, digest_of, read_out_of_fold
from triage.vision.classifier import Classifier, load_classifier

CARD = Path(triage.__file__).parent / "weights" / "pneumonia.json"


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return load_classifier(CARD)


@pytest.fixture(scope="module")
def out_of_fold(classifier: Classifier) -> OutOfFold:
    found = read_out_of_fold(CARD, classifier.card.sha256)
    assert found is not None
    return found


def test_shipped_weights_belong_to_their_card_and_are_small(classifier: Classifier) -> None:
    assert classifier.card.classes == ("normal", "bacterial", "viral")
    assert classifier.locator is not None
    assert CARD.with_suffix(".safetensors").stat().st_size < 20_000_000


def test_the_card_claims_no_more_than_the_films_show(classifier: Classifier) -> None:
    population = classifier.card.population
    assert set(population.modalities) == {"CR", "DX"}
    assert population.age_min_years >= 1
    assert population.age_max_years < 6
    assert "10.17632/rscbjbr9sj" in classifier.card.data["source"]
    assert classifier.card.data["licence"] == "CC BY 4.0"


def test_the_card_states_figures_out_of_fold_for_shifted_films_too(classifier: Classifier) -> None:
    plain, shifted = (classifier.card.metrics[name] for name in ("out_of_fold", "out_of_fold_shifted"))
    assert plain["auc"] > 0.99
    assert shifted["auc"] > 0.97
    assert plain["sensitivity"] >= 0.975
    assert classifier.card.curve


def test_every_film_trained_on_has_an_answer_out_of_fold(classifier: Classifier, out_of_fold: OutOfFold) -> None:
    trained_on = classifier.card.data["trained_on"]
    films = sum(trained_on[name] for name in classifier.card.classes)
    assert films - 40 <= len(out_of_fold.logits) <= films  # twins share an answer


def test_a_flat_grey_film_gets_a_score_without_a_crash(classifier: Classifier) -> None:
    scores = classifier.score(np.full((1, 224, 224), 0.5, np.float32))
    assert np.isfinite(scores).all()


@pytest.mark.films
def test_full_size_films_of_patients_not_trained_on_are_told_apart(classifier: Classifier, films: Path) -> None:
    found = evaluate(films / "pediatric-cxr-full", classifier)
    assert found["n"] >= 79
    assert found["auc"] > 0.97
    assert found["false_negative"] <= 4
    assert found["false_positive"] <= 4


@pytest.mark.films
def test_a_film_as_published_and_at_full_size_gets_the_same_answer(
    classifier: Classifier, out_of_fold: OutOfFold, films: Path
) -> None:
    """Squashed to 224 pixels and compressed, or as it came; and no patient of these films was trained on."""
    published = {film.path.name: film for film in labelled_films(films / "pediatric-cxr-224")}
    pairs = [(film, published[film.path.name]) for film in labelled_films(films / "pediatric-cxr-full")]
    prepared = [[prepared_film(film, classifier) for film in pair] for pair in pairs]
    large, small = (np.stack([pair[which] for pair in prepared]) for which in (0, 1))
    assert not any(out_of_fold.of(digest_of(film)) is not None for film in small)
    p = [
        np.array([1 - scores[0] for scores in scores_of(some, classifier) if scores is not None])
        for some in (large, small)
    ]
    assert len(p[0]) == len(p[1])
    assert np.abs(p[0] - p[1]).mean() <= 0.02
