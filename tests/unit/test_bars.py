"""Even bars along a film's sides are found and taken off; nothing else is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from making import CARD
from triage.card import Thorax
from triage.vision.bars import cut, has_bars, inside, repeated, shares, uncut
from triage.vision.classifier import Classifier
from triage.vision.efficientnet import EfficientNetLite0
from triage.vision.thorax import Locator

SIDE = 200
WHOLE = [0, 0, SIDE, SIDE]
PERCENTILES = (1.0, 99.0)


@pytest.fixture
def film() -> Tensor:
    """Detail everywhere, and a slope, as films have."""
    noise = torch.rand(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    return 0.2 + 0.4 * noise + 0.3 * torch.linspace(0, 1, SIDE)


def barred(film: Tensor, *widths: int, grey: float = 0.0) -> Tensor:
    left, top, right, bottom = widths
    changed = torch.full_like(film, grey)
    changed[..., top : SIDE - bottom, left : SIDE - right] = film[..., top : SIDE - bottom, left : SIDE - right]
    return changed


def test_a_film_without_bars_is_left_alone(film: Tensor) -> None:
    assert inside(film).tolist() == [WHOLE]
    assert not has_bars(film, inside(film)).any()
    assert cut(film, inside(film), PERCENTILES) is film
    assert torch.equal(repeated(film, inside(film)), film)


@pytest.mark.parametrize("grey", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("widths", [(20, 20, 20, 20), (0, 30, 0, 0), (7, 0, 11, 0), (0, 0, 0, 59)])
def test_bars_of_any_grey_are_found_with_a_line_more(
    film: Tensor, widths: tuple[int, int, int, int], grey: float
) -> None:
    left, top, right, bottom = (width + bool(width) for width in widths)
    assert inside(barred(film, *widths, grey=grey)).tolist() == [[left, top, SIDE - right, SIDE - bottom]]


def test_a_marker_s_stroke_in_a_bar_does_not_hide_it(film: Tensor) -> None:
    changed = barred(film, 20, 0, 0, 0)
    changed[..., 50:53, 5:9] = 1
    assert inside(changed).tolist() == [[21, 0, SIDE, SIDE]]


def test_a_slope_is_no_bar(film: Tensor) -> None:
    """Air beside a child is even along each line, and grows brighter from line to line."""
    slope = torch.linspace(0, 1, SIDE).expand_as(film).clone()
    left = int(inside(slope)[0, 0])
    assert left <= 0.06 * SIDE


def test_what_is_even_all_over_has_no_bars() -> None:
    assert inside(torch.zeros(1, 1, SIDE, SIDE)).tolist() == [WHOLE]


def test_more_than_three_tenths_of_a_side_is_no_bar(film: Tensor) -> None:
    assert inside(barred(film, 61, 0, 0, 0)).tolist() == [WHOLE]


def test_each_film_of_a_batch_is_looked_at_by_itself(film: Tensor) -> None:
    films = torch.cat([film, barred(film, 10, 0, 0, 0), barred(film, 0, 0, 0, 15, grey=1.0)])
    assert inside(films).tolist() == [WHOLE, [11, 0, SIDE, SIDE], [0, 0, SIDE, SIDE - 16]]
    assert torch.equal(cut(films, inside(films), PERCENTILES)[0], film[0])


def test_where_bars_were_the_edge_is_repeated(film: Tensor) -> None:
    ranges = torch.tensor([[10, 20, 180, 150]])
    found = repeated(film, ranges)
    assert torch.equal(found[..., 20:150, 10:180], film[..., 20:150, 10:180])
    assert torch.equal(found[..., 30, :10], film[..., 30, 10:11].expand(1, 1, 10))
    assert torch.equal(found[..., 150:, 30], film[..., 149:150, 30].expand(1, 1, 50))
    assert found[0, 0, 199, 199] == film[0, 0, 149, 179]


def test_boxes_come_back_to_where_they_are_on_the_film(film: Tensor) -> None:
    ranges = torch.tensor([[20, 50, 180, 150]])
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    assert torch.allclose(uncut(whole, ranges, film), shares(ranges, film))
    assert torch.allclose(
        uncut(torch.tensor([[0.5, 0.5, 0.75, 1]]), ranges, film), torch.tensor([[0.5, 0.5, 0.7, 0.75]])
    )


def test_a_film_with_bars_is_cut_to_what_it_shows(film: Tensor) -> None:
    smooth = torch.nn.functional.avg_pool2d(film, 21, 1, 10, count_include_pad=False)
    changed = barred(smooth, 40, 40, 40, 40, grey=1.0)
    middle = cut(changed, inside(changed), PERCENTILES)
    expected = cut(smooth, torch.tensor([[41, 41, 159, 159]]), PERCENTILES)
    assert torch.allclose(middle, expected)
    assert middle.max() == 1
    assert middle.min() == 0


def test_the_network_is_shown_the_same_of_a_film_with_bars_and_of_one_that_repeats_its_edges() -> None:
    """Wherever the locator says the thorax is: of the bars nothing is left."""
    torch.manual_seed(2)
    card = dataclasses.replace(CARD, thorax=Thorax(margin=0.1, size_px=64, without_bars=True))
    classifier = Classifier(EfficientNetLite0().eval(), card, "cpu", Locator().eval())
    film = np.random.default_rng(1).random((1, 224, 224), dtype=np.float32)
    dark, bright = film.copy(), film.copy()
    for changed, grey in ((dark, 0), (bright, 1)):
        changed[:, :20] = grey
        changed[:, :, -30:] = grey
    seen = [classifier.crops(changed) for changed in (dark, bright)]
    assert np.allclose(seen[0].pixels, seen[1].pixels, atol=1e-5)
    assert np.allclose(seen[0].boxes, seen[1].boxes, atol=1e-5)
    blind = Classifier(
        EfficientNetLite0().eval(),
        dataclasses.replace(card, thorax=Thorax(margin=0.1, size_px=64)),
        "cpu",
        classifier.locator,
    )
    assert not np.allclose(blind.crops(dark).pixels, blind.crops(bright).pixels, atol=1e-2)
