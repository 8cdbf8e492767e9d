"""The weights that go with the project, on real films of patients they were not trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import triage
from triage.learning.evaluation import evaluate
from triage.learning.films import labelled_films, split_by_patient
from triage.vision.classifier import Classifier, load_classifier

CARD = Path(triage.__file__).parent / "weights" / "pneumonia.json"


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return load_classifier(CARD)


def test_shipped_weights_belong_to_their_card_and_are_small(classifier: Classifier) -> None:
    assert classifier.card.classes == ("normal", "bacterial", "viral")
    assert CARD.with_suffix(".safetensors").stat().st_size < 10_000_000


def test_the_card_claims_no_more_than_the_films_show(classifier: Classifier) -> None:
    population = classifier.card.population
    assert set(population.modalities) == {"CR", "DX"}
    assert population.age_min_years >= 1
    assert population.age_max_years < 6
    assert "10.17632/rscbjbr9sj" in classifier.card.data["source"]
    assert classifier.card.data["licence"] == "CC BY 4.0"


def test_the_card_states_figures_for_shifted_films_too(classifier: Classifier) -> None:
    shifted = classifier.card.metrics["validation_shifted"]
    assert shifted["auc"] > 0.97
    assert shifted["sensitivity"] >= 0.985


@pytest.mark.films
def test_full_size_films_of_patients_not_trained_on_are_told_apart(classifier: Classifier, films: Path) -> None:
    found = evaluate(films / "pediatric-cxr-full", classifier)
    assert found["n"] == 80
    assert found["auc"] > 0.97
    assert found["false_negative"] <= 4
    assert found["false_positive"] <= 4


@pytest.mark.films
def test_no_patient_of_the_full_size_films_was_trained_on(classifier: Classifier, films: Path) -> None:
    small = labelled_films(films / "pediatric-cxr-224")
    apart = {film.patient for film in labelled_films(films / "pediatric-cxr-full")}
    _, validation = split_by_patient(
        small,
        [film.path.name for film in small],
        share=classifier.card.training["validation_share"],
        seed=classifier.card.training["seed"],
        held_out=apart,
    )
    patients = {small[i].patient for i in validation}
    assert apart <= patients
    # Exact duplicates under two names tie a few more patients together than names alone do.
    assert abs(len(patients) - classifier.card.data["validation"]["patients"]) <= 3


def test_a_flat_grey_film_gets_a_score_without_a_crash(classifier: Classifier) -> None:
    scores = classifier.score(np.full((1, 224, 224), 0.5, np.float32))
    assert np.isfinite(scores).all()
