"""Instances a second over C-STORE, beside Orthanc and dcmtk's storescp, all sent by dcmtk's storescu.

Ours answers Success once file and folder are fsynced and study, instance and job are committed. Orthanc, as Debian
ships it, fsyncs the file, and its index later; storescp fsyncs nothing. The receivers take turns; before each turn
the films get new UIDs in place. Beside that: the disk alone, from as many threads, with both fsyncs, which is the limit
of whoever waits for it; what Nagle's algorithm costs, what silent associations cost, and memory.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import psutil
from rich.console import Console
from rich.progress import Progress

from daemon.folder import fsync_folder
from tests import synthetic
from tests.acceptance.running import free_port, running, wait_for
from tests.benchmarks import figures
from tests.benchmarks.latency import made
from tests.integration.listening import established

ROUNDS = 5
DISK = "disk alone"
# Films a second in each round, by size and associations and receiver.
Rates = dict[str, dict[str, list[float]]]
# Side of the film in pixels of 16 bits; films a turn with 1, 4 and 16 associations.
SIZES = {"8.4 MB": (2048, {1: 24, 4: 40, 16: 64}), "50 kB": (158, {1: 400, 4: 800, 16: 960})}
# Least ratio to Orthanc and to storescp, by size and associations.
GOALS = {
    ("8.4 MB", 1): {"Orthanc": 2.8, "storescp": 0.7},
    ("8.4 MB", 4): {"Orthanc": 2.0, "storescp": 0.7},
    ("8.4 MB", 16): {"Orthanc": 2.0, "storescp": 0.7},
    ("50 kB", 1): {"Orthanc": 3.0},
    ("50 kB", 4): {"Orthanc": 1.6},
    ("50 kB", 16): {"Orthanc": 1.2},
}
NAGLE_GOAL, IDLE_GOAL_PER_CENT, MEMORY_GOAL_MB = 0.8, 5.0, 250.0
SILENT, SILENT_SECONDS = 16, 4.0
STOCK = """
import sys, pynetdicom
ae = pynetdicom.AE()
ae.maximum_associations = 64
ae.supported_contexts = pynetdicom.AllStoragePresentationContexts
ae.start_server(("127.0.0.1", int(sys.argv[1])))
"""
PLACE = "1.2.826.0.1.3680043.10.99.{:020d}"
_serial = count(10**19)


@dataclass(frozen=True)
class Receiver:
    port: int
    process: psutil.Process


@dataclass(frozen=True)
class Film:
    """A file whose UIDs stand at known places."""

    path: Path
    places: tuple[int, ...]

    @classmethod
    def drawn(cls, path: Path, side: int) -> Film:
        uid = PLACE.format(next(_serial))
        dataset = made(synthetic.film(16, side, side))
        dataset.SOPInstanceUID = dataset.StudyInstanceUID = dataset.SeriesInstanceUID = uid
        head = synthetic.write(dataset, path).read_bytes()[:4096]
        return cls(path, tuple(at for at in range(len(head)) if head.startswith(uid.encode(), at)))

    def renew(self) -> None:
        uid = PLACE.format(next(_serial)).encode()
        with self.path.open("r+b") as file:
            for place in self.places:
                file.seek(place)
                file.write(uid)


def measure(out: Path) -> list[figures.Figure]:
    missing = [
        name for name, found in (("dcmtk", shutil.which("storescu")), ("orthanc", orthanc_program())) if not found
    ]
    if missing:
        return figures.missing(missing, missing)
    with tempfile.TemporaryDirectory() as home, ExitStack() as stack:
        kinds = {"ours": ours, "Orthanc": orthanc, "storescp": storescp}
        receivers = {name: stack.enter_context(start(Path(home) / name)) for name, start in kinds.items()}
        rates, memory = in_turns(receivers, Path(home))
        nagle = without_nodelay(receivers["ours"], Path(home))
        stock = stack.enter_context(stock_pynetdicom())
        idle = {"ours": silent_cost(receivers["ours"]), "stock pynetdicom": silent_cost(stock)}
    rows = [*rate_rows(rates), *other_rows(nagle, idle, memory)]
    figures.keep(out, "receive", rows, {"instances_a_second": rates, "memory_mb": memory})
    return rows


# -- receivers ---------------------------------------------------------------------------------------------------------


@contextmanager
def ours(home: Path) -> Iterator[Receiver]:
    with running(home) as daemon:
        process = daemon.start("receive")
        daemon.wait_until_up(web=False)
        yield Receiver(daemon.dicom_port, psutil.Process(process.pid))


def orthanc_program() -> str | None:
    return shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin")


@contextmanager
def orthanc(home: Path) -> Iterator[Receiver]:
    home.mkdir()
    port = free_port()
    settings = {
        "StorageDirectory": str(home), "IndexDirectory": str(home), "HttpPort": free_port(), "DicomPort": port,
        "DicomAlwaysAllowStore": True, "Plugins": [],
    }  # fmt: skip
    (home / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")
    yield from listening([str(orthanc_program()), str(home / "orthanc.json")], port)


@contextmanager
def storescp(home: Path) -> Iterator[Receiver]:
    home.mkdir()
    port = free_port()
    yield from listening(["storescp", "--fork", "-od", str(home), str(port)], port)


@contextmanager
def stock_pynetdicom() -> Iterator[Receiver]:
    port = free_port()
    yield from listening([sys.executable, "-c", STOCK, str(port)], port)


def listening(command: list[str], port: int) -> Iterator[Receiver]:
    environment = os.environ | {"TCP_NODELAY": "1"}
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet, env=environment, start_new_session=True)

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(answers)
        yield Receiver(port, psutil.Process(process.pid))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# -- measurements ------------------------------------------------------------------------------------------------------


def in_turns(receivers: dict[str, Receiver], home: Path) -> tuple[Rates, list[float]]:
    """Rates of all rounds by size and associations and receiver; our memory in MB after each round."""
    found: Rates = {}
    memory = []
    for size, (side, turns) in SIZES.items():
        films = [Film.drawn(home / f"{size}-{number}.dcm", side) for number in range(max(turns.values()))]
        cells = [(associations, films[:count]) for associations, count in turns.items()]
        with Progress(console=Console(stderr=True), transient=True) as progress:
            for number in progress.track(range(ROUNDS), description=f"Sending films of {size}"):
                for associations, some in cells:
                    for name in rotated([*receivers, DISK], number):
                        cell = found.setdefault(f"{size}, {associations}", {}).setdefault(name, [])
                        if name == DISK:
                            cell.append(disk_rate(home, some, associations))
                        else:
                            cell.append(rate(receivers[name].port, some, associations))
                memory.append(receivers["ours"].process.memory_info().rss / 1e6)
    return found, memory


def rotated(names: list[str], by: int) -> list[str]:
    """Nobody always comes after the same one: what that left to the disk would be his to wait for."""
    by %= len(names)
    return names[by:] + names[:by]


def rate(port: int, films: list[Film], associations: int, *, nodelay: bool = True) -> float:
    """Films a second, from the first sender's start to the last one's end. Raise RuntimeError if one was not stored."""
    for film in films:
        film.renew()
    environment = os.environ | {"TCP_NODELAY": "1" if nodelay else "0"}
    os.sync()  # what the one before left to be written is not for this one to wait for
    began = time.perf_counter()
    senders = [
        subprocess.Popen(
            [
                "storescu",
                "-aec",
                "TRIAGE",
                "127.0.0.1",
                str(port),
                *(str(film.path) for film in films[n::associations]),
            ],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for n in range(associations)
    ]
    codes = [sender.wait() for sender in senders]
    seconds = time.perf_counter() - began
    if any(codes):
        raise RuntimeError(f"storescu ended with {codes}")
    return len(films) / seconds


def disk_rate(home: Path, films: list[Film], threads: int) -> float:
    """Films a second that are written, renamed and fsynced with their folder: what durable costs at the least."""
    contents = [film.path.read_bytes() for film in films]
    with tempfile.TemporaryDirectory(dir=home) as folder, ThreadPoolExecutor(threads) as pool:
        os.sync()
        began = time.perf_counter()
        list(pool.map(partial(write_durably, Path(folder)), range(len(films)), contents))
        return len(films) / (time.perf_counter() - began)


def write_durably(folder: Path, number: int, content: bytes) -> None:
    path = folder / f"{number}.part"
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    path.rename(folder / f"{number}.dcm")
    fsync_folder(folder)


def without_nodelay(receiver: Receiver, home: Path) -> dict[str, float]:
    """Films a second of 50 kB through one association, of a sender with Nagle's algorithm off and on."""
    side, turns = SIZES["50 kB"]
    films = [Film.drawn(home / f"nagle-{number}.dcm", side) for number in range(turns[1])]
    ways: dict[str, list[float]] = {"off": [], "on": []}
    for _ in range(ROUNDS):
        for name, each in ways.items():
            each.append(rate(receiver.port, films, 1, nodelay=name == "off"))
    return {name: statistics.median(each) for name, each in ways.items()}


