"""The locator, fitted: boxes from films marked by hand, and a gate from all films and their impostors."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from triage.card import Thorax
from triage.errors import TriageError
from triage.learning.augmentation import (
    LEVELS,
    rising_curves,
    uniform,
    with_borders,
    with_noise,
    with_patches,
    with_sharpness,
    with_uneven_exposure,
)
from triage.learning.films import LabelledFilm, folds_by_patient
from triage.learning.filmset import Films
from triage.learning.imagenet import start_network
from triage.learning.impostors import KINDS, mapped, mirrored
from triage.learning.progress import Progress
from triage.vision.bars import inside, repeated
from triage.vision.crop import stretched
from triage.vision.efficientnet import channels_last
from triage.vision.folding import folded
from triage.vision.thorax import TRUNK_BLOCKS, USUAL_BOX, Locator, located

# Of films of the published training split, by one reader's eye, in per cent.
THORAX_BOXES = Path(__file__).parent / "thorax_boxes.csv"
_SIDES = ("left", "top", "right", "bottom")
PERCENTILES = (1.0, 99.0)


@dataclass(frozen=True, kw_only=True)
class LocatorRecipe:
    """``marked`` of the ``batch`` films have a box; as many impostors as films join them.

    One patient in ``folds`` is not trained on: by their films the gate's limits are set, so that ``passing`` of them
    pass, and ``passing_copies`` of ``copies`` of each, which are changed more than hospitals' films differ. A film may
    then be ``room`` times as strange (in squares): that limit is for what nobody thought of, not for other hospitals.
    """

    steps: int = 1500
    batch: int = 24
    marked: int = 16
    peak_rate: float = 1e-3
    weight_decay: float = 0.02
    gate_weight: float = 0.05
    passing: float = 0.997
    passing_copies: float = 0.99
    room: float = 2.0
    folds: int = 6
    copies: int = 4
    seed: int = 1


def fit_locator(
    films: Films,
    *,
    boxes: Path = THORAX_BOXES,
    recipe: LocatorRecipe | None = None,
    start_weights: Path | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> Locator:
    """Return a locator in evaluation mode, on the processor. ``films``: as ``load_films`` gives them.

    ``boxes``: a table of film (folder and name), left, top, right, bottom in per cent. Raise TriageError if it makes no
    sense or names too few of the films.
    """
    recipe, device, progress = recipe or LocatorRecipe(), device or torch.device("cpu"), progress or Progress()
    marked = marked_boxes(boxes, films.films, fewest=recipe.marked)
    folds = torch.tensor(folds_by_patient(films.films, films.digests(), count=recipe.folds, seed=recipe.seed))
    locator = started(recipe, start_weights).to(device)
    trained_on = Marked(pixels=films.pixels, boxes=marked, rows=(folds != 0).nonzero()[:, 0])
    fit(locator, trained_on, recipe, progress)
    set_limits(locator.eval(), films.pixels[folds != 0][::3], films.pixels[folds == 0], recipe)
    return locator.cpu()


def marked_boxes(table: Path, films: Sequence[LabelledFilm], *, fewest: int) -> Tensor:
    """Boxes (N, 4) of the films in shares, NaN where the table has none. Raise TriageError."""
    try:
        with table.open(encoding="utf-8", newline="") as file:
            known = {row["film"]: [float(row[side]) / 100 for side in _SIDES] for row in csv.DictReader(file)}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise TriageError(f"{table}: not a table of boxes ({error})") from error
    if wrong := [name for name, (left, top, right, bottom) in known.items() if not (left < right and top < bottom)]:
        raise TriageError(f"{table}: the box of {wrong[0]} has no inside")
    found = [known.get(f"{film.path.parent.name}/{film.path.name}", [float("nan")] * 4) for film in films]
    boxes = torch.tensor(found)
    if (count := int(is_marked(boxes).sum())) < fewest:
        raise TriageError(f"{table}: has boxes of {count} of the films, {fewest} are needed: mark some, see --boxes")
    return boxes


def is_marked(boxes: Tensor) -> Tensor:
    return ~boxes[:, 0].isnan()


def started(recipe: LocatorRecipe, start_weights: Path | None) -> Locator:
    """A locator with ImageNet's trunk."""
    torch.manual_seed(recipe.seed)
    locator, imagenet = Locator(), start_network(start_weights, 0.0)
    locator.stem.load_state_dict(imagenet.stem.state_dict())
    locator.blocks.load_state_dict(imagenet.blocks[:TRUNK_BLOCKS].state_dict())
    return channels_last(locator)


