"""Half an hour of work, to see what grows: ``make soak [MINUTES=30]``, drawn as build/soak.svg.

Connections of all kinds come and go, films are sent and analysed, readers look, claim and close. Memory, threads and
descriptors of every process are looked at all the while; what counts is by how much they have risen by the end, from
when all had warmed up. Exits 1 if anything did, or if a study was lost.
"""

from __future__ import annotations

import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import chests
import httpx
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table
from running import Daemon, associated, wait_for

import synthetic
from tests.soak.drawing import drawn

ROOT = Path(__file__).resolve().parents[2]
# Of half an hour; shorter ones have their share.
CONNECTIONS, STUDIES, MINUTES = 10_000, 5_000, 30.0
FILMS_EACH = 10  # of an association
BURST = 16  # associations at once at the beginning: whatever grows with the largest batch has then grown
TRIES = 3
LOOK_SECONDS = 5.0
WARM_SHARE = 0.25
# What may be more at the end than once warm: an allocator settles, a pool opens one more connection.
LIMITS = {"MiB": 24.0, "threads": 3.0, "descriptors": 6.0}
PIXELS = synthetic.film(rows=512, columns=512)
KINDS = ("serve", "receive", "work", "schedule", "web")


@dataclass
class Counts:
    """What has been done, by whom; each is written by one thread."""

    connections: int = 0
    acknowledged: set[str] = field(default_factory=set)
    refused: int = 0
    read: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Look:
    """One process at one time."""

    seconds: float
    kind: str
    pid: int
    values: dict[str, float]


def connect(daemon: Daemon, number: int) -> None:
    """By turns: a health check, half a header, noise, an echo that is answered."""
    if number % 4 == 3:
        with associated(daemon.dicom_port, [("1.2.840.10008.1.1", "1.2.840.10008.1.2")]) as association:
            assert association.is_established
            association.send_c_echo()
        return
    with socket.create_connection((daemon.address, daemon.dicom_port), 10) as peer:
        peer.sendall((b"", b"\x01\x00\x00", b"GET / HTTP/1.0\r\n\r\n")[number % 4])


def send(daemon: Daemon, counts: Counts) -> None:
    """A study each, in one association; what was not taken is sent again, as a PACS would."""
    films = [chests.dataset(PIXELS) for _ in range(FILMS_EACH)]
    for _ in range(TRIES):
        films = [film for film in films if film.StudyInstanceUID not in counts.acknowledged]
        pairs = [(chests.CR, chests.dataset(PIXELS).file_meta.TransferSyntaxUID)]
        with associated(daemon.dicom_port, pairs) as association:
            for film in films:
                if association.is_established and association.send_c_store(film).get("Status") == 0:
                    counts.acknowledged.add(film.StudyInstanceUID)
    counts.refused += sum(film.StudyInstanceUID not in counts.acknowledged for film in films)


def read(client: httpx.Client, counts: Counts) -> None:
    """The first ten that have been looked at leave the list, as in a reading room."""
    entries = client.get("/api/worklist", params={"limit": 50}).raise_for_status().json()["entries"]
    for entry in [each for each in entries if each["analysis"] != "pending"][:10]:
        answer = client.post(f"/api/studies/{entry['study_instance_uid']}/read", json={"reader": "soak"})
        counts.read += answer.is_success


def paced(act: Callable[[int], None], times: int, seconds: float, counts: Counts) -> threading.Thread:
    """In a thread, so many times, evenly; late ones are made up for. What fails is counted and goes on."""

    def run() -> None:
        began = time.monotonic()
        for number in range(times):
            time.sleep(max(0.0, began + seconds * number / times - time.monotonic()))
            try:
                act(number)
            except (OSError, AssertionError, httpx.HTTPError) as error:
                counts.failures.append(type(error).__name__)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def look(daemon: Daemon, began: float) -> list[Look]:
    found = []
    for kind in KINDS:
        with suppress(psutil.Error):
            process = daemon.find(kind)
            if process is not None:
                values = {
                    "MiB": process.memory_full_info().uss / 2**20,
                    "threads": float(process.num_threads()),
                    "descriptors": float(process.num_fds()),
                }
                found.append(Look(time.monotonic() - began, kind, process.pid, values))
    return found


