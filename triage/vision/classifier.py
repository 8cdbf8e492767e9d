"""EfficientNet-Lite0 on one grey film, whole, in one file; and the classifier: weights, card and scores together.

The network: M. Tan, Q. V. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML
2019, in its Lite form: no squeeze-and-excitation, ReLU6 for swish. Both survive 16 bit and old processors well.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from torch import Tensor, nn
from torch.nn import functional

from triage.card import Card, read_card
from triage.errors import CardMismatchError, NotAnalysed, Reason

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

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
LARGEST_PASS = 32


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


def channels_last(network: EfficientNetLite0) -> EfficientNetLite0:
    """Lay the weights out as the fast kernels want them; the films must be laid out alike."""
    laid_out: EfficientNetLite0 = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # not in torch's stub
    return laid_out


def stored_tensors(network: nn.Module) -> dict[str, Tensor]:
    """What a weights file holds: all but batch norm's step counters."""
    return {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}


@dataclass(frozen=True, kw_only=True, eq=False)
class Crops:
    """``pixels`` float32 (N, S, S) in [0, 1]: all the network is shown of each film.

    ``boxes`` (N, 4): where they were on the film, as left, top, right, bottom in shares of its width and height.
    """

    pixels: NDArray[np.float32]
    boxes: NDArray[np.float32]


class Classifier:
    """A network in evaluation mode with the card that belongs to it. ``network`` is float32 and channels last."""

    def __init__(self, network: EfficientNetLite0, card: Card, device: str = "cpu") -> None:
        self.card = card
        self.device = torch.device(device)
        self.network = channels_last(network).to(self.device).eval().requires_grad_(requires_grad=False)

    def normalised(self, batch: NDArray[np.float32]) -> Tensor:
        """Films (N, size, size) in [0, 1], as ``pixels.prepare`` gives them, to z-scores (N, 1, size, size)."""
        preprocessing = self.card.preprocessing
        films = torch.tensor(np.asarray(batch, np.float32), device=self.device)[:, None]
        return (films - preprocessing.mean) / preprocessing.std

    def crops(self, batch: NDArray[np.float32]) -> Crops:
        """Films (N, size, size) in [0, 1], as ``pixels.prepare`` gives them, to what the network is shown of them."""
        return Crops(pixels=batch, boxes=np.tile(np.array([0, 0, 1, 1], np.float32), (len(batch), 1)))

    def score(self, batch: NDArray[np.float32]) -> NDArray[np.float64]:
        """Films (N, size, size) in [0, 1] to calibrated probabilities (N, 3), rows sum to 1.

        Raise NotAnalysed (model output invalid) rather than return a number that cannot be trusted.
        """
        return probabilities(self.logits(batch), films=len(batch), temperature=self.card.temperature)

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float64]:
        """Films (N, size, size) in [0, 1] to logits (N, 3), uncalibrated and unchecked."""
        size = self.card.preprocessing.size_px
        # ReLU6 would cap an infinite pixel at 6 and make a score of it that looks like any other.
        if batch.shape[1:] != (size, size) or not ((batch >= 0) & (batch <= 1)).all():
            raise NotAnalysed(Reason.MODEL_OUTPUT_INVALID)
        with torch.inference_mode():
            films = self.normalised(batch).contiguous(memory_format=torch.channels_last)
            logits = torch.cat([self.network(part) for part in torch.split(films, LARGEST_PASS)])
        return logits.to("cpu", torch.float64).numpy()


def probabilities(logits: NDArray[np.float64], *, films: int, temperature: float) -> NDArray[np.float64]:
    """Softmax of ``logits / temperature``; raise NotAnalysed on another shape than (films, 3), NaN or infinity."""
    if logits.shape != (films, len(CLASSES)) or not np.isfinite(logits).all():
        raise NotAnalysed(Reason.MODEL_OUTPUT_INVALID)
    scaled = logits / temperature
    odds = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True), dtype=np.float64)


def set_threads(count: int) -> None:
    """Threads of the network. With as many as cores, the receiver beside it waits for the disk longer (measured)."""
    torch.set_num_threads(count)


def found_device(device: str) -> str:
    """Of "auto": "cuda" where there is a GPU, else "cpu". Raise CardMismatchError for a "cuda" that is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise CardMismatchError("device cuda: this machine, or this build of torch, has no GPU")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def load_classifier(card_path: Path, device: str = "cpu") -> Classifier:
    """Read a card and the ``.safetensors`` file of the same stem beside it.

    Raise CardMismatchError if either is missing, or if weights, card and code do not belong together.
    """
    card = read_card(card_path)
    check_card(card)
    weights_path = card_path.with_suffix(".safetensors")
    try:
        weights = weights_path.read_bytes()
    except OSError as error:
        raise CardMismatchError(f"weights {weights_path.name}: {error.strerror}") from error
    # The very bytes that were summed are the ones that get loaded: nobody can swap the file in between.
    if hashlib.sha256(weights).hexdigest() != card.sha256:
        raise CardMismatchError(f"weights {weights_path.name}: sha256 differs from the card's")
    return Classifier(network_with(weights), card, device)


def check_card(card: Card) -> None:
    """Raise CardMismatchError if this code cannot serve a network of this card."""
    preprocessing, (low, high) = card.preprocessing, card.preprocessing.stretch_percentiles
    checks = {
        f"architecture {card.architecture!r} is not {ARCHITECTURE!r}": card.architecture == ARCHITECTURE,
        f"classes {card.classes!r} are not {CLASSES!r}": card.classes == CLASSES,
        "temperature is not a finite number above 0": np.isfinite(card.temperature) and card.temperature > 0,
        "threshold is not between 0 and 1": 0 < card.threshold < 1,
        "likely_threshold is not between threshold and 1": card.threshold <= card.likely_threshold < 1,
        "size_px is not a positive multiple of 32": preprocessing.size_px > 0 and preprocessing.size_px % 32 == 0,
        "std is not a finite number above 0": np.isfinite(preprocessing.std) and preprocessing.std > 0,
        "mean is not a finite number": np.isfinite(preprocessing.mean),
        "stretch_percentiles do not rise within 0 to 100": 0 <= low < high <= 100,  # noqa: PLR2004 - per cent
    }
    for fault, holds in checks.items():
        if not holds:
            raise CardMismatchError(f"card: {fault}")


def network_with(weights: bytes) -> EfficientNetLite0:
    """Parse a weights file of any float width; raise CardMismatchError if it does not fit this network."""
    try:
        tensors = parse_safetensors(weights)
    except SafetensorError as error:
        raise CardMismatchError(f"weights: not a safetensors file ({error})") from error
    network = EfficientNetLite0()
    own = stored_tensors(network)
    if strange := sorted(own.keys() ^ tensors.keys()):
        raise CardMismatchError(f"weights: tensor {strange[0]!r} is missing or unknown, {len(strange)} in all")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise CardMismatchError(f"weights: tensor {name!r} has another shape than the network")
        if not (tensor.is_floating_point() and tensor.isfinite().all()):
            raise CardMismatchError(f"weights: tensor {name!r} holds something that is not a finite number")
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=False)
    return network