@dataclass(frozen=True, kw_only=True, eq=False)
class Marked:
    """``pixels`` uint8 (N, 1, S, S), ``boxes`` (N, 4) or NaN; ``rows``: the films to train on."""

    pixels: Tensor
    boxes: Tensor
    rows: Tensor


def fit(locator: Locator, films: Marked, recipe: LocatorRecipe, progress: Progress) -> None:
    """Train in place."""
    device = next(locator.parameters()).device
    generator = Generator(device).manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(locator.parameters(), lr=recipe.peak_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.peak_rate, total_steps=recipe.steps, pct_start=0.2)
    locator.train()
    for step in range(recipe.steps):
        loss = loss_of(locator, *batch(films, recipe, generator), recipe.gate_weight)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            progress.say(f"locator, step {step + 1}/{recipe.steps}: loss {loss.item():.4f}")


def loss_of(locator: Locator, films: Tensor, boxes: Tensor, genuine: Tensor, gate_weight: float) -> Tensor:
    found, marked = locator.features(films), is_marked(boxes)
    off = functional.smooth_l1_loss(locator.boxes(found[marked]), boxes[marked], beta=0.02)
    taken_in = functional.binary_cross_entropy_with_logits(locator.chest_logit(found), genuine)
    return off + gate_weight * taken_in


