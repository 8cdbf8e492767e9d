"""Films on the line: together where they wait, at once where they do not, and a suspect alone."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from daemon.absence import Absence
from daemon.decoder import Look
from daemon.leases import Leases, Times
from daemon.line import Line, Looked
from triage.errors import LostLeaseError, Reason
from triage.jobs import Job

MOST = 4


def job(number: int, last_reason: Reason | None = None) -> Job:
    return Job(
        job_id=number,
        instance_id=number,
        study_instance_uid=f"1.2.{number}",
        sha256="",
        attempts=1,
        token="",
        queued_seconds=0.0,
        last_reason=last_reason,
    )


@dataclass
class Hearts:
    """Stands for the queue: counts heartbeats, and says that some leases are lost."""

    beats: Counter[int] = field(default_factory=Counter)
    lost: frozenset[int] = frozenset()

    def heartbeat(self, job: Job, lease_seconds: float) -> None:
        del lease_seconds
        self.beats[job.job_id] += 1
        if job.job_id in self.lost:
            raise LostLeaseError


@dataclass
class Scene:
    """Decoders and a network that take no time, but for films in ``stuck`` and while ``network`` is not set."""

    stuck: dict[int, threading.Event] = field(default_factory=dict)
    network: threading.Event = field(default_factory=threading.Event)
    begun: list[int] = field(default_factory=list)
    decoded: list[int] = field(default_factory=list)
    passes: list[list[int]] = field(default_factory=list)

    def look(self, job: Job, decoder: object) -> Look:
        del decoder
        self.begun.append(job.job_id)
        if job.job_id in self.stuck:
            assert self.stuck[job.job_id].wait(30)
        self.decoded.append(job.job_id)
        return Look(reason=Reason.BAD_PIXELS)

    def conclude(self, batch: list[Looked]) -> None:
        self.passes.append([each.job.job_id for each in batch])
        assert self.network.wait(30)

    @contextmanager
    def line(self, decoders: int = 2) -> Iterator[Line]:
        made: list[Any] = [object() for _ in range(decoders)]
        with leases(Hearts()) as held, Line(made, held, look=self.look, conclude=self.conclude, most=MOST) as line:
            try:
                yield line
            finally:
                for event in (self.network, *self.stuck.values()):
                    event.set()

    @property
    def concluded(self) -> list[int]:
        return [number for each in self.passes for number in each]


def leases(hearts: Hearts, lease_seconds: float = 60, job_seconds: float = 60) -> Leases:
    times = Times(lease_seconds=lease_seconds, job_seconds=job_seconds)
    return Leases(hearts, times, Absence())  # type: ignore[arg-type] # a stand-in


def feed(line: Line, *jobs: Job) -> None:
    """As the worker does."""
    for each in jobs:
        line.wait_free()
        line.start(each)


def until(ask: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not ask():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_single_film_goes_through_without_company() -> None:
    scene = Scene()
    scene.network.set()
    with scene.line() as line:
        line.start(job(1))
        until(lambda: scene.passes == [[1]])


def test_what_was_decoded_while_the_network_was_busy_goes_through_together() -> None:
    scene = Scene()
    with scene.line() as line:
        line.start(job(1))
        until(lambda: scene.passes == [[1]])
        feed(line, *map(job, (2, 3, 4)))
        until(lambda: len(scene.decoded) == 4)
        until(lambda: line._decoded.qsize() == 3)
        scene.network.set()
        until(lambda: len(scene.passes) == 2)
    assert sorted(scene.passes[1]) == [2, 3, 4]


def test_a_pass_has_its_limit_and_every_film_is_in_one() -> None:
    scene = Scene()
    with scene.line() as line, ThreadPoolExecutor(1) as pool:
        fed = pool.submit(feed, line, *map(job, range(20)))
        until(lambda: line._decoded.qsize() == MOST)
        scene.network.set()
        fed.result(30)
    assert sorted(scene.concluded) == list(range(20))
    assert max(map(len, scene.passes)) <= MOST


def test_where_others_are_being_decoded_a_pass_leaves_them_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.line.COMPANY_SECONDS", 30)
    scene = Scene(stuck={2: threading.Event()})
    scene.network.set()
    with scene.line() as line:
        feed(line, *map(job, (1, 2)))
        until(lambda: scene.decoded == [1])
        time.sleep(0.05)
        assert scene.passes == []
        scene.stuck[2].set()
        until(lambda: scene.passes == [[1, 2]])


def test_no_pass_waits_for_more_than_make_it_worth_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.line.COMPANY_SECONDS", 30)
    scene = Scene(stuck={9: threading.Event()})
    scene.network.set()
    with scene.line() as line:
        feed(line, *map(job, (9, 1, 2, 3, 4)))
        until(lambda: scene.passes == [[1, 2, 3, 4]])


@pytest.mark.fault(73)
def test_a_film_that_hangs_in_its_decoder_holds_up_no_other() -> None:
    scene = Scene(stuck={1: threading.Event()})
    scene.network.set()
    with scene.line() as line:
        feed(line, *map(job, (1, 2, 3, 4)))
        until(lambda: scene.concluded == [2, 3, 4])
    assert scene.concluded == [2, 3, 4, 1]


def test_no_more_is_taken_than_can_be_decoded_at_once() -> None:
    scene = Scene(stuck={1: threading.Event(), 2: threading.Event()})
    scene.network.set()
    with scene.line() as line, ThreadPoolExecutor(1) as pool:
        assert line.wait_free() == 2
        line.start(job(1))
        assert line.wait_free() == 1
        line.start(job(2))
        until(lambda: scene.begun == [1, 2])
        third = pool.submit(line.wait_free)
        time.sleep(0.05)
        assert not third.done()
        scene.stuck[1].set()
        assert third.result(30) == 1


def test_a_network_that_is_far_behind_stops_the_decoders() -> None:
    scene = Scene()
    with scene.line() as line, ThreadPoolExecutor(1) as pool:
        line.start(job(0))
        until(lambda: scene.passes == [[0]])
        fed = pool.submit(feed, line, *map(job, range(1, 20)))
        until(lambda: len(scene.decoded) >= 1 + MOST + 2)
        # One in the network, as many as it takes waiting for it, one at each decoder: nothing else has been begun.
        time.sleep(0.05)
        assert len(scene.begun) == 1 + MOST + 2
        scene.network.set()
        fed.result(30)


def test_a_suspect_is_alone_from_beginning_to_end() -> None:
    scene = Scene()
    with scene.line() as line, ThreadPoolExecutor(1) as pool:
        line.start(job(1))
        fed = pool.submit(feed, line, job(2, Reason.INTERNAL_ERROR), job(3))
        time.sleep(0.05)
        assert scene.begun == [1]
        scene.network.set()
        until(lambda: scene.concluded == [1, 2, 3])
        fed.result(30)
    assert scene.passes == [[1], [2], [3]]


def test_nothing_is_begun_beside_a_suspect() -> None:
    scene = Scene()
    with scene.line() as line, ThreadPoolExecutor(1) as pool:
        fed = pool.submit(feed, line, job(1, Reason.INTERNAL_ERROR), job(2))
        until(lambda: scene.passes == [[1]])
        time.sleep(0.05)
        assert scene.begun == [1]
        scene.network.set()
        fed.result(30)


@pytest.mark.parametrize("reason", [None, Reason.DECODE_TIMEOUT, Reason.DECODE_CRASH, Reason.MODEL_UNAVAILABLE])
def test_only_what_may_have_ended_a_worker_is_a_suspect(reason: Reason | None) -> None:
    assert not job(1, reason).is_suspect


@pytest.mark.fault(96)
def test_leaving_waits_for_what_is_in_hand() -> None:
    scene = Scene()
    scene.network.set()
    with scene.line() as line:
        feed(line, *map(job, range(9)))
    assert sorted(scene.concluded) == list(range(9))


@pytest.mark.fault(98)
def test_each_lease_is_kept_up_to_its_time_and_a_lost_one_stops_no_other() -> None:
    hearts = Hearts(lost=frozenset({1}))
    with leases(hearts, lease_seconds=0.01) as held:
        held.hold(job(1))
        held.hold(job(2))
        until(lambda: hearts.beats[2] > 3)
        held.let_go(job(1))
        held.let_go(job(2))
        held.wait_for(0)
    hearts = Hearts()
    with leases(hearts, lease_seconds=0.01, job_seconds=0.1) as held:
        held.hold(job(3))
        until(lambda: hearts.beats[3])
        time.sleep(0.2)
        before = hearts.beats[3]
        time.sleep(0.1)
        assert hearts.beats[3] == before
