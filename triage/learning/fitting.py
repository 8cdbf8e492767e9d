"""One network fitted to labelled films: steps, epochs, the running average, and a checkpoint after each epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from triage.card import Preprocessing, Thorax
from triage.errors import TriageError
from triage.learning.augmentation import augmented
from triage.learning.filmset import Films
from triage.learning.imagenet import start_network
from triage.learning.progress import Progress
from triage.vision.efficientnet import CLASSES, EfficientNetLite0, channels_last


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything a run depends on besides the films. Kept in the card."""

    epochs: int = 8
    folds: int = 3
    batch: int = 48
    peak_rate: float = 1e-3
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    dropout: float = 0.3
    average_decay: float = 0.99
    shifted_copies: int = 3
    sensitivity: float = 0.985
    confidence: float = 0.9
    likely_ppv: float = 0.99
    seed: int = 1
    threads: int = 2

    def of_fitting(self) -> dict[str, Any]:
        """All that the weights depend on: the rest is needed when the network is judged, and may be chosen anew."""
        judging = {"shifted_copies", "sensitivity", "confidence", "likely_ppv", "threads"}
        return {name: value for name, value in asdict(self).items() if name not in judging}


@dataclass(frozen=True, kw_only=True)
class View:
    """What a network is shown of a film, and on which device."""

    preprocessing: Preprocessing
    thorax: Thorax
    device: torch.device

    def changed(self, films: Films, rows: Tensor, generator: Generator) -> Tensor:
        """Crops (N, 1, S, S) in [0, 1] of the films in ``rows``, each augmented its own way."""
        pixels, histograms, boxes = (
            part[rows].to(self.device) for part in (films.smooth, films.histograms, films.boxes)
        )
        percentiles = self.preprocessing.stretch_percentiles
        return augmented(pixels, histograms, boxes, generator, thorax=self.thorax, percentiles=percentiles)

    def z_score(self, crops: Tensor) -> Tensor:
        crops = (crops - self.preprocessing.mean) / self.preprocessing.std
        return crops.contiguous(memory_format=torch.channels_last)


class Run:
    """The parts of a run that change from step to step, and that a checkpoint holds."""

    def __init__(self, recipe: Recipe, training: Films, view: View, start_weights: Path | None) -> None:
        if len(training) < recipe.batch:
            raise TriageError(f"{len(training)} films to train on are fewer than a batch of {recipe.batch}")
        self.recipe, self.view = recipe, view
        digest = hashlib.sha256(repr((training.digests(), training.labels.tolist())).encode()).hexdigest()
        self.made_of = {"recipe": recipe.of_fitting(), "films": digest, "thorax": asdict(view.thorax)}
        self.epoch = 0
        torch.manual_seed(recipe.seed)  # of the dropout and the new last layer
        self.generator = Generator(view.device).manual_seed(recipe.seed)
        self.network = channels_last(start_network(start_weights, recipe.dropout)).to(view.device)
        average = get_ema_multi_avg_fn(recipe.average_decay)  # type: ignore[no-untyped-call] # untyped in torch
        self.average = AveragedModel(self.network, multi_avg_fn=average, use_buffers=True)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.peak_rate, weight_decay=recipe.weight_decay, fused=True
        )
        steps = recipe.epochs * (len(training) // recipe.batch)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, recipe.peak_rate, total_steps=steps, pct_start=0.15
        )

    def parts(self) -> dict[str, Any]:
        return {
            "network": self.network, "average": self.average, "optimizer": self.optimizer, "schedule": self.schedule,
        }  # fmt: skip

    def save(self, path: Path) -> None:
        state = {name: part.state_dict() for name, part in self.parts().items()}
        draws = {"generator": self.generator.get_state(), "dropout": torch.get_rng_state()}
        save(state | draws | {"epoch": self.epoch, "made_of": self.made_of}, path)

    def resume(self, path: Path) -> None:
        """Raise TriageError if the checkpoint is of another recipe or of other films: half of each is neither."""
        state = torch.load(path, weights_only=True)
        if state["made_of"] != self.made_of:
            raise TriageError(f"{path}: a checkpoint of another recipe or of other films; remove it to start afresh")
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        self.epoch = state["epoch"]
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["dropout"])


def save(state: dict[str, Any], path: Path) -> None:
    """Write aside, then rename."""
    aside = path.with_suffix(".part")
    torch.save(state, aside)
    aside.replace(path)


def fit(run: Run, training: Films, checkpoint: Path, progress: Progress) -> EfficientNetLite0:
    """Return the running average of the weights, after the last epoch: none is picked by a score."""
    if checkpoint.exists():
        run.resume(checkpoint)
        progress.advance(run.epoch)
    while run.epoch < run.recipe.epochs:
        loss = one_epoch(run, training)
        run.epoch += 1
        run.save(checkpoint)
        progress.advance(1)
        progress.say(f"{checkpoint.stem}, epoch {run.epoch}/{run.recipe.epochs}: loss {loss:.4f}")
    averaged = cast("EfficientNetLite0", run.average.module)
    return averaged.eval()


def one_epoch(run: Run, training: Films) -> float:
    """Return the mean loss."""
    weight = class_weights(training.labels).to(run.view.device)
    run.network.train()
    losses = []
    for rows in batches(len(training), run.recipe.batch, run.generator):
        crops = run.view.changed(training, rows, run.generator)
        losses.append(one_step(run, crops, training.labels[rows].to(run.view.device), weight))
    return float(np.mean(losses))


def one_step(run: Run, crops: Tensor, labels: Tensor, weight: Tensor) -> float:
    with torch.autocast(crops.device.type, torch.bfloat16):
        logits = run.network(run.view.z_score(crops))
    loss = functional.cross_entropy(logits.float(), labels, weight, label_smoothing=run.recipe.label_smoothing)
    run.optimizer.zero_grad()
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(run.network.parameters(), 2.0)
    run.optimizer.step()
    run.schedule.step()
    run.average.update_parameters(run.network)
    return loss.item()


def batches(count: int, size: int, generator: Generator) -> Iterator[Tensor]:
    """Whole batches of a new order, on the processor; what is left over is for another epoch."""
    order = torch.randperm(count, generator=generator, device=generator.device).cpu()
    for start in range(0, count - size + 1, size):
        yield order[start : start + size]


def class_weights(labels: Tensor) -> Tensor:
    """Each class counts the same as a whole; mean 1 over the films."""
    counts = torch.bincount(labels, minlength=len(CLASSES))
    return len(labels) / (len(CLASSES) * counts.clamp(min=1)).float()
