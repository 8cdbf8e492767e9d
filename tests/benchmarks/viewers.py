"""What viewers wait for, and what they cost, with 10,000 studies open while 10 a second arrive and are analysed.

The pages are served by the real web process; films arrive through the verbs of receiver and worker, in this process, so
that neither decoding nor the network is measured here. Answers are timed where they are asked for.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import numpy as np
from pydicom import Dataset

from tests.acceptance.running import Daemon, associated
from tests.benchmarks import figures
from tests.benchmarks.claimer import FOUND, POLICY, SHOWN
from tests.benchmarks.claims import empty_database
from tests.benchmarks.rows import fill
from triage.records import schema
from triage.records.intake import Intake
from triage.records.queue import Queue, Result
from triage.records.store import Store, open_engine
from triage.study import Header, ReceivedInstance

OPEN, VIEWERS, LISTENERS, ARRIVALS_A_SECOND = 10_000, 20, 200, 10
SECONDS, QUERIES, FIRST = 15.0, 20, 100
GOALS = {
    f"first page, {VIEWERS} viewers, p95": ("ms", 50.0),
    "a change on every page, slowest": ("ms", 1000.0),
    f"{LISTENERS} listeners": ("% of a core", 10.0),
    f"C-FIND of the first {FIRST}, p95": ("ms", 200.0),
}
UPS_PULL = "1.2.840.10008.5.1.4.34.6.3"
IMPLICIT = "1.2.840.10008.1.2"


def measure(out: Path) -> list[figures.Figure]:
    found = {name: measured(name) for name in ("SQLite", "PostgreSQL")}
    rows = [
        figures.by_limit(f"{name}, {database}", each[name], unit, most)
        for name, (unit, most) in GOALS.items()
        for database, each in found.items()
    ]
    figures.keep(out, "viewers", rows, {"open": OPEN, "found": found})
    return rows


def measured(database: str) -> dict[str, float]:
    with site(database) as (daemon, store):
        with arriving(store):
            first_page = first_pages(daemon)
        told = asyncio.run(listened(daemon, store))
        return dict(zip(GOALS, (first_page, *told, found_workitems(daemon)), strict=True))


@contextmanager
def site(database: str) -> Iterator[tuple[Daemon, Store]]:
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="triage-viewers-")))
        url = stack.enter_context(empty_database()) if database == "PostgreSQL" else f"sqlite:///{home / 'triage.db'}"
        engine = open_engine(url)
        stack.callback(engine.dispose)
        schema.upgrade(engine)
        with engine.begin() as connection:
            fill(connection, 1, OPEN, read=False)
        daemon = Daemon(home, {"database_url": url, "ups_most": FIRST})
        stack.callback(daemon.stop)
        daemon.start("receive")
        daemon.start("web")
        daemon.wait_until_up()
        yield daemon, Store(engine)


@contextmanager
def arriving(store: Store) -> Iterator[None]:
    """Studies come and are analysed, until the block ends."""
    stop = threading.Event()
    thread = threading.Thread(target=arrive, args=(store, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def arrive(store: Store, stop: threading.Event) -> None:
    number, due = 0, time.monotonic()
    while not stop.wait(max(0.0, due - time.monotonic())):
        number, due = number + 1, due + 1 / ARRIVALS_A_SECOND
        one_study(store, number)


def one_study(store: Store, number: int) -> None:
    """Received, claimed (the oldest job, not its own) and analysed."""
    uid = f"1.2.826.0.1.3680043.10.9.{time.time_ns()}.{number}"
    header = Header(sop_class_uid="1.2.840.10008.5.1.4.1.1.1", sop_instance_uid=f"{uid}.1", study_instance_uid=uid)
    Intake(store, POLICY).receive(ReceivedInstance(header=header, sha256=f"{time.time_ns():064x}", size_bytes=1))
    queue = Queue(store, POLICY)
    jobs = queue.claim("benchmark", 60)
    queue.finish([Result(job=job, finding=FOUND, priority=SHOWN) for job in jobs])


def first_pages(daemon: Daemon) -> float:
    """Milliseconds, the 95th percentile: each viewer asks once a second."""

    def view(number: int) -> list[float]:
        waits: list[float] = []
        with httpx.Client(base_url=f"http://{daemon.address}:{daemon.http_port}", timeout=30) as client:
            time.sleep(number / VIEWERS)
            until = time.monotonic() + SECONDS
            while time.monotonic() < until:
                began = time.perf_counter()
                client.get("/api/worklist", params={"limit": 50}).raise_for_status()
                waits.append(time.perf_counter() - began)
                time.sleep(max(0.0, 1.0 - waits[-1]))
        return waits

    with ThreadPoolExecutor(VIEWERS) as viewing:
        waits = [wait for each in viewing.map(view, range(VIEWERS)) for wait in each[1:]]
    return 1000 * float(np.percentile(waits, 95))


async def listened(daemon: Daemon, store: Store) -> tuple[float, float]:
    """Milliseconds until the slowest listener hears of a change; per cent of a core while studies arrive."""
    heard: list[float] = []
    limits = httpx.Limits(max_connections=None)
    address = f"http://{daemon.address}:{daemon.http_port}/api/changes"
    async with httpx.AsyncClient(timeout=None, limits=limits) as client:
        listeners = [asyncio.create_task(listen(client, address, heard)) for _ in range(LISTENERS)]
        await asyncio.sleep(5)
        slowest = [await slowest_of(store, heard, number) for number in range(5)]
        share = await asyncio.to_thread(processor_share, daemon, store)
        for listener in listeners:
            listener.cancel()
        await asyncio.gather(*listeners, return_exceptions=True)
    return 1000 * max(slowest), share


async def listen(client: httpx.AsyncClient, address: str, heard: list[float]) -> None:
    async with client.stream("GET", address) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data:"):
                heard.append(time.perf_counter())  # noqa: PERF401 - when it came, not once all have come


async def slowest_of(store: Store, heard: list[float], number: int) -> float:
    await asyncio.sleep(2.5)  # a burst is told at most twice a second
    heard.clear()
    await asyncio.to_thread(one_study, store, number)
    began = time.perf_counter()
    while len(heard) < LISTENERS and time.perf_counter() < began + 10:  # noqa: ASYNC110 - others append
        await asyncio.sleep(0.01)
    return max(heard, default=float("inf")) - began if len(heard) >= LISTENERS else float("inf")


def processor_share(daemon: Daemon, store: Store) -> float:
    process = daemon.child("web")
    with arriving(store):
        before, began = process.cpu_times(), time.monotonic()
        time.sleep(SECONDS)
        after, seconds = process.cpu_times(), time.monotonic() - began
    return 100 * (after.user + after.system - before.user - before.system) / seconds


def found_workitems(daemon: Daemon) -> float:
    """Milliseconds, the 95th percentile."""
    keys = Dataset()
    keys.ProcedureStepState = "SCHEDULED"
    keys.PatientName = keys.WorklistLabel = ""
    with associated(daemon.dicom_port, [(UPS_PULL, IMPLICIT)]) as association:

        def ask() -> None:
            answers = [item for _, item in association.send_c_find(keys, UPS_PULL) if item is not None]
            if len(answers) != FIRST:
                raise RuntimeError(f"{len(answers)} workitems, not {FIRST}")

        return 1000 * float(np.percentile([seconds(ask) for _ in range(QUERIES)], 95))


def seconds(act: Callable[[], None]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began
