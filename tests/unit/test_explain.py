"""Where explanations point when it is known what moves the network, and how they are judged."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from making import CARD
from triage.learning.faithfulness import area, faith, inside, mean_faith, stability
from triage.vision import explain
from triage.vision.classifier import Classifier
from triage.vision.efficientnet import EfficientNetLite0
from triage.vision.explain import (
    Attribution,
    fitted,
    gradient,
    greys_of,
    hidden,
    log_odds_of,
    masks,
    segments_of,
    superpixels,
)

SIDE = 64


class Spot(nn.Module):
    """Says pneumonia by how bright the film is at one place, and nothing else."""

    def __init__(self, rows: slice, columns: slice) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, x: Tensor) -> Tensor:
        seen = 4 * x[:, 0, self.rows, self.columns].mean((1, 2))
        return torch.stack([-seen, seen, torch.full_like(seen, -9.0)], 1)


def classifier_of(network: nn.Module) -> Classifier:
    preprocessing = dataclasses.replace(CARD.preprocessing, size_px=SIDE)
    found = Classifier(EfficientNetLite0(), dataclasses.replace(CARD, preprocessing=preprocessing))
    found.network = network  # type: ignore[assignment] # of the same form as far as it is used
    return found


@pytest.fixture(scope="module")
def film() -> np.ndarray:
    """Grey with some structure, bright in the upper left quarter."""
    film = np.random.default_rng(1).normal(0.4, 0.05, (SIDE, SIDE))
    film[8:28, 8:28] += 0.4
    return film.clip(0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def spot() -> Classifier:
    return classifier_of(Spot(slice(8, 28), slice(8, 28)))


@pytest.fixture(scope="module")
def untrained() -> Classifier:
    torch.manual_seed(1)
    preprocessing = dataclasses.replace(CARD.preprocessing, size_px=SIDE)
    return Classifier(EfficientNetLite0(), dataclasses.replace(CARD, preprocessing=preprocessing))


def test_superpixels_find_what_speaks_for_pneumonia(film: np.ndarray, spot: Classifier) -> None:
    found = superpixels(film, spot)
    towards = found.values.clip(0)
    assert towards[8:28, 8:28].sum() / towards.sum() > 0.7
    assert found.box == (0, 0, 1, 1)


def test_superpixels_find_what_speaks_against(film: np.ndarray, spot: Classifier) -> None:
    dark = film.copy()
    dark[8:28, 8:28] -= 0.7
    against = -superpixels(dark.clip(0, 1), spot).values.clip(max=0)
    assert against[8:28, 8:28].sum() / against.sum() > 0.7


@pytest.mark.parametrize("explainer", [superpixels, gradient])
def test_the_same_film_gets_the_same_explanation(film: np.ndarray, untrained: Classifier, explainer) -> None:  # noqa: ANN001
    one, same = (explainer(film, untrained) for _ in range(2))
    assert np.array_equal(one.values, same.values)
    assert one.values.shape == (SIDE, SIDE)
    assert np.isfinite(one.values).all()


def test_a_gradient_leaves_the_network_as_it_was(film: np.ndarray, untrained: Classifier) -> None:
    before = untrained.score(film[None])
    gradient(film, untrained)
    assert np.array_equal(untrained.score(film[None]), before)
    assert not any(parameter.requires_grad for parameter in untrained.network.parameters())


@pytest.fixture(scope="module")
def lively() -> Classifier:
    """Untrained, its layers scaled to what goes through them: what a new one says hardly depends on the film."""
    torch.manual_seed(1)
    network = EfficientNetLite0().train()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        network(torch.randn(16, 1, SIDE, SIDE))
    preprocessing = dataclasses.replace(CARD.preprocessing, size_px=SIDE)
    return Classifier(network.eval(), dataclasses.replace(CARD, preprocessing=preprocessing))


def test_a_gradient_accounts_for_what_sets_the_film_apart_from_an_even_grey(
    film: np.ndarray, lively: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Completeness, as its authors call it: values sum up to the difference of log-odds, given steps enough."""
    monkeypatch.setattr(explain, "STEPS", 100)
    grey = np.full_like(film, np.quantile(film, 0.5))
    there, nothing = log_odds_of(np.stack([film, grey]), lively)
    assert abs(there - nothing) > 1e-2
    total = gradient(film, lively).values.sum() / 16**2
    assert total == pytest.approx(there - nothing, rel=0.1)


