"""The network's form, and scores that are probabilities or nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from triage.card import Calibration, Card, Population, Preprocessing
from triage.errors import CardMismatchError, NotAnalysed, Reason
from triage.vision.classifier import Classifier, check_card, probabilities
from triage.vision.efficientnet import ARCHITECTURE, CLASSES, EfficientNetLite0, stored_tensors

SIZE = 64
CARD = Card(
    architecture=ARCHITECTURE,
    classes=CLASSES,
    preprocessing=Preprocessing(size_px=SIZE, stretch_percentiles=(1.0, 99.0), mean=0.5, std=0.25),
    population=Population(modalities=("DX",), body_parts=("CHEST",), views=("AP",), age_min_years=1, age_max_years=6),
    threshold=0.3,
    likely_threshold=0.8,
    temperature=1.5,
    sha256="",
    date="2026-01-01",
)


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    torch.manual_seed(7)
    return EfficientNetLite0()


@pytest.fixture(scope="module")
def classifier(network: EfficientNetLite0) -> Classifier:
    return Classifier(network, CARD)


@pytest.fixture(scope="module")
def films() -> np.ndarray:
    return np.random.default_rng(3).random((5, SIZE, SIZE), dtype=np.float32)


def test_a_224_pixel_film_has_features_on_a_7_by_7_grid(classifier: Classifier) -> None:
    with torch.inference_mode():
        assert classifier.network.features(torch.zeros(1, 1, 224, 224)).shape == (1, 1280, 7, 7)


def test_the_network_has_the_published_number_of_parameters(network: EfficientNetLite0) -> None:
    published = 4_652_008  # EfficientNet-Lite0 with 1000 classes
    last_layer, colours = (1000 - len(CLASSES)) * (1280 + 1), 2 * 32 * 3 * 3
    assert sum(p.numel() for p in network.parameters()) == published - last_layer - colours


def test_padding_of_stride_two_is_below_and_right_as_in_tensorflow() -> None:
    network = EfficientNetLite0()
    corner = torch.zeros(1, 1, 8, 8)
    corner[0, 0, 0, 0] = 1
    padded = torch.nn.functional.pad(corner, network.stem.padding)
    assert padded.shape == (1, 1, 9, 9)
    assert padded[0, 0, 0, 0] == 1


def test_scores_are_probabilities(classifier: Classifier, films: np.ndarray) -> None:
    scores = classifier.score(films)
    assert scores.shape == (5, 3)
    assert scores.dtype == np.float64
    assert (scores >= 0).all()
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-12)


def test_a_film_scores_the_same_alone_and_in_a_batch(classifier: Classifier, films: np.ndarray) -> None:
    alone = np.concatenate([classifier.score(film[None]) for film in films])
    np.testing.assert_allclose(classifier.score(films), alone, atol=1e-5)


def test_a_batch_larger_than_one_pass_keeps_its_order(classifier: Classifier, films: np.ndarray) -> None:
    many = np.concatenate([films] * 8)
    np.testing.assert_allclose(classifier.score(many)[-5:], classifier.score(films), atol=1e-5)


def test_no_films_give_no_scores(classifier: Classifier) -> None:
    assert classifier.score(np.zeros((0, SIZE, SIZE), np.float32)).shape == (0, 3)


def test_the_films_given_are_left_as_they_were(classifier: Classifier, films: np.ndarray) -> None:
    untouched = films.copy()
    films.setflags(write=False)
    classifier.score(films)
    np.testing.assert_array_equal(films, untouched)


def test_mean_and_deviation_of_the_card_are_applied(network: EfficientNetLite0, films: np.ndarray) -> None:
    preprocessing = dataclasses.replace(CARD.preprocessing, mean=0.4, std=0.2)
    shifted = Classifier(network, dataclasses.replace(CARD, preprocessing=preprocessing))
    np.testing.assert_allclose(shifted.normalised(films)[:, 0].numpy(), (films - 0.4) / 0.2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(SIZE, SIZE), (1, SIZE, SIZE + 32), (1, 1, SIZE, SIZE)])
def test_films_of_another_shape_are_refused(classifier: Classifier, shape: tuple[int, ...]) -> None:
    with pytest.raises(NotAnalysed) as refusal:
        classifier.score(np.zeros(shape, np.float32))
    assert refusal.value.reason is Reason.MODEL_OUTPUT_INVALID


@pytest.mark.fault(102)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.5, -0.5])
def test_one_bad_pixel_is_never_a_score(classifier: Classifier, films: np.ndarray, value: float) -> None:
    broken = films.copy()
    broken[2, 10, 10] = value
    with pytest.raises(NotAnalysed) as refusal:
        classifier.score(broken)
    assert refusal.value.reason is Reason.MODEL_OUTPUT_INVALID


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.5, -0.5])
def test_one_bad_film_costs_the_others_of_its_batch_nothing(
    classifier: Classifier, films: np.ndarray, value: float
) -> None:
    broken = films.copy()
    broken[2, 10, 10] = value
    found = classifier.findings(broken)
    assert [finding.reason for finding in found] == [None, None, Reason.MODEL_OUTPUT_INVALID, None, None]
    for number in (0, 1, 3, 4):
        (alone,) = classifier.score(films[number : number + 1])
        np.testing.assert_allclose([found[number].p_normal, found[number].p_bacterial], alone[:2], atol=1e-5)


@pytest.mark.fault(102)
@pytest.mark.parametrize(
    "logits",
    [
        np.array([[0.0, np.nan, 0.0]]),
        np.array([[0.0, np.inf, 0.0]]),
        np.array([[0.0, -np.inf, 0.0]]),
        np.zeros((1, 2)),
        np.zeros((2, 3)),
        np.zeros(3),
    ],
)
def test_invalid_logits_are_never_a_score(logits: np.ndarray) -> None:
    with pytest.raises(NotAnalysed):
        probabilities(logits, films=1, calibration=Calibration(temperature=1.0))


def test_large_logits_do_not_overflow() -> None:
    np.testing.assert_array_equal(
        probabilities(np.array([[1e4, 0, -1e4]]), films=1, calibration=Calibration(temperature=1.0)), [[1, 0, 0]]
    )


def test_temperature_divides_the_logits_and_bias_is_added() -> None:
    calibration = Calibration(temperature=2.0, bias=(0.0, 0.25, -1.0))
    odds = probabilities(np.array([[3.0, 1.0, 0.0]]), films=1, calibration=calibration)[0]
    np.testing.assert_allclose(np.log(odds[0] / odds[1:]), [0.75, 2.5])


def test_a_weights_file_holds_no_counters(network: EfficientNetLite0) -> None:
    assert all(tensor.is_floating_point() for tensor in stored_tensors(network).values())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "resnet"}, "architecture"),
        ({"classes": ("normal", "viral", "bacterial")}, "classes"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"bias": (0.0, float("nan"), 0.0)}, "bias"),
        ({"bias": (0.0, 1.0)}, "bias"),
        ({"threshold": 0.0}, "threshold"),
        ({"threshold": 1.0, "likely_threshold": 1.0}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"likely_threshold": 0.2}, "likely_threshold"),
        ({"likely_threshold": 1.0}, "likely_threshold"),
        ({"size_px": 100}, "size_px"),
        ({"size_px": 0}, "size_px"),
        ({"std": 0.0}, "std"),
        ({"mean": float("nan")}, "mean"),
        ({"stretch_percentiles": (99.0, 1.0)}, "stretch_percentiles"),
        ({"stretch_percentiles": (0.0, 101.0)}, "stretch_percentiles"),
    ],
)
def test_a_card_this_code_cannot_serve_is_refused(change: dict[str, object], words: str) -> None:
    of_preprocessing = {f.name for f in dataclasses.fields(Preprocessing)} & change.keys()
    card = CARD
    if of_preprocessing:
        change = {"preprocessing": dataclasses.replace(CARD.preprocessing, **change)}
    card = dataclasses.replace(CARD, **change)
    with pytest.raises(CardMismatchError, match=words):
        check_card(card)


def test_a_good_card_is_accepted() -> None:
    check_card(CARD)


@pytest.mark.fault(100)
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), None])
def test_too_little_memory_is_told_as_such(
    classifier: Classifier, films: np.ndarray, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    def without_memory(_: object) -> None:
        if error:
            raise error
        torch.empty(1 << 56)

    monkeypatch.setattr(classifier, "_pass", without_memory)
    with pytest.raises(MemoryError):
        classifier.findings(films)


def test_another_fault_of_a_device_stays_what_it_is(
    classifier: Classifier, films: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(classifier, "_pass", broken)
    with pytest.raises(RuntimeError):
        classifier.findings(films)
