"""One screen: does it run, does it keep up, and does somebody have to look?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from importlib.metadata import version
from typing import Any

from daemon.house import WORKER_ABSENT_SECONDS, House
from daemon.ledger import count_open
from daemon.notation import this_host
from daemon.operating.databases import need_store, seen
from daemon.operating.places import free_mib, look_at_room
from daemon.operating.running import look_at_processes
from daemon.operating.verdict import Area, Verdict, as_json, exit_code, fail, looked, ok, warn
from daemon.operating.verdict import lines as told_lines
from daemon.presence import Alive, alive
from daemon.pulse import SILENT_SECONDS
from daemon.settings import Settings
from triage.card import read_card
from triage.errors import CardMismatchError, Reason
from triage.jobs import JobState
from triage.records.inspection import Inspection
from triage.records.processes import Processes
from triage.records.store import DatabaseError, Store
from triage.records.tally import Tally, tally

# Of the films of a day: more that were not analysed for our own fault are worth a look.
_OUR_FAULT = frozenset(
    {
        Reason.MODEL_UNAVAILABLE, Reason.MODEL_OUTPUT_INVALID, Reason.RESOURCE_EXHAUSTED, Reason.INTERNAL_ERROR,
        Reason.PIXELS_UNREADABLE, Reason.PIXELS_DAMAGED, Reason.DECODE_CRASH, Reason.DECODE_TIMEOUT, Reason.TIMEOUT,
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Status:
    """``figures`` and ``schema``: None while the database is away. ``elsewhere``: HOST/PROCESS."""

    version: str
    policy: str
    weights: str
    schema: str | None
    free_mib: int | None
    ledger: int
    processes: Sequence[Alive]
    elsewhere: Sequence[str]
    figures: Tally | None
    verdicts: Sequence[Verdict]

    def told(self) -> dict[str, Any]:
        """For machines."""
        plain = asdict(self)
        return plain | {"verdicts": as_json(self.verdicts), "exit_code": exit_code(self.verdicts)}


def status(house: House) -> Status:
    """Raise TriageError for a database that is not there at all."""
    settings = house.settings
    running = alive(settings.data_dir)
    found, figures, elsewhere, verdicts = _asked(house)
    verdicts = [*look_at_processes(settings, running, should_run=not elsewhere), *verdicts]
    verdicts += looked(Area.DISK, partial(look_at_room, settings))
    waiting = count_open(settings.data_dir)
    if waiting:
        words = f"{waiting} instances came while the database was away, and wait to be entered"
        verdicts.append(warn(Area.DATABASE, words, "they are entered by a receiver once the database is back"))
    return Status(
        version=version("worklist-triage"),
        policy=house.policy.version,
        weights=_weights(settings, verdicts),
        schema=found.schema if found else None,
        free_mib=free_mib(settings),
        ledger=waiting,
        processes=running,
        elsewhere=elsewhere,
        figures=figures,
        verdicts=verdicts,
    )


def _asked(house: House) -> tuple[Inspection | None, Tally | None, list[str], list[Verdict]]:
    store = need_store(house.settings, house.process)
    try:
        found = seen(store, house.settings)
        if isinstance(found, Verdict):
            return None, None, [], [found]
        return _of_database(house, store, found)
    finally:
        store.engine.dispose()


def _of_database(
    house: House, store: Store, found: Inspection
) -> tuple[Inspection, Tally | None, list[str], list[Verdict]]:
    if not found.is_current:
        words = f"the database has schema {found.schema}, this version {found.known[0]}"
        return found, None, [], [fail(Area.SCHEMA, words, "`triage doctor` says what to do")]
    try:
        figures = tally(store)
        heard = Processes(store).alive(SILENT_SECONDS).names
        elsewhere = [name for name in heard if not name.startswith(f"{this_host()}/")]
    except DatabaseError as error:
        return found, None, [], [warn(Area.DATABASE, f"it answers no more ({type(error).__name__})", "triage doctor")]
    return found, figures, elsewhere, list(_keeping_up(house, figures))


def _keeping_up(house: House, figures: Tally) -> Iterator[Verdict]:
    area, state = Area.QUEUE, figures.state
    words = f"{state.jobs[JobState.QUEUED]} films wait for analysis, the oldest for {state.due_seconds:.0f} s"
    if state.due_seconds > house.settings.pending_seconds:
        yield fail(area, words, "no worker looks, or they do not keep up: see the workers' log, add workers")
    elif state.due_seconds > WORKER_ABSENT_SECONDS:
        yield warn(area, words, "workers fall behind: see their log")
    else:
        yield ok(area, words)
    if state.overdue:
        words = f"{state.overdue} of {state.open_studies} open studies have waited longer than the site's limit"
        yield warn(area, words, "they need readers, not us: they stand among the flagged")
    ours = {reason: count for reason, count in figures.not_analysed.items() if reason in _OUR_FAULT}
    ours |= {reason: count for reason, count in state.not_analysed.items() if reason in _OUR_FAULT}
    if ours:
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(ours.items()))
        yield warn(
            area, f"not analysed, and not for what the films are: {told}", "mend it, then triage requeue --reason"
        )


def _weights(settings: Settings, verdicts: list[Verdict]) -> str:
    try:
        return read_card(settings.weights_card).sha256[:12]
    except CardMismatchError as error:
        verdicts.append(fail(Area.NETWORK, str(error), "give back card and weights as they were released"))
        return ""


def lines(shown: Status) -> Iterator[str]:
    """For people."""
    yield f"triage {shown.version}   policy {shown.policy}   network {shown.weights or 'none'}   schema {shown.schema}"
    for each in shown.processes:
        yield f"  {each.process:<12} {each.host} {each.process_id}, since {_moment(each.since)}"
    if shown.elsewhere:
        yield f"  elsewhere: {', '.join(shown.elsewhere)}"
    if shown.figures:
        yield from _figures(shown.figures)
    yield f"ledger     {shown.ledger} to be entered      disk {shown.free_mib} MiB free"
    yield ""
    yield from told_lines(shown.verdicts)


def _figures(found: Tally) -> Iterator[str]:
    state = found.state
    reading = state.readings["reading"]
    waiting, in_hand = (state.jobs[each] for each in (JobState.QUEUED, JobState.LEASED))
    yield f"queue      {waiting} waiting, {in_hand} in hand, the oldest for {state.due_seconds:.0f} s"
    yield f"received   last {_moment(state.received_at)}, {found.received} in 24 h"
    yield f"analysed   last {_moment(found.last_analysed_at)}"
    reasons = ", ".join(f"{count} {reason}" for reason, count in found.not_analysed.items()) or "none"
    yield f"not so     {reasons} (24 h)"
    yield (
        f"worklist   {state.open_studies} open: {state.flagged} flagged, {state.overdue} overdue, "
        f"{reading} being read, {state.pending} pending"
    )


def _moment(at: datetime | None) -> str:
    return f"{at.astimezone():%d %b %H:%M:%S}" if at else "never"
