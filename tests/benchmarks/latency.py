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
from functools import cache
from itertools import count
from pathlib import Path

import imagecodecs
import numpy as np
from pydicom import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import JPEG2000Lossless, generate_uid
from rich.console import Console
from rich.progress import track
from rich.table import Table

from daemon.environment import read_settings
from tests import synthetic
from tests.acceptance.running import Daemon, associated, running, wait_for
from tests.benchmarks import figures
from triage.vision.classifier import Classifier, found_device, load_classifier, set_threads
from triage.vision.pixels import prepare, read_dicom

FILMS, WARM_UP = 40, 3
SIDE, BITS = 2048, 12
PAUSE_SECONDS = 0.2  # longer than an analysis, so that each film finds an idle daemon
# Of the 95th percentile, in seconds; and over the sum of the medians of what nobody can leave out.
GOALS_P95_SECONDS = {"uncompressed": 0.3, "JPEG 2000": 0.4}
GOAL_RATIO = 1.3
CR = "1.2.840.10008.5.1.4.1.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"


def measure(out: Path) -> list[figures.Figure]:
    settings, _ = read_settings()
    threads = figures.threads()
    reports = {kind: {} for kind in GOALS_P95_SECONDS}
    with (
        tempfile.TemporaryDirectory() as home,
        # Threads as the shipped daemon would choose them.
        running(Path(home), torch_threads=threads, weights_card=settings.weights_card.resolve()) as daemon,
    ):
        daemon.serve()
        daemon.wait_for_log("model_loaded")
        for kind in reports:
            reports[kind] |= in_the_daemon(daemon, kind)
    set_threads(threads)
    classifier = load_classifier(settings.weights_card, found_device("cpu"))
    for kind in reports:
        reports[kind] |= alone(kind, classifier)
    found = {kind: {name: summary(seconds) for name, seconds in parts.items()} for kind, parts in reports.items()}
    for kind, report in found.items():
        show(kind, report)
    rows = [row for kind, report in found.items() for row in judged(kind, report)]
    figures.keep(out, "latency", rows, {"films": FILMS, "side_px": SIDE, "seconds": found})
    return rows


def in_the_daemon(daemon: Daemon, kind: str) -> dict[str, list[float]]:
    """Seconds of each film, whole and in parts."""
    answered, before = [], len(daemon.lines("study_ranked"))
    sample = film_of(kind)
    with associated(daemon.dicom_port, [(CR, sample.file_meta.TransferSyntaxUID)]) as association:
        for _ in track(range(WARM_UP + FILMS), f"Sending films, {kind}", console=Console(stderr=True), transient=True):
            status = association.send_c_store(renewed(sample)).get("Status")
            answered.append(time.time())
            if status != 0:
                raise RuntimeError("a film was not stored")
            wait_for(lambda: len(daemon.lines("study_ranked")) >= before + len(answered), pause=0.02)
            time.sleep(PAUSE_SECONDS)
    lines = daemon.lines("study_ranked")[before:]
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


@cache
def film_of(kind: str) -> Dataset:
    film = synthetic.film(BITS, SIDE, SIDE)
    if kind == "uncompressed":
        return made(film)
    frame = imagecodecs.jpeg2k_encode(film, codecformat="J2K", reversible=True, bitspersample=BITS)
    return synthetic.compressed(made(film), frame, JPEG2000Lossless)


def made(film: np.ndarray) -> Dataset:
    dataset = synthetic.data_set(film, bits=BITS if film.max() < 2**BITS else 16)
    dataset.SOPClassUID, dataset.Modality = CR, "CR"
    return renewed(dataset)


def renewed(dataset: Dataset) -> Dataset:
    """Under UIDs that nobody has seen."""
    dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = (generate_uid() for _ in range(3))
    return dataset


def alone(kind: str, classifier: Classifier) -> dict[str, list[float]]:
    """The parts that nobody can leave out, in this process."""
    file = io.BytesIO()
    dataset = film_of(kind)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dcmwrite(file, dataset, enforce_file_format=True)
    preprocessing = classifier.card.preprocessing

    def decoded() -> np.ndarray:
        return prepare(read_dicom(io.BytesIO(file.getvalue()), preprocessing.size_px), preprocessing)

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


def judged(kind: str, report: dict[str, dict[str, float]]) -> list[figures.Figure]:
    """The 95th percentile from Success to ranked, and over the medians of what cannot be avoided."""
    p95 = 1000 * report["success to ranked"]["p95"]
    least = 1000 * sum(report[name]["p50"] for name in report if name.startswith("alone"))
    what = f"success to ranked, {kind}, p95"
    return [
        figures.by_limit(what, p95, "ms", 1000 * GOALS_P95_SECONDS[kind]),
        figures.by_ratio(what, p95, "ms", ("decoding and network alone", least), most=GOAL_RATIO),
    ]


def show(kind: str, report: dict[str, dict[str, float]]) -> None:
    table = Table(title=f"{FILMS} films of {SIDE} x {SIDE}, {kind}, one at a time (milliseconds)")
    table.add_column("")
    for column in ("p50", "p95", "max"):
        table.add_column(column, justify="right")
    for name, found in report.items():
        table.add_row(name, *(f"{1000 * found[column]:.1f}" for column in ("p50", "p95", "max")))
    Console().print(table)
