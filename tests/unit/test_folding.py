"""Batch norm folded into the convolutions: the same answers from fewer steps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from triage.vision.efficientnet import EfficientNetLite0
from triage.vision.folding import folded


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    """A network that has seen films: statistics and scales of batch norm are not those of birth."""
    torch.manual_seed(11)
    network = EfficientNetLite0()
    for norm in (each for each in network.modules() if isinstance(each, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    network.train()
    with torch.no_grad():
        for _ in range(30):
            network(torch.randn(4, 1, 64, 64))
    return network


@pytest.mark.parametrize("side", [64, 96, 160])
def test_answers_are_the_same(network: EfficientNetLite0, side: int) -> None:
    films = torch.randn(3, 1, side, side)
    with torch.inference_mode():
        plain, quick = network.eval()(films), folded(network)(films)
    assert plain.std() > 0.01
    torch.testing.assert_close(quick, plain, atol=1e-4, rtol=0)


def test_what_an_explanation_looks_at_is_the_same(network: EfficientNetLite0) -> None:
    films = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(folded(network).features(films), network.eval().features(films), atol=1e-3, rtol=0)


def test_no_batch_norm_is_left_and_the_network_itself_is_untouched(network: EfficientNetLite0) -> None:
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    quick = folded(network)
    assert not quick.training
    assert not [each for each in quick.modules() if isinstance(each, nn.BatchNorm2d)]
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
