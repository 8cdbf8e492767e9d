"""Claims and completions a second with sixteen workers that do nothing, beside pgbench on the same server.

One claim with its completion counts as one; so does one of pgbench's transactions (-N: an update, a select and an
insert). They take turns in short rounds, so that whatever else the machine does falls on all of them alike.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import make_url, text

from tests.benchmarks import figures
from tests.benchmarks.rows import fill
from tests.stopping import own_server
from triage.records import schema
from triage.records.store import open_engine

CLIENTS, ROUNDS, SECONDS = 16, 5, 2.5
# Jobs that a worker takes together, as many as it has free decoders; the goal is for the last.
BATCHES = (1, 8)
GOAL = 0.3
JOBS = 250_000
PEER = "pgbench -N"
NAME = "triage_claims"


def measure(out: Path) -> list[figures.Figure]:
    if shutil.which("pgbench") is None:
        return figures.missing(["pgbench"], ["postgresql"])
    with ExitStack() as stack:
        url = stack.enter_context(database())
        workers = [stack.enter_context(claimer(url)) for _ in range(CLIENTS)]
        subprocess.run(["pgbench", "-i", "-q", "-s", "10", libpq(url)], check=True, capture_output=True)
        for most in BATCHES:
            claimed(workers, most)  # connect, put statements together, have them planned
        rates: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            rates.setdefault(PEER, []).append(pgbench(url))
            for most in BATCHES:
                rates.setdefault(f"claimed {most} at a time", []).append(claimed(workers, most))
    peer = PEER, statistics.median(rates.pop(PEER))
    rows = [
        figures.by_ratio(
            f"{name}, {CLIENTS} workers",
            statistics.median(each),
            "/s",
            peer,
            least=GOAL if name.startswith(f"claimed {BATCHES[-1]} ") else None,
        )
        for name, each in rates.items()
    ]
    figures.keep(out, "claims", rows, {"a_second": rates, "clients": CLIENTS})
    return rows


@contextmanager
def database() -> Iterator[str]:
    """With a backlog."""
    with empty_database() as url:
        engine = open_engine(url)
        schema.upgrade(engine)
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            for first in range(1, JOBS, 50_000):
                fill(connection, first, first + 49_999, read=False)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
            connection.execute(text("CHECKPOINT"))
        engine.dispose()
        yield url


@contextmanager
def empty_database() -> Iterator[str]:
    """A new one, on the server of TEST_POSTGRESQL_URL or one of our own."""
    with ExitStack() as stack:
        server = os.environ.get("TEST_POSTGRESQL_URL") or stack.enter_context(own_server()).url
        admin = open_engine(server).execution_options(isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE IF EXISTS {NAME}"))
            connection.execute(text(f"CREATE DATABASE {NAME}"))
        yield make_url(server).set(database=NAME).render_as_string(hide_password=False)
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {NAME} WITH (FORCE)"))
        admin.dispose()


def libpq(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


@contextmanager
def claimer(url: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.benchmarks.claimer", url]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        answer(process)
        yield process
    finally:
        process.kill()
        process.communicate()


def answer(process: subprocess.Popen[str]) -> str:
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise RuntimeError("a worker died")
    return line.strip()


def claimed(workers: list[subprocess.Popen[str]], most: int) -> float:
    for process in workers:
        if process.stdin:
            process.stdin.write(f"{most} {SECONDS}\n")
            process.stdin.flush()
    return sum(int(answer(process)) for process in workers) / SECONDS


def pgbench(url: str) -> float:
    command = ["pgbench", "-n", "-N", "-c", str(CLIENTS), "-j", "2", "-T", str(round(SECONDS)), libpq(url)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (tps,) = [line.split()[2] for line in said.splitlines() if line.startswith("tps")]
    return float(tps)