def rise(looks: list[Look], kind: str, figure: str, end: float) -> float:
    """By a straight line through what was seen once warm, least squares."""
    points = [(each.seconds, each.values[figure]) for each in looks if each.kind == kind]
    warm = np.array([point for point in points if point[0] >= WARM_SHARE * end])
    slope = np.polyfit(warm[:, 0], warm[:, 1], 1)[0]
    return float(slope * (1 - WARM_SHARE) * end)


def soak(daemon: Daemon, seconds: float, counts: Counts) -> list[Look]:
    share = seconds / (60 * MINUTES)
    client = httpx.Client(base_url=f"http://{daemon.address}:{daemon.http_port}", timeout=60)
    began = time.monotonic()
    burst = [threading.Thread(target=send, args=(daemon, counts)) for _ in range(BURST)]
    for thread in burst:
        thread.start()
    threads = [
        paced(lambda number: _count(connect, daemon, number, counts), round(CONNECTIONS * share), seconds, counts),
        paced(lambda _: send(daemon, counts), round(STUDIES * share / FILMS_EACH), seconds, counts),
        paced(lambda _: read(client, counts), round(seconds / 2), seconds, counts),
    ]
    looks: list[Look] = []
    while any(thread.is_alive() for thread in threads):
        looks += look(daemon, began)
        time.sleep(LOOK_SECONDS)
    wait_for(lambda: not daemon.rows("SELECT 1 FROM jobs WHERE state <> 'done' LIMIT 1") or None, 600, pause=2)
    client.close()
    return looks


def _count(act: Callable[[Daemon, int], None], daemon: Daemon, number: int, counts: Counts) -> None:
    act(daemon, number)
    counts.connections += 1


def told(looks: list[Look], counts: Counts, daemon: Daemon, console: Console) -> bool:
    """Whether nothing grew, nothing was lost and nobody died."""
    end = max(each.seconds for each in looks)
    table = Table(title=f"{end / 60:.0f} minutes: {counts.connections} connections, {len(counts.acknowledged)} studies")
    for column in ("Process", "Memory, MiB", "Threads", "Descriptors", "Restarts"):
        table.add_column(column, justify="left" if column == "Process" else "right")
    well = True
    for kind in KINDS:
        rises = {figure: rise(looks, kind, figure, end) for figure in LIMITS}
        restarts = len({each.pid for each in looks if each.kind == kind}) - 1
        well &= restarts == 0 and all(rises[figure] <= limit for figure, limit in LIMITS.items())
        table.add_row(kind, *(f"{value:+.1f}" for value in rises.values()), str(restarts))
    listed = {row[0] for row in daemon.rows("SELECT study_instance_uid FROM studies")}
    lost = len(counts.acknowledged - listed)
    console.print(table)
    console.print(
        f"lost {lost}; not taken {counts.refused}; read {counts.read}; failed questions {len(counts.failures)}"
    )
    return well and not lost


def main(minutes: float) -> int:
    console, counts = Console(), Counts()
    with tempfile.TemporaryDirectory() as folder:
        daemon = Daemon(Path(folder), {"dicom_connections_max": 200, "dicom_connections_per_address_max": 200})
        try:
            daemon.serve()
            looks = soak(daemon, 60 * minutes, counts)
            well = told(looks, counts, daemon, console)
        finally:
            daemon.stop()
    curves = {
        figure: {kind: [(p.seconds, p.values[figure]) for p in looks if p.kind == kind] for kind in KINDS}
        for figure in LIMITS
    }
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "soak.svg").write_text(drawn(curves), encoding="utf-8")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else MINUTES))
