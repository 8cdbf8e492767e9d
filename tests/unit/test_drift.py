"""Drift of scores: of the shape, not of how many are ill."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from daemon.settings import DEFAULT_WEIGHTS
from making import CARD
from triage.card import Scores, read_card, write_card
from triage.drift import binned, drift
from triage.errors import CardMismatchError
from triage.learning.films import NORMAL
from triage.learning.out_of_fold import read_out_of_fold
from triage.vision.classifier import probabilities

ALARM = 0.25


def shipped() -> Scores:
    scores = read_card(DEFAULT_WEIGHTS).scores
    assert scores
    return scores


def drawn(scores: Scores, prevalence: float, count: int = 500) -> list[float]:
    """Films as the card has them, with another share of pneumonias."""
    chance = random.Random(7)
    ends = [0.0, *scores.edges, 1.0]
    middles = [(low + high) / 2 for low, high in pairwise(ends)]
    ill = round(count * prevalence)
    return [
        *chance.choices(middles, scores.pneumonia, k=ill),
        *chance.choices(middles, scores.normal, k=count - ill),
    ]


@pytest.mark.parametrize("prevalence", [0.05, 0.3, 0.74])
@pytest.mark.parametrize("is_known", [True, False])
def test_films_like_those_it_was_measured_on_are_no_drift_whatever_the_prevalence(
    prevalence: float, *, is_known: bool
) -> None:
    found = drift(drawn(shipped(), prevalence), shipped(), prevalence if is_known else None)
    assert found.index < 0.1
    assert found.prevalence == pytest.approx(prevalence, abs=0.05)


@pytest.mark.parametrize("count", [100, 500])
@pytest.mark.parametrize(
    "scores",
    [(0.99,), (0.001,), (0.5,), (0.0, 1.0), tuple(number / 100 for number in range(100))],
    ids=["all high", "all low", "all in the middle", "either end", "any"],
)
def test_a_network_that_says_the_same_of_all_or_anything_at_all_is_seen(scores: Sequence[float], count: int) -> None:
    recent = [scores[number % len(scores)] for number in range(count)]
    assert drift(recent, shipped(), None).index >= ALARM


def test_far_more_flags_than_the_site_says_it_has_pneumonias_are_seen() -> None:
    assert drift(drawn(shipped(), 0.7), shipped(), 0.1).index >= ALARM


def test_the_index_is_the_one_of_the_books() -> None:
    scores = Scores(edges=(0.5,), pneumonia=(0, 10_000_000), normal=(10_000_000, 0))
    recent = [0.1] * 2_000_000 + [0.9] * 8_000_000
    assert drift(recent, scores, 0.5).index == pytest.approx(
        0.3 * np.log(0.8 / 0.5) - 0.3 * np.log(0.2 / 0.5), rel=1e-3
    )


def test_the_shipped_card_counts_the_films_of_its_table() -> None:
    card = read_card(DEFAULT_WEIGHTS)
    table = read_out_of_fold(DEFAULT_WEIGHTS, card.sha256)
    assert table
    logits = np.array(list(table.logits.values()))
    scores = 1 - probabilities(logits, films=len(logits), calibration=card.calibration)[:, NORMAL]
    everything = binned(scores.tolist(), [])
    assert everything.edges == shipped().edges
    both = zip(shipped().pneumonia, shipped().normal, strict=True)
    assert [ill + well for ill, well in both] == list(everything.pneumonia)


def test_a_card_keeps_its_histogram_and_one_from_before_has_none(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    scores = binned([0.9, 0.8, 0.2], [0.1, 0.3, 0.4], bins=3)
    write_card(replace(CARD, scores=scores), path)
    assert read_card(path).scores == scores
    raw = json.loads(path.read_text(encoding="utf-8"))
    del raw["scores"]
    path.write_text(json.dumps(raw), encoding="utf-8")
    assert read_card(path).scores is None


@pytest.mark.parametrize(
    "wrong",
    [{"edges": (0.5, 0.2)}, {"edges": (0.0,)}, {"pneumonia": (1,)}, {"normal": (0, 0)}, {"normal": (3, -1)}],
    ids=str,
)
def test_a_histogram_that_is_none_is_refused(tmp_path: Path, wrong: dict[str, Sequence[float]]) -> None:
    path = tmp_path / "card.json"
    write_card(CARD, path)
    raw = json.loads(path.read_text(encoding="utf-8"))
    raw["scores"] = {**asdict(Scores(edges=(0.5,), pneumonia=(1, 2), normal=(2, 1))), **wrong}
    path.write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(CardMismatchError):
        read_card(path)