def silent_cost(receiver: Receiver) -> float:
    """Per cent of a core with so many established, silent associations."""
    with ExitStack() as stack:
        for _ in range(SILENT):
            stack.enter_context(established(socket.create_connection(("127.0.0.1", receiver.port), timeout=10)))
        time.sleep(0.5)
        before, began = sum(receiver.process.cpu_times()[:2]), time.monotonic()
        time.sleep(SILENT_SECONDS)
        spent = sum(receiver.process.cpu_times()[:2]) - before
        return 100 * spent / (time.monotonic() - began)


# -- what comes out ----------------------------------------------------------------------------------------------------


def rate_rows(rates: Rates) -> list[figures.Figure]:
    rows = []
    for (size, associations), goals in GOALS.items():
        cell = {name: statistics.median(each) for name, each in rates[f"{size}, {associations}"].items()}
        what = f"{size}, {associations} association{'s' if associations > 1 else ''}"
        rows += [
            figures.by_ratio(what, cell["ours"], "/s", (peer, cell[peer]), least=goals.get(peer))
            for peer in ("Orthanc", "storescp", DISK)
        ]
    return rows


def other_rows(nagle: dict[str, float], idle: dict[str, float], memory: list[float]) -> list[figures.Figure]:
    silent = "stock pynetdicom", idle["stock pynetdicom"]
    return [
        figures.by_ratio("50 kB, sender with Nagle on", nagle["on"], "/s", ("off", nagle["off"]), least=NAGLE_GOAL),
        figures.by_limit(f"{SILENT} silent associations", idle["ours"], "% of a core", IDLE_GOAL_PER_CENT, silent),
        figures.by_limit("memory, last round", memory[-1], "MB", MEMORY_GOAL_MB, ("first round", memory[0])),
    ]
