"""The card that goes with a weights file: what the network is, for whom it was validated, where it flags."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from triage.errors import CardMismatchError


@dataclass(frozen=True, kw_only=True)
class Population:
    """Films outside this population are "not analysed". Ages in years, both ends included."""

    modalities: tuple[str, ...]
    body_parts: tuple[str, ...]
    views: tuple[str, ...]
    age_min_years: float
    age_max_years: float


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Film to network input: resize to ``size_px`` square, stretch between two percentiles (0 to 100), then z-score."""

    size_px: int
    stretch_percentiles: tuple[float, float]
    mean: float
    std: float


@dataclass(frozen=True, kw_only=True)
class Thorax:
    """What the network is shown: the box of the thorax, ``margin`` of its sides wider all round, ``size_px`` square.

    ``smoothing_px``: deviation of a Gaussian over the prepared film, before it is cut; 0 for none. ``without_bars``:
    even bars along the film's sides are taken off before the thorax is looked for.
    """

    margin: float
    size_px: int
    smoothing_px: float = 0.0
    without_bars: bool = False


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """What flagging P(pneumonia) >= ``threshold`` catches and spares, as shares of 1, on films not trained on."""

    threshold: float
    sensitivity: float
    specificity: float


# The ends of every curve, which a card leaves out: from threshold 0 all are flagged, from 1 none.
NOTHING_SPARED = OperatingPoint(threshold=0.0, sensitivity=1.0, specificity=0.0)
NOTHING_CAUGHT = OperatingPoint(threshold=1.0, sensitivity=0.0, specificity=1.0)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Films not trained on, counted by their calibrated P(pneumonia): below the first of ``edges``, between, above."""

    edges: tuple[float, ...]
    pneumonia: tuple[int, ...]
    normal: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Logits in the order of the classes become log-odds: divided by ``temperature``, then ``bias`` added."""

    temperature: float
    bias: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Card:
    """``threshold`` and ``likely_threshold`` are calibrated P(pneumonia); see ``Calibration``.

    ``sha256`` is of the weights file: thresholds are worth nothing with other weights. Without ``thorax``, as in
    cards of the first version, the network is shown the whole film. ``curve`` rises in its thresholds. ``golden``: what
    the network said of `triage.vision.golden.golden_films`, a row of three probabilities each. Without ``scores``, as
    in cards before 2026-11-27, nothing is said about drift.
    """

    architecture: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    population: Population
    threshold: float
    likely_threshold: float
    temperature: float
    sha256: str
    date: str
    thorax: Thorax | None = None
    curve: tuple[OperatingPoint, ...] = ()
    golden: tuple[tuple[float, ...], ...] = ()
    bias: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scores: Scores | None = None
    data: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def calibration(self) -> Calibration:
        return Calibration(temperature=self.temperature, bias=self.bias)


def read_card(path: Path) -> Card:
    """Raise CardMismatchError if the file is missing, is not JSON, or has a field too many or too few."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        preprocessing = raw.pop("preprocessing")
        population: dict[str, Any] = raw.pop("population")
        for name in ("modalities", "body_parts", "views"):
            population[name] = tuple(population[name])
        preprocessing["stretch_percentiles"] = tuple(preprocessing["stretch_percentiles"])
        raw["classes"] = tuple(raw["classes"])
        raw["thorax"] = Thorax(**raw["thorax"]) if raw.get("thorax") else None
        raw["bias"] = tuple(float(shift) for shift in raw.get("bias", (0, 0, 0)))
        raw["curve"] = _curve(raw.get("curve", ()))
        raw["golden"] = _golden(raw.get("golden", ()))
        raw["scores"] = _scores(raw["scores"]) if raw.get("scores") else None
        return Card(preprocessing=Preprocessing(**preprocessing), population=Population(**population), **raw)
    except OSError as error:
        raise CardMismatchError(f"card {path.name}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CardMismatchError(f"card {path.name}: not a card of this version ({error})") from error


def _golden(rows: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    """Raise ValueError unless there are none or three, of three probabilities each."""
    golden = tuple(tuple(float(p) for p in row) for row in rows)
    if golden and [len(row) for row in golden] != [3, 3, 3]:
        raise ValueError("golden is not three rows of three")
    return golden


def _curve(points: Sequence[dict[str, float]]) -> tuple[OperatingPoint, ...]:
    """Raise ValueError unless thresholds rise between 0 and 1, and with them specificity, while sensitivity falls."""
    curve = tuple(OperatingPoint(**point) for point in points)
    for low, high in pairwise((NOTHING_SPARED, *curve, NOTHING_CAUGHT)):
        rises = low.threshold < high.threshold and low.specificity <= high.specificity
        if not (rises and low.sensitivity >= high.sensitivity):
            raise ValueError(f"curve does not rise at {high.threshold:g}")
    return curve


def _scores(raw: dict[str, Sequence[float]]) -> Scores:
    """Raise ValueError unless edges rise between 0 and 1, with one count more than edges and films of both kinds."""
    edges = tuple(float(edge) for edge in raw["edges"])
    counts = {kind: tuple(int(count) for count in raw[kind]) for kind in ("pneumonia", "normal")}
    rises = all(low < high for low, high in pairwise((0.0, *edges, 1.0)))
    counted = all(len(each) == len(edges) + 1 and min(each) >= 0 and sum(each) for each in counts.values())
    if not (rises and counted):
        raise ValueError("scores are not a histogram")
    return Scores(edges=edges, **counts)


def write_card(card: Card, path: Path) -> None:
    """Write aside, then rename: a reader sees the old card or the new one."""
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(asdict(card), indent=2) + "\n", encoding="utf-8")
    aside.replace(path)
