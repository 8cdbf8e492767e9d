"""Impostors are films of the same form as genuine ones, and none is genuine."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from triage.learning.impostors import KINDS


@pytest.fixture(scope="module")
def films() -> Tensor:
    """Body brighter than air, a dark spot up left."""
    across, down = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="xy")
    body = torch.exp(-(across**4) - 0.5 * (down - 0.3) ** 4) - 0.5 * torch.exp(
        -8 * ((across + 0.4) ** 2 + (down + 0.5) ** 2)
    )
    return body.clamp(0, 1).expand(12, 1, 64, 64).clone()


@pytest.mark.parametrize("name", list(KINDS))
def test_every_kind_keeps_the_form_and_changes_the_film(name: str, films: Tensor) -> None:
    before = films.clone()
    made = KINDS[name](films, Generator().manual_seed(1))
    assert (made.shape, made.dtype) == (films.shape, films.dtype)
    assert made.min() >= -1e-6
    assert made.max() <= 1 + 1e-6
    assert ((made - films).abs().mean((1, 2, 3)) > 0.02).all()
    torch.testing.assert_close(films, before)


@pytest.mark.parametrize("name", list(KINDS))
def test_the_same_seed_makes_the_same_impostors(name: str, films: Tensor) -> None:
    one, same, other = (KINDS[name](films, Generator().manual_seed(seed)) for seed in (5, 5, 6))
    torch.testing.assert_close(one, same, atol=0, rtol=0)
    if name != "inverted":
        assert not torch.equal(one, other)


def test_a_turned_film_is_turned_further_than_a_genuine_one_may_be() -> None:
    down = torch.linspace(0, 1, 32)[:, None].expand(200, 1, 32, 32).contiguous()
    made = KINDS["turned"](down, Generator().manual_seed(2))[:, 0, 12:20, 12:20]
    downwards, across = made.diff(dim=1).mean((1, 2)), made.diff(dim=2).mean((1, 2))
    degrees = torch.atan2(across, downwards).abs().rad2deg()
    assert degrees.min() > 44
    for exactly in (90, 180):
        assert ((degrees - exactly).abs() < 1).float().mean() > 0.1


def test_quarters_never_stay_where_they_were() -> None:
    films = torch.zeros(1, 1, 8, 8)
    films[..., :4, :4], films[..., :4, 4:], films[..., 4:, :4] = 1, 0.7, 0.4
    for seed in range(60):
        assert not torch.equal(KINDS["shuffled"](films, Generator().manual_seed(seed)), films)
