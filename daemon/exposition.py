"""The metrics of one address to scrape: of a process that runs alone, or of `triage serve` and its children.

    child --every 2 s--> folder/<name>.prom --> serve: all of them, with the label ``process``

A child writes aside and renames, so a scrape never waits for a child, nor sees half of one. One that was killed, or
hangs, is left out after some seconds; its successor writes under the same name and begins at zero, which Prometheus
takes for a restart because ``process`` keeps their series apart.
"""

from __future__ import annotations

import math
import os
import shutil
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from wsgiref.simple_server import WSGIServer

from prometheus_client import Metric, generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from daemon.metrics import DISK_FREE, REGISTRY
from daemon.notation import this_host
from daemon.telemetry import describe, log
from triage.errors import TriageError

_EVERY_SECONDS = 2.0
# Whoever has not written for so long is dead or hangs.
_STALE_SECONDS = 15.0
_ENDING = ".prom"


@dataclass(frozen=True)
class Writer:
    """Of a child, in a thread of its own."""

    folder: Path
    name: str
    _stop: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        threading.Thread(target=self._run, name="metrics", daemon=True).start()

    def _run(self) -> None:
        while not self._stop.wait(_EVERY_SECONDS):
            try:
                self.write()
            except OSError as error:
                log().error("metrics_not_written", **describe(error))

    def write(self) -> None:
        """Raise OSError."""
        aside = self.folder / f"{self.name}.part"
        aside.write_bytes(generate_latest(REGISTRY))
        aside.replace(self.folder / f"{self.name}{_ENDING}")

    def stop(self) -> None:
        self._stop.set()
        with suppress(OSError):
            self.write()


@dataclass(frozen=True)
class Gathered(Collector):
    """This process under ``name``, and whoever writes into ``folder``."""

    name: str
    data_dir: Path
    folder: Path | None = None

    def collect(self) -> Iterable[Metric]:
        with suppress(OSError):
            DISK_FREE.set(shutil.disk_usage(self.data_dir).free)
        found: dict[str, Metric] = {}
        for family in REGISTRY.collect():
            _add(found, family, self.name)
        for path in sorted(self.folder.glob(f"*{_ENDING}")) if self.folder else ():
            for family in _read(path):
                _add(found, family, path.stem)
        return [family for family in found.values() if family.samples]


def _read(path: Path) -> list[Metric]:
    """Empty if it is old, or not whole."""
    try:
        if time.time() - path.stat().st_mtime > _STALE_SECONDS:
            return []
        return list(text_string_to_metric_families(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return []


def _add(found: dict[str, Metric], family: Metric, process: str) -> None:
    kept = found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
    kept.samples += [
        sample._replace(labels={**sample.labels, "process": process})
        for sample in family.samples
        if not math.isnan(sample.value)
    ]


def own_folder(data_dir: Path) -> Path:
    """For the children of this process; what dead ones of this machine have left is removed. Raise OSError."""
    machine, parent = this_host(), data_dir.resolve() / "metrics"
    for left in parent.glob(f"{machine}-*"):
        if not _lives(left.name.rpartition("-")[2]):
            shutil.rmtree(left, ignore_errors=True)
    folder = parent / f"{machine}-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    return folder


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _lives(process_id: str) -> bool:
    return process_id.isdecimal() and Path(f"/proc/{process_id}").exists()


def expose(gathered: Gathered, host: str, port: int) -> WSGIServer:
    """Answer scrapes in a thread. Raise TriageError if the port cannot be had."""
    try:
        server, _ = start_http_server(port, host, gathered)
    except OSError as error:
        raise TriageError(f"metrics cannot be served on {host} port {port}: {error.strerror}") from error
    log().info("metrics_listening", host=host, port=server.server_address[1])
    return server
