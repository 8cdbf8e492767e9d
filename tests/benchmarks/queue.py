"""Films a second through a real worker with a backlog, side by side and together against one at a time.

The same films are queued again for each run; runs of both kinds alternate. The clock is that of the worker's log lines,
from the first film ranked to the last, so that start and loading the network do not count.
"""

from __future__ import annotations

import statistics
import tempfile
from datetime import datetime
from pathlib import Path

import numpy as np
from sqlalchemy import text

from daemon.environment import read_settings
from tests import synthetic
from tests.acceptance.running import Daemon, associated, running, wait_for
from tests.benchmarks import figures
from tests.benchmarks.latency import CR, EXPLICIT, made
from triage.records.store import open_engine

FILMS, SIDE, RUNS = 200, 1024, 2
AGAIN = """UPDATE jobs SET state = 'queued', attempts = 0, reason = NULL, worker = NULL, token = NULL,
    lease_until = NULL, finished_at = NULL"""


def measure(out: Path) -> list[figures.Figure]:
    """Side by side and together is at least as fast."""
    shipped = read_settings()[0]
    kinds = {"one at a time": {"decoders": 1, "batch_max": 1}, "batched": {"decoders": 0, "batch_max": 16}}
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    sizes: dict[str, float] = {}
    common = {"torch_threads": figures.threads(), "weights_card": shipped.weights_card.resolve()}
    with tempfile.TemporaryDirectory() as home, running(Path(home), **common) as daemon:
        queue_films(daemon)
        for _ in range(RUNS):
            for kind, settings in kinds.items():
                daemon.settings.update(settings)
                lines = worked_off(daemon)
                rates[kind].append(rate(lines))
                sizes[kind] = statistics.fmean(line["batch"] for line in lines)
    what = f"a backlog of {FILMS} films of {SIDE} x {SIDE}, {sizes['batched']:.1f} a pass"
    slow = "one at a time", max(rates["one at a time"])
    rows = [figures.by_ratio(what, max(rates["batched"]), "/s", slow, least=1.0)]
    found = {"films": FILMS, "side_px": SIDE, "films_a_second": rates, "mean_batch": sizes}
    figures.keep(out, "queue", rows, found)
    return rows


def queue_films(daemon: Daemon) -> None:
    daemon.start("receive")
    daemon.wait_until_up(web=False)
    film: np.ndarray = synthetic.film(16, SIDE, SIDE)
    with associated(daemon.dicom_port, [(CR, EXPLICIT)]) as association:
        statuses = {association.send_c_store(made(film)).get("Status") for _ in range(FILMS)}
    if statuses != {0}:
        raise RuntimeError("a film was not stored")


def worked_off(daemon: Daemon) -> list[dict[str, object]]:
    """The worker's lines of one run over all films, which are then queued again."""
    before = len(daemon.lines("study_ranked"))
    daemon.start("work")
    wait_for(lambda: len(daemon.lines("study_ranked")) == before + FILMS, seconds=300, pause=0.2)
    daemon.kill("work")
    engine = open_engine(f"sqlite:///{daemon.data_dir / 'triage.db'}")
    with engine.begin() as connection:
        connection.execute(text(AGAIN))
    engine.dispose()
    return daemon.lines("study_ranked")[before:]


def rate(lines: list[dict[str, object]]) -> float:
    times = sorted(datetime.fromisoformat(str(line["timestamp"])).timestamp() for line in lines)
    return (FILMS - 1) / (times[-1] - times[0])
