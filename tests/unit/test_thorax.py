"""The locator's form: boxes, likeness, and what a classifier makes of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from making import CARD
from triage.card import Thorax
from triage.errors import CardMismatchError, Reason
from triage.vision.classifier import Classifier, check_card
from triage.vision.efficientnet import EfficientNetLite0
from triage.vision.thorax import USUAL_BOX, Locator

THORAX = Thorax(margin=0.1, size_px=64)
LOCATED = dataclasses.replace(CARD, thorax=THORAX)


@pytest.fixture
def locator() -> Locator:
    """Untrained, but for what a test changes; everything is familiar to it."""
    torch.manual_seed(2)
    return Locator().eval()


@pytest.fixture(scope="module")
def films() -> np.ndarray:
    return np.random.default_rng(3).random((5, 224, 224), dtype=np.float32)


def always(locator: Locator, *, box: tuple[float, ...] | None = None, chest: float | None = None) -> Locator:
    """One that gives the same answer for every film."""
    for place, answer in ((locator.box, box), (locator.chest, chest)):
        if answer is not None:
            torch.nn.init.zeros_(place[-1].weight)
            place[-1].bias.data = torch.as_tensor(answer, dtype=torch.float32).reshape(-1)
    return locator


def refusing(locator: Locator, refused: int, films: np.ndarray) -> Locator:
    """One that takes for a chest film all but one of these: it knows that one's bright corner."""
    films[refused] = 1
    with torch.inference_mode():
        found = locator.features(torch.from_numpy(films)[:, None]).mean((2, 3))
    others = torch.cat([found[:refused], found[refused + 1 :]])
    reach = (others - others.mean(0)).norm(dim=1).max()
    assert (found[refused] - others.mean(0)).norm() > 1.5 * reach
    locator.centre.copy_(others.mean(0))
    locator.whitening.copy_(torch.eye(len(found[0])) / (1.2 * reach))
    return always(locator, chest=1.0)


@pytest.mark.parametrize("side", [112, 224, 300])
def test_each_film_of_any_size_has_a_box_and_a_likeness(locator: Locator, side: int) -> None:
    with torch.inference_mode():
        boxes, likeness = locator(torch.rand(3, 1, side, side))
    assert (boxes.shape, likeness.shape) == ((3, 4), (3,))
    assert torch.isfinite(boxes).all()
    assert torch.isfinite(likeness).all()


def test_a_film_gets_the_same_alone_and_in_a_batch(locator: Locator) -> None:
    films = torch.rand(3, 1, 224, 224)
    with torch.inference_mode():
        together = locator(films)
        alone = [torch.cat(parts) for parts in zip(*(locator(film[None]) for film in films), strict=True)]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_where_a_thing_is_changes_the_box(locator: Locator) -> None:
    found = torch.zeros(1, 112, 7, 7)
    found[..., :3] = 1
    with torch.inference_mode():
        assert (locator.boxes(found) - locator.boxes(found.flip(3))).abs().max() > 1e-3


def test_what_is_far_from_the_films_is_refused_however_sure_the_other_half_is(locator: Locator) -> None:
    always(locator, chest=50.0)
    film = torch.rand(1, 1, 112, 112)
    with torch.inference_mode():
        assert locator(film)[1] > 0
        locator.whitening.copy_(torch.eye(len(locator.centre)))
        locator.centre.copy_(locator.features(film).mean((0, 2, 3)) + 1)
        assert locator(film)[1] < 0


def test_what_the_other_half_refuses_is_refused_however_familiar_it_is(locator: Locator) -> None:
    with torch.inference_mode():
        assert always(locator, chest=-0.1)(torch.rand(1, 1, 112, 112))[1] < 0


def test_the_network_is_shown_the_box_and_its_margin_alone(locator: Locator) -> None:
    always(locator, box=tuple((np.array([0.25, 0.25, 0.75, 0.75]) - USUAL_BOX) / 0.3), chest=1.0)
    classifier = Classifier(EfficientNetLite0(), LOCATED, locator=locator)
    film = np.linspace(0, 1, 224 * 224, dtype=np.float32).reshape(1, 224, 224)
    outside = film.copy()
    outside[:, :40], outside[:, :, -40:] = 1, 0  # the margin ends at a fifth
    crops, others = classifier.crops(film), classifier.crops(outside)
    np.testing.assert_allclose(crops.boxes, [[0.2, 0.2, 0.8, 0.8]], atol=1e-5)
    assert crops.pixels.shape == (1, 64, 64)
    assert crops.pixels.dtype == np.float32
    assert crops.pixels.min() == 0
    assert crops.pixels.max() == 1
    np.testing.assert_allclose(crops.pixels, others.pixels, atol=1e-5)
    np.testing.assert_allclose(classifier.score(film), classifier.score(outside), atol=1e-5)


def test_a_film_that_is_no_chest_film_gets_its_reason_and_the_others_their_score(
    locator: Locator, films: np.ndarray
) -> None:
    films = films.copy()
    films[2, 10, 10] = np.nan
    classifier = Classifier(EfficientNetLite0(), LOCATED, locator=refusing(locator, 1, np.delete(films, 2, 0)))
    films[1] = 1
    found = classifier.findings(films)
    assert [each.reason for each in found] == [None, Reason.NOT_A_CHEST_FILM, Reason.MODEL_OUTPUT_INVALID, None, None]
    assert [each.p_pneumonia is None for each in found] == [False, True, True, False, False]
    assert {each.weights_sha256 for each in found} == {CARD.sha256}


def test_a_locator_without_an_answer_is_no_reason_to_pass(locator: Locator, films: np.ndarray) -> None:
    always(locator, chest=float("nan"))
    found = Classifier(EfficientNetLite0(), LOCATED, locator=locator).findings(films)
    assert [each.reason for each in found] == [Reason.MODEL_OUTPUT_INVALID] * 5


def test_a_card_without_thorax_shows_the_whole_film_and_refuses_none(films: np.ndarray) -> None:
    classifier = Classifier(EfficientNetLite0(), CARD)
    crops = classifier.crops(films)
    np.testing.assert_array_equal(crops.pixels, films)
    np.testing.assert_array_equal(crops.boxes, [[0, 0, 1, 1]] * 5)
    assert [each.reason for each in classifier.findings(films)] == [None] * 5


@pytest.mark.parametrize("change", [{"size_px": 100}, {"size_px": 0}, {"margin": -0.1}, {"margin": 1.0}])
def test_a_thorax_that_makes_no_sense_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(CardMismatchError, match="thorax"):
        check_card(dataclasses.replace(LOCATED, thorax=dataclasses.replace(THORAX, **change)))
