"""What all measurements share: timing in turns, medians, the machine, and where the figures go."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from daemon.environment import read_settings


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


def keep(out: Path, name: str, figures: Mapping[str, Any]) -> None:
    """Under the measurement's name, beside what the others have left there."""
    kept = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    machine = {
        "cores": os.cpu_count(),
        "torch_threads": threads(),
        "load": os.getloadavg(),
        "python": platform.python_version(),
    }
    measured_at = datetime.now(UTC).isoformat(timespec="seconds")
    kept[name] = {"measured_at": measured_at, "machine": machine, **figures}
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
