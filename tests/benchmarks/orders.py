"""Orders a second over one connection and over four, each committed before its answer, against the disk's own fsyncs.

The sender waits for each answer, as interface engines do.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from itertools import count
from pathlib import Path

from tests.acceptance.running import free_port, running, wait_for
from tests.benchmarks import figures
from tests.hl7_orders import code, order, sender

MESSAGES, RUNS = 400, 3
CONNECTIONS = (1, 4)
# One fsync is the least that "committed" can cost: goal for one connection, as a share of the disk's rate.
GOAL = 0.2
_serial = count()


def measure(out: Path) -> list[figures.Figure]:
    """The goal is that of one connection."""
    rates: dict[int, list[float]] = {connections: [] for connections in CONNECTIONS}
    syncs: list[float] = []
    with tempfile.TemporaryDirectory() as home, running(Path(home), hl7_port=free_port()) as daemon:
        daemon.start("orders")
        wait_for(lambda: daemon.lines("taking_orders"))
        port = int(str(daemon.settings["hl7_port"]))
        send(port, 50)
        for _ in range(RUNS):
            syncs.append(fsyncs(Path(home)))
            for connections in CONNECTIONS:
                rates[connections].append(rate(port, connections))
    disk = "fsyncs of the disk", statistics.median(syncs)
    rows = [
        figures.by_ratio(
            f"orders, each committed (SQLite), {connections} connections",
            statistics.median(found),
            "/s",
            disk,
            least=GOAL if connections == 1 else None,
        )
        for connections, found in rates.items()
    ]
    figures.keep(out, "orders", rows, {"orders_a_second": rates, "fsyncs_a_second": syncs})
    return rows


def send(port: int, messages: int) -> None:
    with sender(port) as peer:
        for _ in range(messages):
            if code(peer.say(order(f"A{next(_serial)}"))) != "AA":
                raise RuntimeError("an order was not taken")


def rate(port: int, connections: int) -> float:
    threads = [threading.Thread(target=send, args=(port, MESSAGES // connections)) for _ in range(connections)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return MESSAGES / (time.perf_counter() - began)


def fsyncs(folder: Path) -> float:
    """Appends of a database page a second, each fsynced."""
    with (folder / "page").open("ab") as file:
        began = time.perf_counter()
        for _ in range(MESSAGES):
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
        return MESSAGES / (time.perf_counter() - began)
