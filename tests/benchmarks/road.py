"""Films a second through real workers with a backlog, on both databases, beside decoding and the network alone.

Alone: processes that do nothing but read, decode, prepare and score the same film, one pinned to each core, with the
batches that the network likes best. The films are queued again for each run and all kinds of run alternate. The clock
is that of the workers' log lines, from the first film ranked to the last: start and loading do not count.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.filewriter import dcmwrite
from sqlalchemy import text

from daemon.environment import read_settings
from tests.acceptance.running import Daemon, associated, wait_for
from tests.benchmarks import figures
from tests.benchmarks.claims import empty_database
from tests.benchmarks.latency import CR, EXPLICIT, film_of, renewed
from tests.benchmarks.queue import AGAIN
from triage.records.store import open_engine
from triage.vision.classifier import LARGEST_PASS, load_classifier, set_threads
from triage.vision.pixels import prepare, read_dicom

FILMS, ROUNDS = 120, 3
GOAL_SHARE, GOAL_SECOND_WORKER = 0.8, 1.8
SETTINGS = {"torch_threads": 1, "decoders": 2, "lease_seconds": 60}


@dataclass(frozen=True)
class Way:
    """``cores``: those that each worker is held to; one entry a worker."""

    database: str
    cores: tuple[str, ...]

    @property
    def words(self) -> str:
        many = f"{len(self.cores)} worker{'s' if len(self.cores) > 1 else ''}"
        where = "a core each" if "-" not in self.cores[0] else "both cores"
        return f"{self.database}, {many}, {where}"


BOTH, FIRST, SECOND = "0-1", "0", "1"
WAYS = (
    Way("SQLite", (BOTH,)),
    Way("SQLite", (BOTH, BOTH)),
    Way("PostgreSQL", (BOTH,)),
    Way("PostgreSQL", (BOTH, BOTH)),
    Way("PostgreSQL", (FIRST,)),
    Way("PostgreSQL", (FIRST, SECOND)),
)
ONE_CORE, TWO_CORES = WAYS[-2], WAYS[-1]


def measure(out: Path) -> list[figures.Figure]:
    """Made for two cores."""
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as home, ExitStack() as stack:
        houses = {name: stack.enter_context(house(name, Path(home) / name)) for name in ("SQLite", "PostgreSQL")}
        for _ in range(ROUNDS):
            rates.setdefault("alone, two cores", []).append(alone((0, 1)))
            rates.setdefault("alone, one core", []).append(alone((0,)))
            for way in WAYS:
                rates.setdefault(way.words, []).append(worked_off(houses[way.database], way))
    rows = judged(rates)
    figures.keep(out, "road", rows, {"films": FILMS, "films_a_second": rates})
    return rows


@contextmanager
def house(name: str, home: Path) -> Iterator[Daemon]:
    """A daemon's folder and database with the films in it, none of its processes running."""
    with ExitStack() as stack:
        url = stack.enter_context(empty_database()) if name == "PostgreSQL" else f"sqlite:///{home / 'triage.db'}"
        card = read_settings()[0].weights_card.resolve()
        daemon = Daemon(home, {**SETTINGS, "database_url": url, "weights_card": card})
        stack.callback(daemon.stop)
        daemon.start("receive")
        daemon.wait_until_up(web=False)
        film = film_of("uncompressed")
        with associated(daemon.dicom_port, [(CR, EXPLICIT)]) as association:
            if {association.send_c_store(renewed(film)).get("Status") for _ in range(FILMS)} != {0}:
                raise RuntimeError("a film was not stored")
        yield daemon


def worked_off(daemon: Daemon, way: Way) -> float:
    """Films a second; then they are queued again."""
    workers = [
        Daemon(daemon.home / f"{way.words} {number}", worker_settings(daemon), inside=("taskset", "-c", cores))
        for number, cores in enumerate(way.cores)
    ]
    before = sum(len(worker.lines("study_ranked")) for worker in workers)
    for number, worker in enumerate(workers):
        worker.start("work", "--name", f"worker-{number}")
    wait_for(lambda: sum(len(w.lines("study_ranked")) for w in workers) >= before + FILMS, seconds=300, pause=0.3)
    lines = [line for worker in workers for line in worker.lines("study_ranked")[-FILMS:]]
    for worker in workers:
        worker.stop()
    engine = open_engine(str(daemon.settings["database_url"]))
    with engine.begin() as connection:
        connection.execute(text(AGAIN))
    engine.dispose()
    times = sorted(datetime.fromisoformat(str(line["timestamp"])).timestamp() for line in lines)[-FILMS:]
    return (FILMS - 1) / (times[-1] - times[0])


def worker_settings(daemon: Daemon) -> dict[str, object]:
    return {**daemon.settings, "data_dir": daemon.data_dir}


def alone(cores: tuple[int, ...]) -> float:
    """Films a second of as many processes as cores."""
    spawn = multiprocessing.get_context("spawn")
    ready, ended = spawn.Barrier(len(cores)), spawn.Queue()
    processes = [spawn.Process(target=loop, args=(core, FILMS // len(cores), ready, ended)) for core in cores]
    for process in processes:
        process.start()
    seconds = max(ended.get(timeout=300) for _ in cores)
    for process in processes:
        process.join()
    return FILMS / seconds


def loop(core: int, films: int, ready: Barrier, ended: Any) -> None:
    os.sched_setaffinity(0, {core})
    set_threads(1)
    classifier = load_classifier(read_settings()[0].weights_card)
    preprocessing, file, size = classifier.card.preprocessing, film_file(), LARGEST_PASS["cpu"]

    def score(count: int) -> None:
        batch = [prepare(read_dicom(io.BytesIO(file), preprocessing.size_px), preprocessing) for _ in range(count)]
        classifier.findings(np.stack(batch))

    score(size)
    ready.wait()
    began = time.perf_counter()
    for _ in range(films // size):
        score(size)
    ended.put(time.perf_counter() - began)


def film_file() -> bytes:
    file, dataset = io.BytesIO(), film_of("uncompressed")
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def judged(rates: dict[str, list[float]]) -> list[figures.Figure]:
    median = {name: statistics.median(found) for name, found in rates.items()}
    rows = []
    for way in WAYS:
        alone = "alone, one core" if way == ONE_CORE else "alone, two cores"
        rows.append(figures.by_ratio(way.words, median[way.words], "/s", (alone, median[alone]), least=GOAL_SHARE))
    second = median[TWO_CORES.words]
    first = ONE_CORE.words, median[ONE_CORE.words]
    return [*rows, figures.by_ratio(TWO_CORES.words, second, "/s", first, least=GOAL_SECOND_WORKER)]
