"""State Reports to subscribers over DICOM: a pynetdicom peer that listens for them, away at times."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from listening import stays_false, wait_for
from sqlalchemy import Engine
from wards import ALL, Ward, keys, ward

from certificates import Papers
from daemon import tls
from daemon.dicom.reporting import Reporter
from daemon.dicom.workitem import event_information
from daemon.settings import Settings
from making import received
from triage.records.store import Store, open_engine
from triage.records.subscriptions import Subscriptions
from triage.study import EventKind, workitem_uid
from watching import Watcher

ONE, TWO = (workitem_uid(f"1.2.{number}", 0) for number in (1, 2))
T1 = "1.2.3.4.1"


@pytest.fixture
def site(engine: Engine, tmp_path: Path) -> Iterator[Ward]:
    with ward(engine, tmp_path) as made:
        yield made


def progress(percent: str) -> dict[str, Any]:
    return {"ProcedureStepProgressInformationSequence": [keys(ProcedureStepProgress=percent)]}


@contextmanager
def reporting(
    subscriptions: Subscriptions, watcher: Watcher, tls: Callable[[], ssl.SSLContext] | None = None
) -> Iterator[None]:
    addresses = {"WATCHER": ("127.0.0.1", watcher.port)}
    reporter = Reporter(subscriptions=subscriptions, ae_title="TRIAGE", addresses=addresses, tls=tls)
    reporter.start()
    try:
        yield
    finally:
        reporter.stop()


def test_a_watcher_is_told_what_there_is_and_what_happens(site: Ward) -> None:
    watcher = Watcher()
    with site.peer() as peer, watcher.listening(), reporting(site.subscriptions, watcher):
        assert peer.watch(3, ALL, ReceivingAE="WATCHER", DeletionLock="FALSE") == 0
        assert wait_for(lambda: len(watcher.told) == 4, 20)
        assert set(watcher.told) == {(workitem_uid(f"1.2.{n}", 0), "SCHEDULED") for n in (1, 2, 3, 4)}
        peer.change(ONE, "IN PROGRESS", T1)
        peer.change(ONE, "CANCELED", T1)
        (new,) = peer.uids(StudyInstanceUID="1.2.1", ProcedureStepState="SCHEDULED")
        assert wait_for(lambda: (new, "SCHEDULED") in watcher.told, 20)
        assert watcher.told[4:] == [(ONE, "IN PROGRESS"), (ONE, "CANCELED"), (new, "SCHEDULED")]
        assert peer.watch(4, ALL, ReceivingAE="WATCHER") == 0
        site.reading.start_reading("1.2.2", "Dr Adler")
        assert stays_false(lambda: len(watcher.told) > 7, 2)


def test_who_was_away_or_could_not_take_it_is_told_later_and_nothing_is_lost(site: Ward) -> None:
    watcher = Watcher()
    site.subscriptions.subscribe("WATCHER", ONE)
    with reporting(site.subscriptions, watcher):
        site.reading.start_reading("1.2.1", "Dr Adler")
        watcher.status = 0x0110
        with watcher.listening():
            site.reading.start_reading("1.2.2", "Dr Adler")
            site.reading.close("1.2.1", "Dr Adler")
            threading.Event().wait(2)
            assert watcher.told == []
            watcher.status = 0
            assert wait_for(lambda: (ONE, "COMPLETED") in watcher.told, 30)
    assert watcher.told[-2:] == [(ONE, "IN PROGRESS"), (ONE, "COMPLETED")]
    assert {uid for uid, _ in watcher.told} == {ONE}


def test_who_performs_a_reading_is_asked_to_cancel_it_and_may_go_on(site: Ward) -> None:
    watcher = Watcher()
    with site.peer() as peer, watcher.listening(), reporting(site.subscriptions, watcher):
        assert peer.watch(3, ONE, ReceivingAE="WATCHER", DeletionLock="FALSE") == 0
        peer.change(ONE, "IN PROGRESS", T1)
        assert peer.watch(2, ONE, ReasonForCancellation="wrong patient") == 0
        assert wait_for(lambda: watcher.asked, 20)
        assert watcher.asked == [(ONE, "VIEWER", "wrong patient")]
        assert peer.state(ONE) == "IN PROGRESS"
        assert peer.watch(2, ONE) == 0
        assert wait_for(lambda: len(watcher.asked) == 2, 20)
        assert peer.change(ONE, "CANCELED", T1) == 0
        assert peer.watch(2, ONE) == 0xB304
        assert wait_for(lambda: (ONE, "CANCELED") in watcher.told, 20)
    kinds = [event.kind for event in site.reading.history.of_study("1.2.1")]
    assert kinds.count(EventKind.CANCEL_ASKED) == 2


def test_watchers_are_told_how_far_a_reading_is_until_it_ends(site: Ward) -> None:
    watcher = Watcher()
    with site.peer() as peer, watcher.listening(), reporting(site.subscriptions, watcher):
        assert peer.watch(3, ONE, ReceivingAE="WATCHER", DeletionLock="FALSE") == 0
        peer.change(ONE, "IN PROGRESS", T1)
        assert peer.set(ONE, TransactionUID=T1, **progress("40")) == 0
        assert wait_for(lambda: watcher.progress == [(ONE, "40")], 20)
        assert peer.set(ONE, TransactionUID=T1, UnifiedProcedureStepPerformedProcedureSequence=[keys()]) == 0
        assert peer.set(ONE, TransactionUID=T1, **progress("80")) == 0
        assert wait_for(lambda: len(watcher.progress) == 2, 20)
        assert watcher.progress[1] == (ONE, "80")
        assert peer.change(ONE, "COMPLETED", T1) == 0
        assert wait_for(lambda: (ONE, "COMPLETED") in watcher.told, 20)
    assert watcher.told[-2:] == [(ONE, "IN PROGRESS"), (ONE, "COMPLETED")]


def test_of_what_a_performer_says_subscribers_are_told_what_the_standard_names(site: Ward) -> None:
    site.subscriptions.subscribe("WATCHER", ONE)
    with site.peer() as peer:
        peer.change(ONE, "IN PROGRESS", T1)
        said = keys(ProcedureStepProgress="40", PatientName="CANARY^NAME", ProcedureStepProgressDescription="half")
        for _ in range(3):
            assert peer.set(ONE, TransactionUID=T1, ProcedureStepProgressInformationSequence=[said]) == 0
    kinds = [event.kind for event in site.reading.history.of_study("1.2.1")]
    assert kinds.count(EventKind.PROGRESSED) == 1  # it was said three times, but changed nothing
    batch = site.subscriptions.due("WATCHER")
    assert batch is not None
    (notice,) = [each for each in batch.notices if each.progress]
    told = event_information(notice)
    assert "CANARY" not in str(told)
    assert told.ProcedureStepProgressInformationSequence[0].ProcedureStepProgressDescription == "half"


def test_one_that_cannot_be_told_keeps_no_other_from_it(site: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = Watcher()
    site.subscriptions.subscribe("AAA", ONE)
    site.subscriptions.subscribe("WATCHER", ONE)
    tell = Reporter.tell

    def stumble(self: Reporter, ae_title: str) -> None:
        if ae_title == "AAA":
            raise TypeError
        tell(self, ae_title)

    monkeypatch.setattr(Reporter, "tell", stumble)
    with watcher.listening(), reporting(site.subscriptions, watcher):
        assert wait_for(lambda: watcher.told == [(ONE, "SCHEDULED")], 20)


def test_progress_of_a_reading_that_was_given_back_since_is_not_told(site: Ward) -> None:
    site.subscriptions.subscribe("WATCHER", ALL)
    with site.peer() as peer:
        peer.change(ONE, "IN PROGRESS", T1)
        assert peer.set(ONE, TransactionUID=T1, **progress("40")) == 0
        peer.change(ONE, "CANCELED", T1)
    batch = site.subscriptions.due("WATCHER")
    assert batch is not None
    assert not [notice for notice in batch.notices if notice.progress]


def test_a_subscription_made_while_others_are_told_has_its_first_state_told_after_them(site: Ward) -> None:
    subscriptions = site.subscriptions
    subscriptions.subscribe("WATCHER", ONE)
    on_its_way = subscriptions.due("WATCHER")
    assert on_its_way is not None
    subscriptions.subscribe("WATCHER", TWO)
    subscriptions.told("WATCHER", on_its_way)
    after = subscriptions.due("WATCHER")
    assert after is not None
    assert [(notice.workitem_uid, notice.state) for notice in after.notices] == [(TWO, "SCHEDULED")]
    subscriptions.told("WATCHER", after)
    assert subscriptions.due("WATCHER") is None


def test_who_subscribes_to_what_has_ended_is_told_how(site: Ward) -> None:
    site.reading.start_reading("1.2.1", "Dr Adler")
    site.reading.release("1.2.1", "Dr Adler")
    site.reading.close("1.2.2")
    for uid in (ONE, TWO):
        site.subscriptions.subscribe("WATCHER", uid)
    batch = site.subscriptions.due("WATCHER")
    assert batch is not None
    assert {(notice.workitem_uid, notice.state) for notice in batch.notices} == {(ONE, "CANCELED"), (TWO, "COMPLETED")}


def test_one_host_at_a_time_tells_a_subscriber(site: Ward) -> None:
    site.subscriptions.subscribe("WATCHER", ALL)
    assert site.subscriptions.take_turn("WATCHER", 30)
    assert not site.subscriptions.take_turn("WATCHER", 30)
    site.subscriptions.end_turn("WATCHER")
    assert site.subscriptions.take_turn("WATCHER", 0.0)
    assert site.subscriptions.take_turn("WATCHER", 30)


_TELLING = """
import sys, time
from daemon.dicom.reporting import Reporter
from triage.records.store import Store, open_engine
from triage.records.subscriptions import Subscriptions