def test_weights_of_a_sum_are_its_terms() -> None:
    truth = np.array([3.0, -2.0, 0.0, 1.0])
    shown = masks(4, 400)
    np.testing.assert_allclose(fitted(shown, shown @ truth + 5), truth, atol=0.1)


def test_hidden_parts_are_grey_and_shown_ones_as_they_were(film: np.ndarray) -> None:
    segments = segments_of(film)
    shown = np.ones((2, segments.max() + 1))
    shown[1, 0] = 0
    both = hidden(film, segments, shown, np.array([0.1, 0.3], np.float32))
    assert np.array_equal(both[0], film)
    assert np.array_equal(both[1][segments > 0], film[segments > 0])
    assert np.unique(both[1][segments == 0]) == np.float32(0.3)


# -- how far they can be believed ----------------------------------------------------------------------------------


def test_an_explanation_that_is_right_beats_the_lot(film: np.ndarray, spot: Classifier) -> None:
    found = faith(superpixels, film, spot)
    assert found.deletion < found.deletion_by_lot - 0.1
    assert found.insertion > found.insertion_by_lot + 0.1
    assert found.stability > 0.5


def test_an_explanation_that_is_wrong_does_not(film: np.ndarray, spot: Classifier) -> None:
    def opposite(film: np.ndarray, classifier: Classifier) -> Attribution:
        found = superpixels(film, classifier)
        return dataclasses.replace(found, values=-found.values)

    found = faith(opposite, film, spot)
    assert found.deletion > found.deletion_by_lot
    assert found.insertion < found.insertion_by_lot


def test_areas_are_the_mean_of_their_steps(film: np.ndarray, spot: Classifier) -> None:
    segments = np.zeros((SIDE, SIDE), np.int64)
    segments[:, SIDE // 2 :] = 1
    order = np.array([0, 1])
    steps = [hidden(film, segments, np.array([shown] * 2, float), greys_of(film)) for shown in ([1, 1], [0, 1], [0, 0])]
    expected = np.mean([spot.score(crops)[:, 1:].sum(1) for crops in steps])
    assert area(order, film, segments, spot, shows=False) == pytest.approx(expected, abs=1e-4)


def test_corners_are_outside_and_the_middle_is_inside(untrained: Classifier) -> None:
    corner, middle = (np.zeros((SIDE, SIDE), np.float32) for _ in range(2))
    corner[:4, :4], middle[30:34, 30:34] = 1, 1
    for values, share in ((corner, 0), (middle, 1), (-corner, 1), (corner + middle, 0.5)):
        found = Attribution(values=values, segments=None, box=(0, 0, 1, 1))
        assert inside(found, untrained) == pytest.approx(share)


def test_an_explanation_that_stays_where_it_was_is_not_stable(film: np.ndarray, untrained: Classifier) -> None:
    noise = np.random.default_rng(3).normal(size=(SIDE, SIDE)).astype(np.float32)

    def still(_film: np.ndarray, _classifier: Classifier) -> Attribution:
        return Attribution(values=noise, segments=None, box=(0, 0, 1, 1))

    def moving(film: np.ndarray, _classifier: Classifier) -> Attribution:
        return Attribution(values=film, segments=None, box=(0, 0, 1, 1))

    assert abs(stability(still(film, untrained), still, film, untrained)) < 0.2
    assert stability(moving(film, untrained), moving, film, untrained) == pytest.approx(1)


def test_means_are_of_each_kind(film: np.ndarray, untrained: Classifier) -> None:
    found = mean_faith([film, film], untrained)
    assert set(found) == {"superpixels", "gradient"}
    assert all(np.isfinite(list(figures.values())).all() for figures in found.values())
    assert mean_faith([], untrained) == {}
