"""Claim, read, look, judge, record: with the real decoder and a real network that knows nothing yet."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy import Engine, select, text, update

from daemon.arrival import Arrivals
from daemon.bell import Ringer, bell
from daemon.decoder import Decoder
from daemon.spool import Spool, part10_header
from daemon.telemetry import Pseudonym
from daemon.worker import Times, Worker
from making import CARD, CR, POLICY, data_set, encoded
from triage.errors import Reason
from triage.jobs import RetryRule
from triage.records.intake import Intake
from triage.records.queue import Queue
from triage.records.reading import Reading
from triage.records.store import Store
from triage.records.tables import jobs
from triage.study import WorklistEntry
from triage.vision.classifier import Classifier, EfficientNetLite0


@dataclass
class Bench:
    """A worker and all it stands on."""

    store: Store
    spool: Spool
    worker: Worker

    def film(self, number: int = 1, **changes: Any) -> str:
        """A film that has been received; the sha256 of its file."""
        rows, columns = 256, 200
        coarse = np.random.default_rng(number).integers(0, 4095, (8, 6), dtype=np.uint16)
        pixels = cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_LINEAR)
        made = data_set(
            SOPInstanceUID=f"1.2.3.{number}",
            StudyInstanceUID=f"1.2.{number}",
            PatientAge="003Y",
            BodyPartExamined="CHEST",
            ViewPosition="AP",
            Rows=rows,
            Columns=columns,
            BitsAllocated=16,
            BitsStored=12,
            HighBit=11,
            SamplesPerPixel=1,
            PixelRepresentation=0,
            PhotometricInterpretation="MONOCHROME2",
        )
        made.add_new("PixelData", "OW", pixels.tobytes())
        for keyword, value in changes.items():
            setattr(made, keyword, value)
        header = part10_header(CR, made.SOPInstanceUID, ExplicitVRLittleEndian)
        stored = self.spool.write(header, encoded(made))
        Arrivals(spool=self.spool, intake=Intake(self.store, POLICY)).admit(stored)
        return stored.sha256

    def entry(self) -> WorklistEntry:
        (entry,) = Reading(self.store).worklist()
        return entry


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(EfficientNetLite0(), CARD)


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


@pytest.fixture
def bench(engine: Engine, tmp_path: Path, classifier: Classifier, decoder: Decoder) -> Bench:
    store, spool = Store(engine), Spool(tmp_path / "data")
    spool.prepare()
    worker = Worker(
        name="test",
        queue=Queue(store, POLICY),
        spool=spool,
        decoder=decoder,
        classifier=classifier,
        policy=POLICY,
        rule=RetryRule(attempts_max=2, delay_seconds=0.001),
        times=Times(lease_seconds=60, job_seconds=120),
        pseudonym=Pseudonym(spool.root),
    )
    return Bench(store, spool, worker)


def test_a_film_is_analysed_and_its_study_ranked(bench: Bench) -> None:
    bench.film()
    assert bench.worker.work_once()
    entry = bench.entry()
    assert (entry.analysis, entry.reason) == ("analysed", None)
    assert entry.p_pneumonia is not None
    assert 0.0 <= entry.p_pneumonia <= 1.0
    assert not bench.worker.work_once()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"PatientAge": "040Y"}, "age_out_of_range"),
        ({"BodyPartExamined": "LEG"}, "not_chest_frontal"),
        ({"Rows": 65535, "Columns": 65535}, "too_large"),
        ({"PixelData": b"\0" * 256 * 200 * 2}, "bad_pixels"),
    ],
)
def test_a_film_that_cannot_be_judged_says_why(bench: Bench, changes: dict[str, Any], reason: str) -> None:
    bench.film(**changes)
    assert bench.worker.work_once()
    assert (bench.entry().analysis, bench.entry().reason) == ("not_analysed", reason)


def test_a_file_that_rotted_on_disk_is_not_analysed(bench: Bench) -> None:
    path = bench.spool.path(bench.film())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    bench.worker.work_once()
    assert bench.entry().reason == "decode_error"


def test_without_a_network_every_study_says_so_and_is_analysed_once_there_is_one(bench: Bench) -> None:
    bench.film()
    assert replace(bench.worker, classifier=None).work_once()
    assert (bench.entry().analysis, bench.entry().reason) == ("not_analysed", "model_unavailable")
    assert not bench.worker.work_once()  # not due yet
    with bench.store.writing() as connection:
        connection.execute(update(jobs).values(available_at=bench.store.after(-1)))
        assert connection.execute(select(jobs.c.attempts)).scalar_one() == 0
    assert bench.worker.work_once()
    assert bench.entry().analysis == "analysed"


class BrokenClassifier(Classifier):
    """A network that fails, as torch might."""

    def score(self, batch: NDArray[np.float32]) -> NDArray[np.float64]:
        del batch
        raise RuntimeError("no such kernel")


def test_a_fault_is_tried_again_and_then_buried_with_its_reason(bench: Bench) -> None:
    bench.film()
    broken = replace(bench.worker, classifier=BrokenClassifier(EfficientNetLite0(), CARD))
    assert broken.work_once()
    assert bench.entry().analysis == "pending"
    time.sleep(0.05)
    assert broken.work_once()
    assert (bench.entry().analysis, bench.entry().reason) == ("not_analysed", Reason.INTERNAL_ERROR)


def test_a_network_that_answers_nan_is_not_analysed(bench: Bench) -> None:
    network = EfficientNetLite0()
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    bench.film()
    replace(bench.worker, classifier=Classifier(network, CARD)).work_once()
    assert bench.entry().reason == "model_output_invalid"


def test_a_worker_that_lost_its_lease_records_nothing(bench: Bench) -> None:
    bench.film()

    class Slow(Classifier):
        def score(self, batch: NDArray[np.float32]) -> NDArray[np.float64]:
            with bench.store.writing() as connection:
                connection.execute(text("UPDATE jobs SET state = 'queued', token = NULL"))
            return super().score(batch)

    assert replace(bench.worker, classifier=Slow(EfficientNetLite0(), CARD)).work_once()
    assert bench.entry().analysis == "pending"
    assert bench.worker.work_once()
    assert bench.entry().analysis == "analysed"


def test_a_lease_is_kept_alive_while_the_work_goes_on(bench: Bench) -> None:
    bench.film()

    class Slow(Classifier):
        def score(self, batch: NDArray[np.float32]) -> NDArray[np.float64]:
            time.sleep(2.5)
            bench.worker.queue.expire(bench.worker.rule)
            return super().score(batch)

    slow = replace(
        bench.worker, classifier=Slow(EfficientNetLite0(), CARD), times=Times(lease_seconds=1.5, job_seconds=60)
    )
    slow.work_once()
    assert bench.entry().analysis == "analysed"


def test_a_running_worker_takes_a_new_film_at_once_and_stops_when_asked(bench: Bench) -> None:
    stop = threading.Event()
    listening = bell(bench.store, bench.spool.root)
    running = threading.Thread(target=bench.worker.run, args=(stop, listening))
    running.start()
    time.sleep(0.3)
    bench.film()
    ringer = Ringer(bench.store, bench.spool.root)
    ringer.ring()
    deadline = time.monotonic() + 60
    while bench.entry().analysis == "pending" and time.monotonic() < deadline:
        time.sleep(0.02)
    stop.set()
    running.join(10)
    assert not running.is_alive()
    assert bench.entry().analysis == "analysed"
    listening.close()
    ringer.close()
