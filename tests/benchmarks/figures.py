"""What all measurements share: timing in turns, the machine, the one table of what was found, and where it goes."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from daemon.environment import read_settings

_WIDTH = 150


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What was measured, beside its peer or limit. ``ratio``: of ours to the peer's. ``met`` None: there is no goal."""

    what: str
    ours: str = ""
    peer: str = ""
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None


def by_ratio(
    what: str, ours: float, unit: str, peer: tuple[str, float], *, least: float | None = None, most: float | None = None
) -> Figure:
    """``peer``: its name and what it came to. The goal is the ratio's."""
    ratio = ours / peer[1]
    goal = f">= {least:g}" if least is not None else f"<= {most:g}" if most is not None else ""
    met = None if not goal else (least is None or ratio >= least) and (most is None or ratio <= most)
    told = f"{peer[0]} {spoken(peer[1])}"
    return Figure(what=what, ours=f"{spoken(ours)} {unit}", peer=told, ratio=ratio, goal=goal, met=met)


def by_limit(what: str, ours: float, unit: str, most: float, peer: tuple[str, float] | None = None) -> Figure:
    """The goal is that of the figure itself."""
    told, ratio = ("", None) if peer is None else (f"{peer[0]} {spoken(peer[1])}", ours / peer[1])
    goal = f"<= {most:g} {unit}"
    return Figure(what=what, ours=f"{spoken(ours)} {unit}", peer=told, ratio=ratio, goal=goal, met=ours <= most)


def missing(programs: Sequence[str], packages: Sequence[str]) -> list[Figure]:
    """Nothing could be measured."""
    return [Figure(what=f"needs {' and '.join(programs)} (apt-get install {' '.join(packages)})", met=False)]


def spoken(number: float) -> str:
    """Three digits, as far as there are any."""
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"


def show(found: Mapping[str, Sequence[Figure]]) -> None:
    """The one table."""
    table = Table(title=f"{os.cpu_count()} cores, {datetime.now(UTC):%Y-%m-%d}", title_justify="left")
    for column in ("", "figure", "ours", "peer or limit", "ratio", "goal", "verdict"):
        table.add_column(column, justify="right" if column in {"ours", "ratio", "goal"} else "left")
    for name, rows in found.items():
        for number, row in enumerate(rows):
            ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
            verdict = "" if row.met is None else "met" if row.met else "MISSED"
            table.add_row("" if number else name, row.what, row.ours, row.peer, ratio, row.goal, verdict)
        table.add_section()
    console = Console()
    Console(width=max(console.width, _WIDTH)).print(table)


def threads() -> int:
    """Of the network, as the shipped daemon would choose them."""
    return read_settings()[0].torch_threads or max(1, (os.cpu_count() or 1) - 1)


def in_turns(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each way. They take turns: whatever else the machine does falls on all of them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for act in ways.values():
        act()
    for _ in range(rounds):
        for name, act in ways.items():
            began = time.perf_counter()
            act()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(each) for name, each in seconds.items()}


def keep(out: Path, name: str, rows: Sequence[Figure], more: Mapping[str, Any]) -> None:
    """Under the measurement's name, beside what the others have left there."""
    kept = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    machine = {
        "cores": os.cpu_count(),
        "torch_threads": threads(),
        "load": os.getloadavg(),
        "python": platform.python_version(),
    }
    measured_at = datetime.now(UTC).isoformat(timespec="seconds")
    kept[name] = {"measured_at": measured_at, "machine": machine, "rows": [asdict(row) for row in rows], **more}
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
