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

from daemon.absence import Absence
from daemon.arrival import Arrivals
from daemon.bell import Ringer, bell
from daemon.decoder import Decoder
from daemon.film import decoded
from daemon.folder import Folder
from daemon.leases import Times
from daemon.spool import Spool, part10_header
from daemon.telemetry import Pseudonym
from daemon.worker import Worker
from making import CARD, CR, POLICY, data_set, encoded
from triage.errors import Reason
from triage.jobs import Job, RetryRule
from triage.records.erasure import Erasure
from triage.records.intake import Intake
from triage.records.queue import Queue
from triage.records.reading import Reading
from triage.records.store import Store
from triage.records.tables import jobs
from triage.study import Finding, WorklistEntry
from triage.vision.classifier import Classifier
from triage.vision.efficientnet import EfficientNetLite0


def work_once(worker: Worker) -> bool:
    """Take one job, if there is one, and see it through."""
    with worker.line() as line:
        return worker.take(line)


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
        Arrivals(kept=self.spool.kept, intake=Intake(self.store, POLICY)).admit(stored)
        return stored.sha256

    def entry(self) -> WorklistEntry:
        (entry,) = Reading(self.store).worklist()
        return entry


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(EfficientNetLite0(), CARD)


@pytest.fixture(scope="module")
def decoders() -> Iterator[list[Decoder]]:
    with Decoder() as one, Decoder() as other:
        yield [one, other]


@pytest.fixture
def bench(engine: Engine, tmp_path: Path, classifier: Classifier, decoders: list[Decoder]) -> Bench:
    store, spool = Store(engine), Spool(tmp_path / "data", Folder(tmp_path / "data"))
    spool.prepare()
    worker = Worker(
        name="test",
        queue=Queue(store, POLICY),
        kept=spool.kept,
        decoders=decoders,
        batch_max=8,
        classifier=classifier,
        rule=RetryRule(attempts_max=2, delay_seconds=0.001),
        times=Times(lease_seconds=60, job_seconds=120),
        pseudonym=Pseudonym(spool.root),
        absence=Absence(),
    )
    return Bench(store, spool, worker)


def test_a_film_is_analysed_and_its_study_ranked(bench: Bench) -> None:
    bench.film()
    assert work_once(bench.worker)
    entry = bench.entry()
    assert (entry.analysis, entry.reason) == ("analysed", None)
    assert entry.p_pneumonia is not None
    assert 0.0 <= entry.p_pneumonia <= 1.0
    assert not work_once(bench.worker)


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
    assert work_once(bench.worker)
    assert (bench.entry().analysis, bench.entry().reason) == ("not_analysed", reason)


@pytest.mark.fault(81)
def test_a_file_that_rotted_on_disk_is_not_analysed(bench: Bench) -> None:
    path = bench.spool.kept.path(bench.film())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    work_once(bench.worker)
    assert bench.entry().analysis == "pending"  # another read may find it whole
    time.sleep(0.01)
    work_once(bench.worker)
    assert (bench.entry().analysis, bench.entry().reason) == ("not_analysed", "pixels_damaged")
    assert not work_once(bench.worker)


def test_a_film_that_cannot_be_read_just_now_waits_and_loses_no_attempt(bench: Bench) -> None:
    path = bench.spool.kept.path(bench.film())
    away = path.parent.rename(path.parent.with_name("away"))  # as if the share were not mounted
    for _ in range(bench.worker.rule.attempts_max + 1):
        assert work_once(bench.worker)
        assert (bench.entry().analysis, bench.entry().reason) == ("not_analysed", "pixels_unreadable")
        assert not work_once(bench.worker)  # not due yet
        with bench.store.writing() as connection:
            connection.execute(update(jobs).values(available_at=bench.store.after(-1)))
            assert connection.execute(select(jobs.c.attempts)).scalar_one() == 0
    away.rename(path.parent)
    assert work_once(bench.worker)
    assert (bench.entry().analysis, bench.entry().reason) == ("analysed", None)


@pytest.mark.fault(103)
def test_without_a_network_every_study_says_so_and_is_analysed_once_there_is_one(bench: Bench) -> None:
    bench.film()
    assert work_once(replace(bench.worker, classifier=None))
    assert (bench.entry().analysis, bench.entry().reason) == ("not_analysed", "model_unavailable")
    assert not work_once(bench.worker)  # not due yet
    with bench.store.writing() as connection:
        connection.execute(update(jobs).values(available_at=bench.store.after(-1)))
        assert connection.execute(select(jobs.c.attempts)).scalar_one() == 0
    assert work_once(bench.worker)
    assert bench.entry().analysis == "analysed"


