"""Commands that look at films offline, without a daemon or its database: score, explain, measure, train."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from daemon.environment import read_settings
from daemon.house import decoding_limits, load, refuse_mismatch
from triage.errors import TriageError

AsJson = Annotated[bool, typer.Option("--json", help="JSON for machines instead of a table.")]


def score(
    films: Annotated[list[Path], typer.Argument(help="DICOM, JPEG or PNG files.")], *, as_json: AsJson = False
) -> None:
    """Score films offline, without a database: one result a file. Without --json, exit 1 if any was not analysed."""
    from daemon.offline import score_films

    current, policy = read_settings()
    refuse_mismatch(current, policy)
    for film in films:
        if not film.is_file():
            typer.echo(f"{film}: no such file", err=True)  # and a result like any other: one a file
    results = list(score_films(films, load(current), policy, decoding_limits(current)))
    if as_json:
        typer.echo(json.dumps(results, indent=2))
        return
    for result in results:
        typer.echo(f"{result['path']}: {result['words']}")
    raise typer.Exit(any(result["status"] != "analysed" for result in results))


def explain(
    film: Annotated[Path, typer.Argument(help="DICOM, JPEG or PNG file.")],
    out: Annotated[Path, typer.Option(help="PNG to write; - for standard output.")],
    *,
    kind: Annotated[
        list[str] | None, typer.Option(help="superpixels, heat, gradient; again for more, side by side. Else all.")
    ] = None,
) -> None:
    """Draw what moves the network, over the film at its own size. Exit 1 if the film is not analysed."""
    from daemon.explanation import explained, kinds_of, png
    from triage.errors import NotAnalysed

    current, policy = read_settings()
    kinds = kinds_of(kind or ())
    try:
        picture = explained(film, kinds, load(current), policy, decoding_limits(current))
    except NotAnalysed as outcome:
        typer.echo(f"{film.name}: not analysed: {outcome.reason.words}", err=True)
        raise typer.Exit(1) from None
    if str(out) == "-":
        sys.stdout.buffer.write(png(picture))
        return
    aside = out.with_name(f".{out.name}.part")
    try:
        aside.write_bytes(png(picture))
        aside.replace(out)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise TriageError(f"{out}: {error.strerror}") from error


def evaluate(
    directory: Annotated[Path, typer.Argument(help="Folder with NORMAL and PNEUMONIA.")],
    *,
    under_stress: Annotated[
        bool, typer.Option("--stress", help="Also under 48 shifts, half a second to a second a film.")
    ] = False,
    sample: Annotated[
        int | None, typer.Option(min=2, help="Stress at most so many films, of patients drawn by lot.")
    ] = None,
    model_card: Annotated[
        Path | None, typer.Option(help="Write the network's page (Markdown) there; with --stress.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the network on labelled films. Films it was trained on are judged by networks that were not."""
    from daemon.report import measured, show
    from triage.learning.model_card import render, write_page
    from triage.learning.out_of_fold import read_out_of_fold

    current, _ = read_settings()
    classifier = load(current)
    out_of_fold = read_out_of_fold(current.weights_card, classifier.card.sha256)
    stressed = under_stress or model_card is not None
    run = measured(directory, classifier, out_of_fold, under_stress=stressed, sample=sample)
    if model_card:
        today = datetime.now(UTC).date().isoformat()
        write_page(render(classifier.card, run, films=directory.resolve().name, date=today), model_card)
    if as_json:
        typer.echo(json.dumps(run, indent=2))
    else:
        show(run)


def train(
    films: Annotated[
        Path, typer.Option(help="Folder with NORMAL and PNEUMONIA, or CSV of path, label, patient and perhaps fold.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for weights and card.")],
    *,
    held_out: Annotated[Path | None, typer.Option(help="Films whose patients must not be trained on.")] = None,
    about: Annotated[
        Path | None, typer.Option(help="TOML of tables data and population, for films that are not the published ones.")
    ] = None,
    boxes: Annotated[
        Path | None, typer.Option(help="CSV of thoraxes marked on some films; else the published films'.")
    ] = None,
    start_weights: Annotated[Path | None, typer.Option(help="ImageNet weights; else those of the package.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the films.")] = 8,
    folds: Annotated[int, typer.Option(min=2, help="Networks that judge what they were not trained on.")] = 3,
    seed: Annotated[int, typer.Option(help="Of folds, start and augmentation.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Of the processor.")] = os.cpu_count() or 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    without_bars: Annotated[
        bool, typer.Option(help="Take even bars along films' sides off, before the thorax is looked for.")
    ] = False,
) -> None:
    """Train the network on labelled films: weights and card. Broken off, it goes on where it was."""
    from daemon.report import TrainingProgress
    from triage.learning.fitting import Recipe
    from triage.learning.training import Material
    from triage.learning.training import train as fit

    named = {"held_out": held_out, "about": about, "boxes": boxes, "start_weights": start_weights}
    material = Material(films=films, **{name: path for name, path in named.items() if path})
    recipe = Recipe(epochs=epochs, folds=folds, seed=seed, threads=threads)
    with TrainingProgress() as progress:
        card = fit(
            material,
            out,
            date=datetime.now(UTC).date().isoformat(),
            recipe=recipe,
            device=device,
            without_bars=without_bars,
            progress=progress,
        )
    figures = card.metrics["out_of_fold"]
    typer.echo(
        f"{out}: network {card.sha256[:12]}, flags from {card.threshold:g}; of films it had not seen: "
        f"AUC {figures['auc']:.4f}, sensitivity {figures['sensitivity']:.3f}, specificity {figures['specificity']:.3f}"
    )
