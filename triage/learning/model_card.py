"""The page that tells people what the network is, how good, and where it fails: of a card and a run of ``evaluate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from triage.card import Card
from triage.learning.faithfulness import FAITH_WORDS
from triage.learning.figures import FIGURES, WORDS, written

TEMPLATE = "model_card.md.j2"
WORST = 5
COUNTS = {
    "true_positive": "pneumonias flagged",
    "false_negative": "pneumonias not flagged",
    "true_negative": "normal films not flagged",
    "false_positive": "normal films flagged",
}


def render(card: Card, run: Mapping[str, Any], *, films: str, date: str) -> str:
    """Markdown. ``run``: as ``evaluate --stress --json`` gives it, on ``films``. Raise on a name that is missing."""
    environment = Environment(  # noqa: S701 - Markdown of our own card, not HTML of strangers
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    rows = run["stress"]["rows"]
    return environment.get_template(TEMPLATE).render(
        card=card,
        population=asdict(card.population),
        run=run,
        films=films,
        date=date,
        written=written,
        words=WORDS,
        faith_words=FAITH_WORDS,
        counts=COUNTS,
        figures=list(FIGURES),
        stated=stated_runs(card),
        worst=worst(rows, "flips"),
        refusing=worst(rows, "refused"),
    )


def stated_runs(card: Card) -> dict[str, Mapping[str, Any]]:
    """The card's own runs over films, of training and validation, by their names in words."""
    return {
        name.replace("_", " "): figures
        for name, figures in card.metrics.items()
        if isinstance(figures, Mapping) and "auc" in figures
    }


def worst(rows: Sequence[Mapping[str, Any]], figure: str) -> list[Mapping[str, Any]]:
    """At most five, largest first; none where the figure is 0 or not known."""
    return sorted((row for row in rows if row[figure]), key=lambda row: -float(row[figure]))[:WORST]


def write_page(page: str, path: Path) -> None:
    """Write aside, then rename. Raise OSError."""
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(page, encoding="utf-8")
    aside.replace(path)