class Purged(Queue):
    """Each study is erased just after its job was claimed."""

    def claim(self, worker: str, lease_seconds: float, most: int = 1) -> list[Job]:
        taken = super().claim(worker, lease_seconds, most)
        for job in taken:
            Erasure(self._store).erase(job.study_instance_uid)
        return taken


class Outrun(Queue):
    """Each lease is lost just after its job was claimed."""

    def claim(self, worker: str, lease_seconds: float, most: int = 1) -> list[Job]:
        taken = super().claim(worker, lease_seconds, most)
        with self._store.writing() as connection:
            connection.execute(update(jobs).values(token="another"))
        return taken


@pytest.mark.parametrize("kind", [Purged, Outrun])
def test_a_worker_without_a_network_outlives_a_study_that_is_purged_and_a_lease_that_is_lost(
    bench: Bench, kind: type[Queue], capsys: pytest.CaptureFixture[str]
) -> None:
    bench.film()
    worker = replace(bench.worker, classifier=None, queue=kind(bench.store, POLICY))
    assert work_once(worker)
    assert not work_once(worker)
    assert capsys.readouterr().out.count("lease_lost") == 1


class BrokenClassifier(Classifier):
    """A network that fails, as torch might."""

    def findings(self, batch: NDArray[np.float32]) -> list[Finding]:
        del batch
        raise RuntimeError("no such kernel")


@pytest.mark.fault(72, 97)
def test_a_fault_is_tried_again_and_then_buried_with_its_reason(bench: Bench) -> None:
    bench.film()
    broken = replace(bench.worker, classifier=BrokenClassifier(EfficientNetLite0(), CARD))
    assert work_once(broken)
    assert bench.entry().analysis == "pending"
    time.sleep(0.05)
    assert work_once(broken)
    assert (bench.entry().analysis, bench.entry().reason) == ("not_analysed", Reason.INTERNAL_ERROR)


@pytest.mark.fault(102)
def test_a_network_that_answers_nan_is_not_analysed(bench: Bench) -> None:
    network = EfficientNetLite0()
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    bench.film()
    work_once(replace(bench.worker, classifier=Classifier(network, CARD)))
    assert bench.entry().reason == "model_output_invalid"


@pytest.mark.fault(99)
def test_a_worker_that_lost_its_lease_records_nothing(bench: Bench) -> None:
    bench.film()

    class Slow(Classifier):
        def findings(self, batch: NDArray[np.float32]) -> list[Finding]:
            with bench.store.writing() as connection:
                connection.execute(text("UPDATE jobs SET state = 'queued', token = NULL"))
            return super().findings(batch)

    assert work_once(replace(bench.worker, classifier=Slow(EfficientNetLite0(), CARD)))
    assert bench.entry().analysis == "pending"
    assert work_once(bench.worker)
    assert bench.entry().analysis == "analysed"


class Watched(Classifier):
    """Waits in its first pass until told to go on, and remembers how many films each pass had."""

    def __init__(self, network: EfficientNetLite0) -> None:
        super().__init__(network, CARD)
        self.go_on = threading.Event()
        self.passes: list[int] = []

    def findings(self, batch: NDArray[np.float32]) -> list[Finding]:
        self.passes.append(len(batch))
        assert self.go_on.wait(60)
        return super().findings(batch)


def work_off(bench: Bench, classifier: Watched) -> None:
    """All films while the network is held in its first pass, which then goes on."""
    worker = replace(bench.worker, classifier=classifier)
    with worker.line() as line:
        while worker.take(line):
            pass
        classifier.go_on.set()


def outcomes(bench: Bench) -> dict[str, tuple[str, str | None]]:
    return {each.study_instance_uid: (each.analysis, each.reason) for each in Reading(bench.store).worklist()}


class Telling(Watched):
    """P(normal) is how bright the film is: no two of them are alike."""

    def findings(self, batch: NDArray[np.float32]) -> list[Finding]:
        super().findings(batch)
        shares = [float(film.mean()) for film in batch]
        return [Finding(p_normal=share, p_bacterial=1 - share, p_viral=0.0) for share in shares]


def test_films_that_wait_go_through_the_network_together_and_each_gets_its_own_finding(bench: Bench) -> None:
    shown = {}
    for number in range(1, 9):
        damage = {"PixelData": b"\0" * 256 * 200 * 2} if number in (3, 6) else {}
        path = bench.spool.kept.path(bench.film(number, **damage))
        look = decoded(path, path.stem, bench.worker.decoders[0], CARD, POLICY)
        shown[f"1.2.{number}"] = None if look.pixels is None else pytest.approx(1 - look.pixels.mean(), abs=1e-5)
    telling = Telling(EfficientNetLite0())
    work_off(bench, telling)
    assert sum(telling.passes) == 6
    assert len(telling.passes) <= 3  # the first, then all there were
    assert {each.study_instance_uid: each.p_pneumonia for each in Reading(bench.store).worklist()} == shown
    assert len({each.p_pneumonia for each in Reading(bench.store).worklist()}) == 7


