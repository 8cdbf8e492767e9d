"""What a study costs as the store grows: its receipt, claim and result, and the first page of the worklist.

Nearly all studies have been read, as at a site; the same few hundred wait at every size. The plans of all statements
that run for each study, page or sweep are looked at too: none may go through a whole table.
"""

from __future__ import annotations

import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from sqlalchemy import Engine, event, text

from tests.benchmarks import figures
from tests.benchmarks.claimer import FOUND, POLICY, SHOWN
from tests.benchmarks.claims import empty_database
from tests.benchmarks.rows import fill
from triage.errors import Reason
from triage.jobs import RetryRule
from triage.records import schema
from triage.records.intake import Intake
from triage.records.queue import Queue, Result
from triage.records.reading import Reading
from triage.records.state import oldest_due_seconds
from triage.records.store import Store, open_engine
from triage.study import Header, ReceivedInstance

SIZES = (1_000, 100_000, 1_000_000)
OPEN, PAGE = 300, 50
TURNS, GOAL = 150, 1.2
HELD_FROM = 1_500_001
# A partial index holds the open rows alone: going through it is no scan of the table.
_SCANS = {
    "postgresql": re.compile(r"Seq Scan on (studies|instances|jobs|findings)"),
    "sqlite": re.compile(
        r"^SCAN (s|studies|instances|jobs|findings)\b(?! USING (COVERING )?INDEX ix_\w+_open)", re.MULTILINE
    ),
}


def measure(out: Path) -> list[figures.Figure]:
    """Each step costs at most GOAL times the one before, and no statement scans."""
    rows: list[figures.Figure] = []
    plans = {}
    for name in ("sqlite", "postgresql"):
        with database(name) as engine:
            costs, plans[name] = grown(engine)
        rows += steps(name, costs)
    scanning = [plan for found in plans.values() for plan in found if plan["scans"]]
    show_plans(plans, scanning)
    rows.append(figures.by_limit("statements that go through a whole table", len(scanning), "", 0))
    figures.keep(out, "growth", rows, {"plans": plans})
    return rows


@contextmanager
def database(name: str) -> Iterator[Engine]:
    with ExitStack() as stack:
        if name == "sqlite":
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="triage-growth-"))
            url = f"sqlite:///{folder}/triage.db"
        else:
            url = stack.enter_context(empty_database())
        engine = open_engine(url)
        schema.upgrade(engine)
        yield engine
        engine.dispose()


def grown(engine: Engine) -> tuple[list[dict[str, float]], list[dict[str, Any]]]:
    """Milliseconds of each verb at each size, and the plans at the last."""
    held, costs = 0, []
    acts = Acts(engine)
    with engine.begin() as connection:
        fill(connection, HELD_FROM, HELD_FROM + OPEN - 1, read=False)
    for size in SIZES:
        grow(engine, held, size)
        held = size
        costs.append(acts.measured())
    return costs, explained(engine, acts)


def grow(engine: Engine, held: int, size: int) -> None:
    for first in range(held + 1, size + 1, 100_000):
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(text("SET LOCAL statement_timeout = 0"))
            fill(connection, first, min(first + 99_999, size), read=True)
    if engine.dialect.name == "sqlite":
        with closing(engine.raw_connection()) as connection:  # no transaction around it
            connection.driver_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:  # as autovacuum, an hour later
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text("VACUUM ANALYZE"))
        connection.execute(text("CHECKPOINT"))
        connection.execute(text("RESET statement_timeout"))


@dataclass
class Acts:
    """What is done for each study; as many are closed as are received, so that the same number waits."""

    engine: Engine
    number: int = 0
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = Store(self.engine)
        self.intake, self.queue = Intake(self.store, POLICY), Queue(self.store, POLICY)
        self.reading = Reading(self.store)

    def measured(self) -> dict[str, float]:
        """Median milliseconds by verb."""
        self.turn()
        self.seconds.clear()
        for _ in range(TURNS):
            self.turn()
        return {name: statistics.median(each) * 1000 for name, each in self.seconds.items()}

    def turn(self) -> None:
        self.number += 1
        received = film(self.number)
        self._timed("receive", lambda: self.intake.receive(received))
        (job,) = self._timed("claim", lambda: self.queue.claim("growth", 60.0))
        self.queue.heartbeat(job, 60.0)
        self._timed("finish", lambda: self.queue.finish([Result(job=job, finding=FOUND, priority=SHOWN)]))
        self._timed("first page", lambda: self.reading.worklist(PAGE))
        self._sweep()
        self.reading.close(received.header.study_instance_uid)

    def _sweep(self) -> None:
        """The scheduler's, each few seconds, and what the page asks of the state of things."""
        self.queue.expire(RetryRule())
        self.queue.time_out_pending(300.0)
        oldest_due_seconds(self.store)
        self.reading.count_not_analysed(Reason.MODEL_UNAVAILABLE)

    def _timed(self, name: str, act: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        done = act()
        self.seconds.setdefault(name, []).append(time.perf_counter() - began)
        return done


def film(number: int) -> ReceivedInstance:
    uid = f"1.2.826.0.1.3680043.10.9.{number}"
    header = Header(
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
        sop_instance_uid=f"{uid}.1",
        study_instance_uid=uid,
        modality="CR",
        patient_id=f"N{number}",
        patient_name="Invented^New",
    )
    return ReceivedInstance(header=header, sha256=f"{number:064x}", size_bytes=8_400_000, calling_ae="PACS")


def explained(engine: Engine, acts: Acts) -> list[dict[str, Any]]:
    """Each statement of one turn, by its plan."""
    given: dict[str, Any] = {}

    def note(_: object, __: object, statement: str, parameters: Any, ___: object, many: bool) -> None:  # noqa: FBT001
        if statement.lstrip().startswith(("SELECT", "UPDATE", "INSERT", "WITH")):
            given.setdefault(statement, parameters[0] if many else parameters)

    event.listen(engine, "before_cursor_execute", note)
    acts.turn()
    event.remove(engine, "before_cursor_execute", note)
    ask = "EXPLAIN " if engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN "
    found = []
    with engine.connect() as connection:
        for statement, parameters in given.items():
            lines = connection.exec_driver_sql(ask + statement, parameters)
            plan = "\n".join(str(line[-1]) for line in lines)
            scans = sorted({match.group(1) for match in _SCANS[engine.dialect.name].finditer(plan)})
            found.append({"statement": " ".join(statement.split()), "plan": plan, "scans": scans})
    return found


def steps(name: str, costs: list[dict[str, float]]) -> list[figures.Figure]:
    """The peer is the step before."""
    return [
        figures.by_ratio(
            f"{verb}, {name}, {size:,} studies held", after[verb], "ms", (f"{less:,} held:", before[verb]), most=GOAL
        )
        for verb in costs[0]
        for less, size, before, after in zip(SIZES[:-1], SIZES[1:], costs[:-1], costs[1:], strict=True)
    ]


def show_plans(plans: dict[str, list[dict[str, Any]]], scanning: list[dict[str, Any]]) -> None:
    console = Console(highlight=False)
    for name, found in plans.items():
        console.print(f"\nPlans on {name} with {SIZES[-1]:,} studies", style="bold")
        for plan in found:
            console.print(plan["statement"][:110], markup=False, soft_wrap=True, style="dim")
            console.print(plan["plan"], markup=False, soft_wrap=True)
    for plan in scanning:
        words = f"goes through the whole of {', '.join(plan['scans'])}: {plan['statement']}"
        console.print(words, markup=False, style="red")
