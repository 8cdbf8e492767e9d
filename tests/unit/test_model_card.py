"""The network's page belongs to the network, and says what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from making import CARD
from triage.card import Card, Thorax, read_card
from triage.learning.faithfulness import FAITH_WORDS
from triage.learning.figures import FIGURES
from triage.learning.model_card import render, worst, write_page

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "MODEL_CARD.md"
FIGURES_FOUND: dict[str, Any] = {
    "n": 40,
    "patients": 31,
    "threshold": 0.4321,
    "out_of_fold": 0,
    "not_analysed": 2,
    "true_positive": 17,
    "false_negative": 3,
    "true_negative": 19,
    "false_positive": 1,
    **{name: 0.5 + number / 100 for number, name in enumerate(FIGURES)},
    "intervals": {name: [0.25, 0.75] for name in FIGURES},
}


def row(shift: str, flips: float | None, refused: float) -> dict[str, Any]:
    return {
        "shift": shift,
        "auc": 0.9,
        "sensitivity": 0.8,
        "specificity": None,
        "expected_calibration_error": 0.1,
        "flips": flips,
        "mean_change": flips,
        "refused": refused,
        "intervals": {"auc": [0.8, 0.95], "specificity": None},
    }


def run(**changes: Any) -> dict[str, Any]:
    rows = [row("as they are", None, 0.0), row("much blur", 0.125, 0.0), row("much white", 0.025, 0.5)]
    stressed = {"films": 38, "patients": 30, "trained_on": False, "rows": rows, "explanations": {"films": 0}}
    return FIGURES_FOUND | {"stress": stressed | changes}


def card() -> Card:
    data = {
        "source": "Somewhere (2020).",
        "licence": "CC BY 4.0",
        "films": "films of children",
        "training": {"patients": 7, "normal": 8},
    }
    metrics = {"out_of_fold": FIGURES_FOUND | {"auc": 0.98765}, "note": 3}
    return replace(CARD, data=data, training={"epochs": 12}, metrics=metrics)


def page(of: Card | None = None, found: dict[str, Any] | None = None) -> str:
    return render(of or card(), found or run(), films="pediatric", date="2026-02-03")


def test_the_page_in_the_repository_is_of_the_weights_in_the_repository() -> None:
    shipped = read_card(ROOT / "triage" / "weights" / "pneumonia.json")
    text = PAGE.read_text(encoding="utf-8")
    assert f"`{shipped.sha256}`" in text, "write it again: triage evaluate FILMS --model-card MODEL_CARD.md"
    assert f"from {shipped.threshold};" in text


def test_it_states_card_and_run_with_intervals() -> None:
    text = page()
    for words in (
        f"`{CARD.sha256}`",
        "CC BY 4.0",
        "training: 7 patients, 8 normal",
        "`epochs` 12.",
        "the card: out of fold",
        "| AUC | 0.988 [0.250, 0.750] |",
        "| sensitivity | 0.510 [0.250, 0.750] |",
        "1.0 to 5.99 years",
        "40 films of 31 patients; 2 not analysed",
        "| much white | 0.900 [0.800, 0.950] | 0.800 | - |",
        "missed 3 of 20 pneumonias and flagged 1 of 20 normal films",
        "Most answers turn with: much blur (12.5 %), much white (2.5 %).",
        "Most films are refused with: much white (50.0 %).",
        "not for diagnosis",
        "the whole film",
        "2026-02-03",
    ):
        assert words in text, words


def test_it_says_what_the_network_is_shown() -> None:
    assert "thorax, cut out with a margin of 0.08" in page(replace(card(), thorax=Thorax(margin=0.08, size_px=160)))


def test_it_says_whether_the_films_were_trained_on_or_that_nobody_knows() -> None:
    assert "None of them is, pixel by pixel" in page()
    assert "read the changes, not the levels" in page(found=run(trained_on=True))
    assert "no out-of-fold table" in page(found=run(trained_on=None))


def test_it_shows_how_explanations_were_judged_if_there_were_any() -> None:
    figures = {name: number / 16 for number, name in enumerate(FAITH_WORDS, start=14)}
    found = {"films": 5, "superpixels": figures, "gradient": figures | {"inside": 0.5}}
    assert "| share of what speaks for pneumonia that lies in the thorax | 0.875 | 0.500 |" in page(
        found=run(explanations=found)
    )
    assert "Explanations" not in page()


def test_the_worst_rows_come_first_and_harmless_ones_not_at_all() -> None:
    rows = [row("none", 0.0, 0), row("unknown", None, 0), *(row(f"by {n}", n / 10, 0) for n in range(1, 8))]
    assert [found["shift"] for found in worst(rows, "flips")] == ["by 7", "by 6", "by 5", "by 4", "by 3"]


def test_a_page_is_replaced_whole(tmp_path: Path) -> None:
    write_page("old", tmp_path / "card.md")
    write_page("new", tmp_path / "card.md")
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == ["new"]
