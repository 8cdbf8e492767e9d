"""Which processes should run here, by the settings, and which do."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from daemon.notation import this_host
from daemon.operating.verdict import Area, Verdict, fail, ok, warn
from daemon.presence import Alive
from daemon.settings import Settings

# Children load their libraries, from a disk that may be busy.
_BIRTH_SECONDS = 60.0


def expected(settings: Settings) -> Counter[str]:
    """Children of `triage serve`."""
    children = Counter({"receiver": settings.receivers, "scheduler": 1, "web": 1})
    children.update(f"worker-{number}" for number in range(1, settings.workers + 1))
    if settings.hl7_port or settings.mwl_peer:
        children["orders"] = 1
    return children


def here(alive: Sequence[Alive]) -> Counter[str]:
    """By name; of a folder that many machines share, those of this one."""
    host = this_host()
    return Counter(each.process for each in alive if each.host == host)


def _seconds_up(alive: Sequence[Alive]) -> float:
    """Since `serve` was started here last."""
    starts = [each.since for each in alive if each.process == "serve" and each.host == this_host()]
    return (datetime.now(UTC) - max(starts)).total_seconds() if starts else math.inf


def look_at_processes(settings: Settings, alive: Sequence[Alive], *, should_run: bool) -> Iterator[Verdict]:
    """``should_run``: whether it matters that none runs."""
    found = here(alive)
    if not found:
        words = "no process of this data folder runs on this machine"
        yield fail(Area.PROCESSES, words, "triage serve") if should_run else ok(Area.PROCESSES, words)
        return
    words = ", ".join(name if count == 1 else f"{count} {name}" for name, count in sorted(found.items()))
    missing = sorted((expected(settings) - found).elements()) if found["serve"] else []
    if missing and _seconds_up(alive) < _BIRTH_SECONDS:
        yield ok(Area.PROCESSES, f"starting: {', '.join(missing)} not there yet; running: {words}")
    elif missing:
        fix = "it is started again with growing pauses: look at its last lines in the log"
        yield warn(Area.PROCESSES, f"{', '.join(missing)} missing; running: {words}", fix)
    else:
        yield ok(Area.PROCESSES, f"running: {words}")
