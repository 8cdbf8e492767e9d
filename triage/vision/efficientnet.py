"""EfficientNet-Lite0 on one grey film: convolutions, blocks and the whole.

M. Tan, Q. V. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019, in its Lite
form: no squeeze-and-excitation, ReLU6 for swish. Both survive 16 bit and old processors well.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

Network = TypeVar("Network", bound=nn.Module)

ARCHITECTURE = "efficientnet-lite0"
CLASSES = ("normal", "bacterial", "viral")
# Expansion, output channels, repeats, stride of the first, kernel.
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
LARGE_KERNEL = 5


class ConvNorm(nn.Module):
    """Convolution, batch norm, and ReLU6 if ``active``."""

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int = 1, stride: int = 1, groups: int = 1, active: bool = True
    ) -> None:
        super().__init__()
        # As in TensorFlow, where the start weights come from: with stride 2 the odd pixel of padding is last.
        self.padding = ((kernel - stride) // 2, (kernel - stride + 1) // 2) * 2 if kernel > 1 else ()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)
        self.active, self.large = active, kernel >= LARGE_KERNEL

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.convolved(functional.pad(x, self.padding) if self.padding else x))
        return functional.relu6(x, inplace=True) if self.active else x

    def convolved(self, x: Tensor) -> Tensor:
        # On the processor, the gradient of a 5 x 5 depthwise kernel takes four times as long in bfloat16 as in float32.
        with torch.autocast(x.device.type, enabled=torch.is_autocast_enabled(x.device.type) and not self.large):
            y: Tensor = self.conv(x.float() if self.large else x)
            return y


class InvertedResidual(nn.Module):
    """Widen with 1 x 1, look around with a depthwise kernel, narrow with 1 x 1; add the input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, *, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = ConvNorm(inputs, wide) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(wide, wide, kernel=kernel, stride=stride, groups=wide)
        self.project = ConvNorm(wide, outputs, active=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """Grey films, (N, 1, 224, 224) after z-score, to logits (N, 3). Any side that is a multiple of 32 will do."""

    def __init__(self, *, dropout: float = 0.2) -> None:
        super().__init__()
        self.stem = ConvNorm(1, STEM_CHANNELS, kernel=3, stride=2)
        self.blocks = nn.Sequential(*inverted_residuals())
        self.head = ConvNorm(STAGES[-1][1], HEAD_CHANNELS)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(HEAD_CHANNELS, len(CLASSES))

    def features(self, x: Tensor) -> Tensor:
        """Return the last map that still has a place, (N, 1280, 7, 7): what an explanation looks at."""
        x = self.stem(x)  # (N, 32, 112, 112)
        # (N, 16, 112, 112), (N, 24, 56, 56), (N, 40, 28, 28), (N, 80 then 112, 14, 14), (N, 192 then 320, 7, 7)
        x = self.blocks(x)
        last: Tensor = self.head(x)  # (N, 1280, 7, 7)
        return last

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).mean((2, 3))  # (N, 1280)
        logits: Tensor = self.fc(self.dropout(x))  # (N, 3)
        return logits


def inverted_residuals() -> list[InvertedResidual]:
    blocks, inputs = [], STEM_CHANNELS
    for expansion, outputs, repeats, first_stride, kernel in STAGES:
        for stride in (first_stride, *[1] * (repeats - 1)):
            blocks.append(InvertedResidual(inputs, outputs, expansion=expansion, kernel=kernel, stride=stride))
            inputs = outputs
    return blocks


def channels_last(network: Network) -> Network:
    """Lay the weights out as the fast kernels want them; the films must be laid out alike."""
    laid_out: Network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # not in torch's stub
    return laid_out


def stored_tensors(network: nn.Module) -> dict[str, Tensor]:
    """What a weights file holds: all but batch norm's step counters."""
    return {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
