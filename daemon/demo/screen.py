"""What a demonstration shows in the terminal: the order of arrival beside the triaged order, then the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from daemon.demo.tally import (
    MINUTES_A_FILM,
    Entry,
    Sent,
    Waits,
    flagged_of,
    percentile,
    reasons,
    seconds_to_rank,
    waits,
)

NOTICE = "For prioritisation only, not for diagnosis."
ALL = 1_000_000
STYLES = {"likely": "bold red", "possible": "yellow", "unlikely": "dim"}
SIDE_BY_SIDE_COLUMNS = 130  # narrower terminals get the triaged order alone, which shows the arrivals' numbers too


def board(sent: Sequence[Sent], entries: Sequence[Entry], *, columns: int, rows: int = ALL) -> RenderableType:
    """The latest arrivals and those to be read first, at most ``rows`` of each."""
    triaged = triaged_order(sent, entries, rows)
    if columns < SIDE_BY_SIDE_COLUMNS:
        return Group(triaged, Text(NOTICE, style="dim"))
    both = Table.grid(padding=(0, 2))
    both.add_row(arrival_order(sent, entries, rows), triaged)
    return Group(both, Text(NOTICE, style="dim"))


def arrival_order(sent: Sequence[Sent], entries: Sequence[Entry], rows: int = ALL) -> Table:
    known = {entry["study_instance_uid"]: entry for entry in entries}
    table = Table(title="As they arrived", box=None, title_style="bold")
    for name in ("#", "Patient", "What it is"):
        table.add_column(name, no_wrap=True)
    for study in sent[-rows:]:
        patient = _patient(known[study.study]) if study.study in known else Text("not received", style="bold red")
        table.add_row(str(study.number), patient, Text(study.shows, style="bold" if study.pneumonia else ""))
    return table


def triaged_order(sent: Sequence[Sent], entries: Sequence[Entry], rows: int = ALL) -> Table:
    numbers = {study.study: study.number for study in sent}
    table = Table(title="As they will be read", box=None, title_style="bold")
    for name in ("Rank", "#", "Patient", "Analysis"):
        table.add_column(name, no_wrap=True)
    table.add_column("Why here?", ratio=1)
    for entry in entries[:rows]:
        number = numbers.get(entry["study_instance_uid"], "")
        why = Text(entry["why"].removesuffix("; then by arrival"))
        table.add_row(str(entry["rank"]), str(number), _patient(entry), _told(entry), why)
    return table


def _patient(entry: Entry) -> Text:
    return Text(str(entry["patient_name"]).replace("^", ", ")[:24])


def _told(entry: Entry) -> Text:
    if entry["analysis"] != "analysed":
        return Text(entry["analysis"].replace("_", " "), style="italic")
    tier = str(entry["tier"])
    return Text(tier if entry["flagged"] else "not flagged", style=STYLES.get(tier, ""))


def figures(sent: Sequence[Sent], entries: Sequence[Entry], analysed_at: Mapping[str, datetime]) -> Text:
    lines = [*_counts(sent, entries), *_speed(sent, analysed_at), *_flags(sent, entries), *_waiting(sent, entries)]
    return Text("\n".join(lines))


def _counts(sent: Sequence[Sent], entries: Sequence[Entry]) -> list[str]:
    analysed = sum(entry["analysis"] == "analysed" for entry in entries)
    pending = sum(entry["analysis"] == "pending" for entry in entries)
    lines = [f"Sent {len(sent)} studies, received {len(entries)}, analysed {analysed}."]
    lines += [f"Not analysed, {reason}: {number}." for reason, number in sorted(reasons(entries).items())]
    return lines + ([f"Still pending: {pending}."] if pending else [])


def _speed(sent: Sequence[Sent], analysed_at: Mapping[str, datetime]) -> list[str]:
    seconds = seconds_to_rank(sent, analysed_at)
    if not seconds:
        return []
    half, most, worst = percentile(seconds, 0.5), percentile(seconds, 0.95), max(seconds)
    return [
        f"From C-STORE Success to ranked: median {half:.2f} s, 95th percentile {most:.2f} s, longest {worst:.2f} s."
    ]


def _flags(sent: Sequence[Sent], entries: Sequence[Entry]) -> list[str]:
    lines = []
    for kind in ("synthetic", "labelled"):
        of_kind = [study for study in sent if _synthetic(study) == (kind == "synthetic")]
        sick = flagged_of([study for study in of_kind if study.pneumonia], entries)
        well = flagged_of([study for study in of_kind if study.truth == "normal"], entries)
        if sick[1] or well[1]:
            told = f"Of {sick[1]} {kind} pneumonias {sick[0]} flagged; of {well[1]} {kind} normals {well[0]} flagged."
            lines.append(told)
    if any(map(_synthetic, sent)):
        lines.append("Synthetic films show that the parts work together; they say nothing about accuracy on children.")
    return lines


def _synthetic(study: Sent) -> bool:
    return study.shows.startswith("synthetic")


def _waiting(sent: Sequence[Sent], entries: Sequence[Entry]) -> list[str]:
    lines = [
        f"Mean wait until read (one reader, {MINUTES_A_FILM} invented minutes a film, starting once all have arrived;",
        "both orders keep the clinical priority):",
    ]
    rows = {
        "pneumonias": waits(sent, entries, lambda s, _: s.pneumonia),
        "of these not flagged": waits(sent, entries, lambda s, e: s.pneumonia and not e["flagged"]),
        "all others": waits(sent, entries, lambda s, _: not s.pneumonia),
    }
    lines += [_wait_line(name, found) for name, found in rows.items() if found]
    return lines if any(study.pneumonia for study in sent) else []


def _wait_line(name: str, found: Waits) -> str:
    return f"  {name} ({found.studies}): first come {found.first_come:.0f} min, triaged {found.triaged:.0f} min"
