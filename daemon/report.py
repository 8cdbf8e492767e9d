"""Labelled films measured from the command line, with a bar while it lasts, and the figures as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from triage.learning import progress as training
from triage.learning.evaluation import Answer, answers, summary
from triage.learning.faithfulness import FAITH_WORDS, flagged_pneumonias, mean_faith
from triage.learning.figures import FIGURES, WORDS, written
from triage.learning.films import labelled_films
from triage.learning.out_of_fold import OutOfFold
from triage.learning.stress import FIGURES as STRESS_FIGURES
from triage.learning.stress import fit_for_stress, stress
from triage.vision.classifier import Classifier

_COUNTS = (
    "n", "patients", "out_of_fold", "not_analysed", "true_positive", "false_negative", "true_negative", "false_positive"
)  # fmt: skip

# Films whose explanations are judged: some 15 seconds each on one core.
_EXPLAINED = 20
_TRAINED_ON = {
    True: "trained on: read the changes, not the levels",
    False: "none of them trained on",
    None: "perhaps trained on: no out-of-fold table beside the card",
}


def measured(
    source: Path, classifier: Classifier, out_of_fold: OutOfFold | None, *, under_stress: bool, sample: int | None
) -> dict[str, Any]:
    """Figures of `triage.learning.evaluation.summary`, ``weights``, and if asked ``stress``. Raise TriageError."""
    with _bar() as bar:
        films = labelled_films(source)
        given = list(bar.track(answers(films, classifier, out_of_fold), len(films), description="films"))
        figures = summary(given, classifier.card.threshold) | {"weights": classifier.card.sha256}
        if not under_stress:
            return figures
        known = {} if out_of_fold else {"trained_on": None}  # without the table nobody knows
        return figures | {"stress": _stressed(given, classifier, sample, bar) | known}


def _stressed(given: list[Answer], classifier: Classifier, sample: int | None, bar: Progress) -> dict[str, Any]:
    films, trained_on = fit_for_stress(given, sample)
    task = bar.add_task("stress", total=len(films))
    rows = stress(films, classifier, advance=lambda done: bar.advance(task, done))
    patients = len({film.patient for film in films})
    shown = list(flagged_pneumonias(films, classifier, most=_EXPLAINED))
    task = bar.add_task("explanations", total=len(shown))
    faith = mean_faith(shown, classifier, advance=lambda done: bar.advance(task, done))
    explanations = {"films": len(shown), **faith}
    return {
        "films": len(films),
        "patients": patients,
        "trained_on": trained_on,
        "rows": rows,
        "explanations": explanations,
    }


def _bar(*, transient: bool = True) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=transient)


class TrainingProgress(training.Progress):
    """Epochs done and left, with the time they will take, and lines above it as they come. Open it as a context."""

    def __init__(self) -> None:
        self._bar = _bar(transient=False)
        self._task = self._bar.add_task("epochs", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, epochs: int) -> None:
        self._bar.update(self._task, total=epochs)

    def advance(self, epochs: int) -> None:
        self._bar.advance(self._task, epochs)

    def say(self, text: str) -> None:
        self._bar.console.print(f"{datetime.now(UTC):%H:%M:%S} {text}", highlight=False, markup=False)


def show(run: Mapping[str, Any]) -> None:
    """Print what `measured` found."""
    console = Console()
    console.print(_figures_table(run))
    if "stress" in run:
        console.print(_stress_table(run["stress"]))
        console.print(_explanations_table(run["stress"]["explanations"]))


def _figures_table(run: Mapping[str, Any]) -> Table:
    table = Table(title=f"Network {run['weights'][:12]}, flagged from P(pneumonia) {run['threshold']}")
    for column in ("Figure", "Value [95 % interval, of patients]"):
        table.add_column(column)
    for name in _COUNTS:
        table.add_row(name.replace("_", " "), str(run[name]))
    for name in FIGURES:
        table.add_row(WORDS[name], written(run, name))
    return table


def _stress_table(found: Mapping[str, Any]) -> Table:
    whose = _TRAINED_ON[found["trained_on"]]
    table = Table(title=f"{found['films']} films of {found['patients']} patients, {whose}")
    names = (*STRESS_FIGURES, "flips", "mean_change", "refused")
    for column in ("Films", *(WORDS[name] for name in names)):
        table.add_column(column)
    for row in found["rows"]:
        table.add_row(row["shift"], *(written(row, name) for name in names))
    return table


def _explanations_table(found: Mapping[str, Any]) -> Table:
    table = Table(title=f"Explanations of {found['films']} flagged pneumonias, means")
    kinds = [name for name in found if name != "films"]
    for column in ("Figure", *kinds):
        table.add_column(column)
    for name, words in FAITH_WORDS.items():
        table.add_row(words, *(f"{found[kind][name]:.3f}" for kind in kinds))
    return table