def test_a_bad_film_costs_the_films_beside_it_nothing(bench: Bench) -> None:
    for number in range(1, 5):
        bench.film(number)
    bench.film(5, PixelData=b"\0" * 256 * 200 * 2)
    path = bench.spool.kept.path(bench.film(6))
    path.write_bytes(path.read_bytes()[:-1])
    work_off(bench, Watched(EfficientNetLite0()))
    analysed = {f"1.2.{number}": ("analysed", None) for number in range(1, 5)}
    assert outcomes(bench) == {
        **analysed,
        "1.2.5": ("not_analysed", "bad_pixels"),
        "1.2.6": ("pending", None),  # damaged: it is read once more, later
    }


@pytest.mark.fault(100)
def test_a_pass_that_fails_is_tried_film_by_film(bench: Bench) -> None:
    for number in range(1, 6):
        bench.film(number)

    class Poisoned(Watched):
        """Fails on the first film that comes with others, and on all that go with it."""

        poison: NDArray[np.float32] | None = None

        def findings(self, batch: NDArray[np.float32]) -> list[Finding]:
            if self.poison is None and len(batch) > 1:
                self.poison = batch[0].copy()
            found = super().findings(batch)
            if self.poison is not None and any(np.array_equal(film, self.poison) for film in batch):
                raise RuntimeError("no such kernel")
            return found

    worker = replace(bench.worker, classifier=Poisoned(EfficientNetLite0()), rule=RetryRule(attempts_max=1))
    with worker.line() as line:
        while worker.take(line):
            pass
        worker.classifier.go_on.set()
    assert sorted(outcomes(bench).values()) == [("analysed", None)] * 4 + [("not_analysed", "internal_error")]


@pytest.mark.fault(100)
@pytest.mark.parametrize(("fits", "expected"), [(1, ("analysed", None)), (0, ("not_analysed", "resource_exhausted"))])
def test_with_too_little_memory_films_go_alone_and_then_without_analysis(
    bench: Bench, fits: int, expected: tuple[str, str | None]
) -> None:
    for number in range(1, 4):
        bench.film(number)

    class Narrow(Watched):
        def findings(self, batch: NDArray[np.float32]) -> list[Finding]:
            if len(batch) > fits:
                raise MemoryError
            return super().findings(batch)

    work_off(replace(bench, worker=replace(bench.worker, rule=RetryRule(attempts_max=1))), Narrow(EfficientNetLite0()))
    assert list(outcomes(bench).values()) == [expected] * 3


@pytest.mark.fault(99)
def test_a_lease_that_is_lost_costs_the_films_beside_it_nothing(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(1, 5):
        bench.film(number)

    class Robbed(Watched):
        def findings(self, batch: NDArray[np.float32]) -> list[Finding]:
            found = super().findings(batch)
            with bench.store.writing() as connection:
                connection.execute(text("UPDATE jobs SET token = 'another' WHERE job_id = 2"))
            return found

    work_off(bench, Robbed(EfficientNetLite0()))
    assert outcomes(bench)["1.2.2"] == ("pending", None)
    assert [outcome for outcome, _ in outcomes(bench).values()].count("analysed") == 3
    assert capsys.readouterr().out.count("lease_lost") == 1


@pytest.mark.fault(97)
def test_a_film_whose_worker_died_is_looked_at_alone(bench: Bench) -> None:
    for number in range(1, 6):
        bench.film(number)
    assert bench.worker.queue.claim("dead", 60)
    assert bench.worker.queue.expire(RetryRule(delay_seconds=0.001), worker="dead") == (1, 0)
    time.sleep(0.05)
    watched = Watched(EfficientNetLite0())
    watched.go_on.set()
    work_off(bench, watched)
    assert set(outcomes(bench).values()) == {("analysed", None)}
    with bench.store.reading() as connection:
        assert connection.execute(select(jobs.c.attempts).order_by(jobs.c.job_id)).scalars().all() == [2, 1, 1, 1, 1]
    assert watched.passes[-1] == 1  # the retried one comes last


def test_a_lease_is_kept_alive_while_the_work_goes_on(bench: Bench) -> None:
    bench.film()

    class Slow(Classifier):
        def findings(self, batch: NDArray[np.float32]) -> list[Finding]:
            time.sleep(2.5)
            bench.worker.queue.expire(bench.worker.rule)
            return super().findings(batch)

    slow = replace(
        bench.worker, classifier=Slow(EfficientNetLite0(), CARD), times=Times(lease_seconds=1.5, job_seconds=60)
    )
    work_once(slow)
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
