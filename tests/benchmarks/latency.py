"""Seconds from the Success of a C-STORE to the study's place in the worklist, one film at a time on an idle machine.

The start is the sender's clock when it has the answer in hand; the end is the time of the worker's line about the
study, written once the new place is committed. Both are the clock of this machine. Beside it, in the same run and
without a daemon, what cannot be avoided: decoding and preparing the same film, and one pass of the network.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import count
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import generate_uid
from rich.console import Console
from rich.progress import track
from rich.table import Table

from daemon.settings import read_settings
from tests import synthetic
from tests.acceptance.running import Daemon, associated, running, wait_for
from tests.benchmarks import figures
from triage.vision.classifier import Classifier, found_device, load_classifier, set_threads
from triage.vision.pixels import prepare, read_dicom

FILMS, WARM_UP = 60, 3
SIDE = 2048
PAUSE_SECONDS = 0.2  # longer than an analysis, so that each film finds an idle daemon
GOAL_P95_SECONDS = 1.0
CR = "1.2.840.10008.5.1.4.1.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"


def measure(out: Path) -> bool:
    """Whether the goal was met."""
    film = synthetic.film(bits=16, rows=SIDE, columns=SIDE)
    settings, _ = read_settings()
    threads = figures.threads()
    with (
        tempfile.TemporaryDirectory() as home,
        # Threads as the shipped daemon would choose them.
        running(Path(home), torch_threads=threads, weights_card=settings.weights_card.resolve()) as daemon,
    ):
        daemon.serve()
        daemon.wait_for_log("model_loaded")
        parts = in_the_daemon(daemon, film)
    set_threads(threads)
    classifier = load_classifier(settings.weights_card, found_device("cpu"))
    parts |= alone(film, classifier)
    report = {name: summary(seconds) for name, seconds in parts.items()}
    show(report)
    write(out, report)
    return report["success to ranked"]["p95"] < GOAL_P95_SECONDS


def in_the_daemon(daemon: Daemon, film: np.ndarray) -> dict[str, list[float]]:
    """Seconds of each film, whole and in parts."""
    answered = []
    with associated(daemon.dicom_port, [(CR, EXPLICIT)]) as association:
        for _ in track(range(WARM_UP + FILMS), "Sending films", console=Console(stderr=True), transient=True):
            status = association.send_c_store(made(film)).get("Status")
            answered.append(time.time())
            if status != 0:
                raise RuntimeError("a film was not stored")
            wait_for(lambda: len(daemon.lines("study_ranked")) >= len(answered), pause=0.02)
            time.sleep(PAUSE_SECONDS)
    lines = daemon.lines("study_ranked")
    if {line["outcome"] for line in lines} != {"analysed"}:
        raise RuntimeError(f"films were not analysed: {lines[0]['reason']}")
    waits = [datetime.fromisoformat(line["timestamp"]).timestamp() for line in lines] - np.array(answered)
    lines = lines[WARM_UP:]
    decode = [line["decode_seconds"] for line in lines]
    return {
        "success to ranked": waits[WARM_UP:].tolist(),
        "of it: queued": [line["queued_seconds"] for line in lines],
        "of it: decode, in its sandbox": decode,
        "of it: score and record": [line["seconds"] - took for line, took in zip(lines, decode, strict=True)],
    }


def made(film: np.ndarray) -> Dataset:
    dataset = synthetic.data_set(film, bits=16)
    dataset.SOPClassUID, dataset.Modality = CR, "CR"
    dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = (generate_uid() for _ in range(3))
    return dataset


def alone(film: np.ndarray, classifier: Classifier) -> dict[str, list[float]]:
    """The parts that nobody can leave out, in this process."""
    file = io.BytesIO()
    dataset = made(film)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dcmwrite(file, dataset, enforce_file_format=True)
    preprocessing = classifier.card.preprocessing

    def decoded() -> np.ndarray:
        return prepare(read_dicom(io.BytesIO(file.getvalue())), preprocessing)

    prepared = decoded()
    return {
        "alone: decode and prepare": timed(decoded),
        "alone: one pass of the network": timed(lambda: classifier.score(prepared[None])),
    }


def timed(act: Callable[[], object]) -> list[float]:
    seconds = []
    for number in count():
        began = time.perf_counter()
        act()
        if number >= WARM_UP:
            seconds.append(time.perf_counter() - began)
        if len(seconds) == FILMS:
            return seconds
    raise AssertionError


def summary(seconds: Sequence[float]) -> dict[str, float]:
    p50, p95 = np.percentile(seconds, [50, 95])
    return {"p50": float(p50), "p95": float(p95), "max": float(max(seconds))}


def ratio(report: dict[str, dict[str, float]]) -> float:
    """Median from Success to ranked, over the medians of what cannot be avoided."""
    physical = sum(report[name]["p50"] for name in report if name.startswith("alone"))
    return report["success to ranked"]["p50"] / physical


def show(report: dict[str, dict[str, float]]) -> None:
    table = Table(title=f"{FILMS} films of {SIDE} x {SIDE}, 16 bits, one at a time (milliseconds)")
    table.add_column("")
    for column in ("p50", "p95", "max"):
        table.add_column(column, justify="right")
    for name, found in report.items():
        table.add_row(name, *(f"{1000 * found[column]:.1f}" for column in ("p50", "p95", "max")))
    met = report["success to ranked"]["p95"] < GOAL_P95_SECONDS
    table.caption = (
        f"{ratio(report):.1f} times what decoding and the network take alone. "
        f"Goal: p95 below {GOAL_P95_SECONDS:g} s, {'met' if met else 'MISSED'}."
    )
    Console().print(table)


def write(out: Path, report: dict[str, dict[str, float]]) -> None:
    found = {
        "films": FILMS,
        "side_px": SIDE,
        "seconds": report,
        "ratio_to_physical_parts": ratio(report),
        "goal_p95_seconds": GOAL_P95_SECONDS,
    }
    figures.keep(out, "latency", found)