url, port = sys.argv[1:]
subscriptions = Subscriptions(Store(open_engine(url)))
subscriptions.subscribe("WATCHER", "1.2.840.10008.5.1.4.34.5")
Reporter(subscriptions=subscriptions, ae_title="TRIAGE", addresses={"WATCHER": ("127.0.0.1", int(port))}).start()
print("subscribed", flush=True)
time.sleep(60)
"""


def test_a_process_that_is_killed_loses_no_subscription(database_url: str, engine: Engine, tmp_path: Path) -> None:
    watcher = Watcher()
    with ward(engine, tmp_path) as site:
        process = subprocess.Popen(
            [sys.executable, "-c", _TELLING, database_url, str(watcher.port)], stdout=subprocess.PIPE, text=True
        )
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == "subscribed\n"
            os.kill(process.pid, signal.SIGKILL)
        site.reading.start_reading("1.2.1", "Dr Adler")
        site.intake.receive(received(9))
        again = Subscriptions(Store(open_engine(database_url)))
        again.end_turn("WATCHER")  # else its turn runs out by itself
        with watcher.listening(), reporting(again, watcher):
            assert wait_for(lambda: (workitem_uid("1.2.9", 0), "SCHEDULED") in watcher.told, 30)
        assert (ONE, "IN PROGRESS") in watcher.told
        assert (TWO, "SCHEDULED") in watcher.told
        again._store.engine.dispose()


@pytest.mark.parametrize("is_trusted", [True, False], ids=["trusted", "stranger"])
def test_over_tls_only_who_shows_a_certificate_is_told(site: Ward, tmp_path: Path, is_trusted: bool) -> None:  # noqa: FBT001
    """And who asks to see ours is shown it."""
    papers, strangers = Papers(tmp_path / "papers"), Papers(tmp_path / "strangers")
    ours = papers.issue("triage")
    settings = Settings(
        dicom_calling_tls_ca_file=papers.ca,
        dicom_calling_tls_certificate_file=ours[0],
        dicom_calling_tls_key_file=ours[1],
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=papers.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(*(papers if is_trusted else strangers).issue("watcher"))
    watcher = Watcher()
    site.subscriptions.subscribe("WATCHER", ONE)
    with watcher.listening(context), reporting(site.subscriptions, watcher, tls.calling(settings, "dicom_calling")):
        site.reading.start_reading("1.2.1", "Dr Adler")
        assert stays_false(lambda: (ONE, "IN PROGRESS") in watcher.told, 20 if is_trusted else 3) is not is_trusted
