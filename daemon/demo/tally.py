"""What a demonstration can say in figures: speed, flags against what was drawn, and waits with and without triage."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

MINUTES_A_FILM = 10  # invented: one reader, who starts when the morning has arrived
CLINICAL = {"STAT": 0, "URGENT": 1, "ROUTINE": 2}
Entry = Mapping[str, Any]  # of GET /api/worklist


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One study as its sender saw it; ``number`` counts from 1. ``answered_at`` is in seconds since 1970."""

    number: int
    study: str = field(repr=False)
    shows: str
    truth: str
    stored: bool
    answered_at: float

    @property
    def pneumonia(self) -> bool:
        return self.truth not in {"", "normal"}


@dataclass(frozen=True, kw_only=True)
class Waits:
    """Mean minutes until read: by arrival alone, and as triaged. Both within the clinical priority of the orders."""

    studies: int
    first_come: float
    triaged: float


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def seconds_to_rank(sent: Sequence[Sent], analysed_at: Mapping[str, datetime]) -> list[float]:
    """From the sender's Success to the study at its final place."""
    done = [(study, analysed_at[study.study]) for study in sent if study.stored and study.study in analysed_at]
    return [max(0.0, when.timestamp() - study.answered_at) for study, when in done]


def reasons(entries: Sequence[Entry]) -> Counter[str]:
    return Counter(str(entry["reason"]) for entry in entries if entry["analysis"] == "not_analysed")


def flagged_of(sent: Sequence[Sent], entries: Sequence[Entry]) -> tuple[int, int]:
    """(flagged, of how many): those of ``sent`` that were analysed."""
    by_study = {entry["study_instance_uid"]: entry for entry in entries if entry["analysis"] == "analysed"}
    flags = [bool(by_study[study.study]["flagged"]) for study in sent if study.study in by_study]
    return sum(flags), len(flags)


def waits(sent: Sequence[Sent], entries: Sequence[Entry], wanted: Callable[[Sent, Entry], bool]) -> Waits | None:
    """Of the ``wanted`` studies; None if there are none. ``entries`` come in triaged order."""
    known = {study.study: study for study in sent}
    held = [entry for entry in entries if entry["study_instance_uid"] in known]
    by_arrival = sorted(held, key=lambda e: (CLINICAL[e["clinical_priority"]], known[e["study_instance_uid"]].number))
    chosen = [e["study_instance_uid"] for e in held if wanted(known[e["study_instance_uid"]], e)]
    if not chosen:
        return None
    return Waits(studies=len(chosen), first_come=_mean_wait(by_arrival, chosen), triaged=_mean_wait(held, chosen))


def _mean_wait(order: Sequence[Entry], chosen: Sequence[str]) -> float:
    place = {entry["study_instance_uid"]: index for index, entry in enumerate(order)}
    return statistics.fmean(place[study] for study in chosen) * MINUTES_A_FILM
