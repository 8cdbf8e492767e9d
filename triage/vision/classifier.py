"""The classifier: weights, card and scores together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as serialised
from torch import Tensor

from triage.card import Calibration, Card, Thorax, read_card
from triage.errors import CardMismatchError, NotAnalysed, Reason
from triage.study import Finding
from triage.vision.crop import cropped, widened
from triage.vision.efficientnet import ARCHITECTURE, CLASSES, EfficientNetLite0, channels_last, stored_tensors
from triage.vision.folding import folded
from triage.vision.thorax import Locator, located

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# Films a pass. On a processor, what a layer makes of more no longer fits its cache (measured: 32 take twice as long).
LARGEST_PASS = {"cpu": 4, "cuda": 256}
# Before the names of the locator's tensors in the weights file.
LOCATOR = "locator."
# torch has an error of its own for a GPU without memory; of the processor's it is a RuntimeError that says so.
_NO_MEMORY = "can't allocate memory"
Network = TypeVar("Network", EfficientNetLite0, Locator)


@dataclass(frozen=True, kw_only=True, eq=False)
class Crops:
    """``pixels`` float32 (N, S, S) in [0, 1]: all the network is shown of each film.

    ``boxes`` (N, 4): where they were on the film, as left, top, right, bottom in shares of its width and height.
    ``likeness`` (N): above 0 for what looks like a frontal chest film. All 1 where nothing asks.
    """

    pixels: NDArray[np.float32]
    boxes: NDArray[np.float32]
    likeness: NDArray[np.float32]


class Classifier:
    """A network in evaluation mode with the card that belongs to it. ``network`` is float32 and channels last.

    ``locator``: None for a card without ``thorax``; the network is then shown whole films, whatever they show.
    """

    def __init__(
        self, network: EfficientNetLite0, card: Card, device: str = "cpu", locator: Locator | None = None
    ) -> None:
        self.card = card
        self.device = torch.device(device)
        self.network = self._for_use(network)
        self.locator = None if locator is None or card.thorax is None else self._for_use(locator)

    def _for_use(self, network: Network) -> Network:
        return channels_last(folded(network)).to(self.device).eval().requires_grad_(requires_grad=False)

    def normalised(self, batch: NDArray[np.float32]) -> Tensor:
        """What the network is shown, (N, S, S) in [0, 1], to z-scores (N, 1, S, S)."""
        return self._z_score(self._on_device(batch))

    def _on_device(self, batch: NDArray[np.float32]) -> Tensor:
        return torch.tensor(np.asarray(batch, np.float32), device=self.device)[:, None]

    def _z_score(self, shown: Tensor) -> Tensor:
        shown = (shown - self.card.preprocessing.mean) / self.card.preprocessing.std
        return shown.contiguous(memory_format=torch.channels_last)

    def crops(self, batch: NDArray[np.float32]) -> Crops:
        """Films (N, size, size) in [0, 1], as ``pixels.prepare`` gives them, to what the network is shown of them."""
        with torch.inference_mode():
            shown, boxes, likeness = self._shown(self._on_device(batch))
        return Crops(pixels=shown[:, 0].cpu().numpy(), boxes=boxes.cpu().numpy(), likeness=likeness.cpu().numpy())

    def _shown(self, films: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Films (N, 1, size, size) to crops (N, 1, S, S), boxes (N, 4) and likeness (N)."""
        thorax = self.card.thorax
        if self.locator is None or thorax is None:
            return films, films.new_tensor([0, 0, 1, 1]).expand(len(films), 4), films.new_ones(len(films))
        percentiles = self.card.preprocessing.stretch_percentiles
        films, boxes, likeness = located(self.locator, films, thorax, percentiles)
        boxes = widened(boxes, thorax.margin)
        return cropped(films, boxes, thorax, percentiles), boxes, likeness

    def score(self, batch: NDArray[np.float32]) -> NDArray[np.float64]:
        """Films (N, size, size) in [0, 1] to calibrated probabilities (N, 3), rows sum to 1, whatever they show.

        Raise NotAnalysed (model output invalid) rather than return a number that cannot be trusted.
        """
        return probabilities(self.logits(batch), films=len(batch), calibration=self.card.calibration)

    def findings(self, batch: NDArray[np.float32]) -> list[Finding]:
        """Films as for ``score`` to one finding each, in their order; one that cannot be judged carries its reason.

        Raise MemoryError where there is too little for all of them, and RuntimeError for a device that fails.
        """
        whole = ((batch >= 0) & (batch <= 1)).all((1, 2))
        logits, likeness = np.full((len(batch), len(CLASSES)), np.nan), np.full(len(batch), np.nan)
        if whole.any():
            logits[whole], likeness[whole] = self._judged(batch[whole])
        return [self._finding(*film) for film in zip(logits, likeness, strict=True)]

    def _finding(self, logits: NDArray[np.float64], likeness: float) -> Finding:
        if likeness <= 0:
            return Finding(weights_sha256=self.card.sha256, reason=Reason.NOT_A_CHEST_FILM)
        if np.isnan(likeness):
            logits = np.full_like(logits, np.nan)
        try:
            (odds,) = probabilities(logits[None], films=1, calibration=self.card.calibration)
        except NotAnalysed as outcome:
            return Finding(weights_sha256=self.card.sha256, reason=outcome.reason)
        normal, bacterial, viral = (float(p) for p in odds)
        return Finding(weights_sha256=self.card.sha256, p_normal=normal, p_bacterial=bacterial, p_viral=viral)

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float64]:
        """Films (N, size, size) in [0, 1] to logits (N, 3), uncalibrated and unchecked, whatever they show."""
        return self._judged(batch)[0]

    def _judged(self, batch: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Logits (N, 3) and likeness (N)."""
        size = self.card.preprocessing.size_px
        # ReLU6 would cap an infinite pixel at 6 and make a score of it that looks like any other.
        if batch.shape[1:] != (size, size) or not ((batch >= 0) & (batch <= 1)).all():
            raise NotAnalysed(Reason.MODEL_OUTPUT_INVALID)
        with torch.inference_mode(), _telling_no_memory():
            parts = torch.split(self._on_device(batch), LARGEST_PASS[self.device.type])
            logits, likeness = (torch.cat(found) for found in zip(*map(self._pass, parts), strict=True))
        return logits.to("cpu", torch.float64).numpy(), likeness.to("cpu", torch.float64).numpy()

    def crop_logits(self, crops: NDArray[np.float32]) -> Tensor:
        """Calibrated logits (N, 3) of what ``crops`` makes of films, (N, S, S), or of changed versions of it."""
        parts = torch.split(self.normalised(crops), LARGEST_PASS[self.device.type])
        logits = torch.cat([self.network(part) for part in parts])
        return logits / self.card.temperature + logits.new_tensor(self.card.bias)

    def _pass(self, films: Tensor) -> tuple[Tensor, Tensor]:
        shown, _, likeness = self._shown(films)
        return self.network(self._z_score(shown)), likeness


@contextmanager
def _telling_no_memory() -> Iterator[None]:
    """As MemoryError, with what torch keeps for later given back: a smaller pass may fit."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and _NO_MEMORY not in str(error):
            raise
        torch.cuda.empty_cache()
        raise MemoryError from error


def probabilities(logits: NDArray[np.float64], *, films: int, calibration: Calibration) -> NDArray[np.float64]:
    """Softmax of calibrated ``logits``; raise NotAnalysed on another shape than (films, 3), NaN or infinity."""
    if logits.shape != (films, len(CLASSES)) or not np.isfinite(logits).all():
        raise NotAnalysed(Reason.MODEL_OUTPUT_INVALID)
    log_odds = logits / calibration.temperature + np.array(calibration.bias)
    odds = np.exp(log_odds - log_odds.max(axis=1, keepdims=True))
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
    card, weights = read_pair(card_path)
    network, locator = networks_with(weights, thorax=card.thorax is not None)
    return Classifier(network, card, device, locator)


def load_locator(card_path: Path) -> Locator | None:
    """Read the locator alone, to train other networks with; None for a card without ``thorax``. Raise as above."""
    card, weights = read_pair(card_path)
    return networks_with(weights, thorax=card.thorax is not None)[1]


def read_pair(card_path: Path) -> tuple[Card, bytes]:
    """Return a card that was checked and the bytes of its weights file. Raise CardMismatchError."""
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
    return card, weights


def check_card(card: Card) -> None:
    """Raise CardMismatchError if this code cannot serve a network of this card."""
    preprocessing, (low, high) = card.preprocessing, card.preprocessing.stretch_percentiles
    checks = {
        f"architecture {card.architecture!r} is not {ARCHITECTURE!r}": card.architecture == ARCHITECTURE,
        f"classes {card.classes!r} are not {CLASSES!r}": card.classes == CLASSES,
        "temperature is not a finite number above 0": np.isfinite(card.temperature) and card.temperature > 0,
        "bias is not three finite numbers": len(card.bias) == len(CLASSES) and bool(np.isfinite(card.bias).all()),
        "threshold is not between 0 and 1": 0 < card.threshold < 1,
        "likely_threshold is not between threshold and 1": card.threshold <= card.likely_threshold < 1,
        "size_px is not a positive multiple of 32": preprocessing.size_px > 0 and preprocessing.size_px % 32 == 0,
        "std is not a finite number above 0": np.isfinite(preprocessing.std) and preprocessing.std > 0,
        "mean is not a finite number": np.isfinite(preprocessing.mean),
        "stretch_percentiles do not rise within 0 to 100": 0 <= low < high <= 100,  # noqa: PLR2004 - per cent
        "thorax: size_px is not a positive multiple of 32, or margin or smoothing not 0 to 1": fits(card.thorax),
    }
    for fault, holds in checks.items():
        if not holds:
            raise CardMismatchError(f"card: {fault}")


def fits(thorax: Thorax | None) -> bool:
    return thorax is None or (
        thorax.size_px > 0 and thorax.size_px % 32 == 0 and 0 <= thorax.margin < 1 and 0 <= thorax.smoothing_px <= 1
    )


def networks_with(weights: bytes, *, thorax: bool) -> tuple[EfficientNetLite0, Locator | None]:
    """Parse a weights file of any float width; raise CardMismatchError if it does not fit these networks."""
    try:
        tensors = parse_safetensors(weights)
    except SafetensorError as error:
        raise CardMismatchError(f"weights: not a safetensors file ({error})") from error
    located = {name for name in tensors if thorax and name.startswith(LOCATOR)}
    network = filled(EfficientNetLite0(), {name: it for name, it in tensors.items() if name not in located})
    if not thorax:
        return network, None
    return network, filled(Locator(), {name.removeprefix(LOCATOR): tensors[name] for name in located}, LOCATOR)


def weights_of(network: EfficientNetLite0, locator: Locator) -> bytes:
    """Both in one weights file, in 16 bits: what ``networks_with`` parses."""
    own = stored_tensors(network) | {LOCATOR + name: tensor for name, tensor in stored_tensors(locator).items()}
    return serialised({name: tensor.cpu().half().contiguous() for name, tensor in own.items()})


def filled(network: Network, tensors: dict[str, Tensor], prefix: str = "") -> Network:
    """Raise CardMismatchError, naming a tensor by ``prefix`` and name."""
    own = stored_tensors(network)
    if strange := sorted(own.keys() ^ tensors.keys()):
        raise CardMismatchError(f"weights: tensor {prefix + strange[0]!r} is missing or unknown, {len(strange)} in all")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise CardMismatchError(f"weights: tensor {prefix + name!r} has another shape than the network")
        if not (tensor.is_floating_point() and tensor.isfinite().all()):
            raise CardMismatchError(f"weights: tensor {prefix + name!r} holds something that is not a finite number")
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=False)
    return network