def batch(films: Marked, recipe: LocatorRecipe, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Films (2 B, 1, S, S) in [0, 1], boxes (2 B, 4) or NaN, and 1 for genuine films, 0 for impostors (2 B)."""
    marked = films.rows[is_marked(films.boxes[films.rows])]
    others = drawn(films.rows, recipe.batch - recipe.marked, generator)
    shown = torch.cat([drawn(marked, recipe.marked, generator), others])
    posed, places = framed(seen(films.pixels, shown, generator), films.boxes[shown].to(generator.device), generator)
    posing = impostors(seen(films.pixels, drawn(films.rows, recipe.batch, generator), generator), generator)
    both = changed(torch.cat([posed, posing]), generator)
    nowhere = torch.full_like(places, float("nan"))
    genuine = torch.arange(len(both), device=both.device) < len(posed)
    return both, torch.cat([places, nowhere]), genuine.float()


def drawn(rows: Tensor, count: int, generator: Generator) -> Tensor:
    places = torch.randint(len(rows), (count,), generator=generator, device=generator.device)
    return rows[places.cpu()]


def seen(pixels: Tensor, rows: Tensor, generator: Generator) -> Tensor:
    return pixels[rows].to(generator.device).float() / (LEVELS - 1)


def framed(films: Tensor, boxes: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Another place, zoom (0.74 to 1.28), aspect and turn (11 degrees), mirrored or not; with where the boxes go."""
    count = len(films)
    zoom, aspect = (torch.exp(uniform(generator, *ends, count)) for ends in ((-0.3, 0.25), (-0.15, 0.15)))
    size = torch.stack([mirrored(count, generator) * zoom * aspect, zoom / aspect], 1)
    place = uniform(generator, -0.2, 0.2, count, 2)
    around = 2 * torch.where(boxes.isnan(), boxes.new_tensor(USUAL_BOX), boxes) - 1
    middle = (around[:, :2] + around[:, 2:]) / 2
    angle = uniform(generator, -11, 11, count).deg2rad()
    corners = (2 * boxes - 1).view(count, 2, 2)
    ends = ((corners - place[:, None]) / size[:, None]).sort(1).values  # the turn is about the box: it stays upright
    return mapped(films, angle, size, place, middle), ((ends.flatten(1) + 1) / 2).clamp(0, 1)


def changed(films: Tensor, generator: Generator) -> Tensor:
    """Films as another machine would have made them, genuine or not, stretched as inference gets them."""
    level = torch.arange(LEVELS, device=films.device).expand(len(films), LEVELS) / (LEVELS - 1)
    curves = rising_curves(level, generator)
    films = curves.gather(1, (films.flatten(1) * (LEVELS - 1)).long()).view(films.shape)
    for change in (with_uneven_exposure, with_sharpness, with_noise, with_patches, with_borders):
        films = change(films, generator)
    return stretched(films, PERCENTILES)


def impostors(films: Tensor, generator: Generator) -> Tensor:
    """One for each film, of all kinds alike; which kinds get one more is drawn."""
    order = torch.randperm(len(KINDS), generator=generator, device=generator.device).tolist()
    kinds = [list(KINDS.values())[place] for place in order]
    parts = films.tensor_split(len(kinds))
    return torch.cat([kind(part, generator) for kind, part in zip(kinds, parts, strict=True) if len(part)])


@torch.inference_mode()
def placed(films: Films, locator: Locator, thorax: Thorax, device: torch.device) -> Films:
    """Films with their boxes, and without their bars if ``thorax`` says so: as they are cropped in use."""
    locator = channels_last(folded(locator)).to(device)
    parts = [part.to(device).float() / (LEVELS - 1) for part in torch.split(films.pixels, 64)]
    boxes = torch.cat([located(locator, part, thorax, PERCENTILES)[1] for part in parts]).cpu()
    if not thorax.without_bars:
        return replace(films, boxes=boxes)
    ranges = torch.cat([inside(part) for part in parts]).cpu()
    pixels, smooth = (repeated(its, ranges) for its in (films.pixels, films.smooth))
    return replace(films, boxes=boxes, pixels=pixels, smooth=smooth)


@torch.no_grad()
def set_limits(locator: Locator, trained_on: Tensor, others: Tensor, recipe: LocatorRecipe) -> None:
    """Centre and spread are of films trained on; the limits are set by ``others``, which were not."""
    for tensor in locator.state_dict().values():
        tensor.copy_(tensor.half())  # as they will be stored: limits are those of the stored ones
    generator = Generator(locator.centre.device).manual_seed(recipe.seed)
    known = torch.cat([pooled(found) for found in maps(locator, trained_on, generator, copies=1)])
    locator.centre.copy_(known.mean(0))
    locator.whitening.copy_(whitening(known))
    plain = answers(locator, maps(locator, others, generator))
    copied = answers(locator, maps(locator, others, generator, copies=recipe.copies))
    refused, refused_copies = ((1 - share) / 2 for share in (recipe.passing, recipe.passing_copies))  # by each of two
    logit, familiarity = torch.minimum(plain.quantile(refused, dim=1), copied.quantile(refused_copies, dim=1))
    cast("nn.Linear", locator.chest[-1]).bias.sub_(logit)
    locator.whitening.div_((recipe.room * (1 - familiarity)).sqrt())


def maps(locator: Locator, pixels: Tensor, generator: Generator, *, copies: int = 0) -> Iterator[Tensor]:
    """Of the films as they are, or of so many copies of each, changed."""
    for rows in torch.split(torch.arange(len(pixels)), 64):
        films = seen(pixels, rows, generator)
        nowhere = torch.full((len(rows), 4), float("nan"), device=films.device)
        if not copies:
            yield locator.features(films)
        for _ in range(copies):
            yield locator.features(changed(framed(films, nowhere, generator)[0], generator))


def answers(locator: Locator, found: Iterator[Tensor]) -> Tensor:
    """Chest logit and familiarity, (2, N)."""
    return torch.cat([torch.stack([locator.chest_logit(part), locator.familiarity(part)]) for part in found], 1)


def pooled(found: Tensor) -> Tensor:
    return found.mean((2, 3))


def whitening(known: Tensor) -> Tensor:
    """Matrix (C, C) that gives vectors like ``known`` (N, C) unit covariance; a tenth of it taken as round."""
    spread = known.double().T.cov()
    spread = 0.9 * spread + 0.1 * spread.diagonal().mean() * torch.eye(len(spread), device=spread.device)
    root: Tensor = torch.linalg.cholesky(torch.linalg.inv(spread))
    return root.T.to(known)
