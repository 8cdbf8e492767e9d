"""What happens although nobody asks."""

from __future__ import annotations

import errno
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from sqlalchemy import Engine, func, select, text, update
from sqlalchemy.exc import IntegrityError

from daemon.arrival import Arrivals
from daemon.folder import Folder
from daemon.gauges import Gauges
from daemon.scheduler import Sweeps, run
from daemon.settings import DEFAULT_WEIGHTS
from daemon.spool import Spool, part10_header
from daemon.turn import turn
from making import CR, POLICY, data_set, encoded, received
from triage.jobs import RetryRule
from triage.records.intake import Intake, Receipt
from triage.records.queue import Queue
from triage.records.reading import Reading
from triage.records.store import Store
from triage.records.tables import instances, jobs, studies
from triage.records.waiting import Waiting
from triage.study import ReceivedInstance
from triage.user import Access


@pytest.fixture
def rings() -> list[str]:
    return []


@pytest.fixture
def sweeps(engine: Engine, tmp_path: Path, rings: list[str]) -> Sweeps:
    store, spool = Store(engine), Spool(tmp_path / "data", Folder(tmp_path / "data"))
    spool.prepare()
    return Sweeps(
        store=store,
        queue=Queue(store, POLICY),
        spool=spool,
        arrivals=Arrivals(kept=spool.kept, intake=Intake(store, POLICY)),
        ring=lambda: rings.append("ring"),
        rule=RetryRule(attempts_max=3, delay_seconds=0.001),
        lease_seconds=60.0,
        pending_seconds=300.0,
        retention_days=7.0,
        free_mib_min=0,
        gauges=Gauges(store=store, queue=Queue(store, POLICY), weights_card=DEFAULT_WEIGHTS),
    )


def stored(sweeps: Sweeps, number: int) -> str:
    """A film that went the receiver's way."""
    content = encoded(data_set(SOPInstanceUID=f"1.2.3.{number}", StudyInstanceUID=f"1.2.{number}"))
    file = sweeps.spool.write(part10_header(CR, f"1.2.3.{number}", "1.2.840.10008.1.2.1"), content)
    sweeps.arrivals.admit(file)
    return file.sha256


def age(sweeps: Sweeps, days: float) -> None:
    with sweeps.store.writing() as connection:
        connection.execute(update(instances).values(received_at=sweeps.store.after(-days * 86400)))


def end_jobs(sweeps: Sweeps) -> None:
    with sweeps.store.writing() as connection:
        connection.execute(update(jobs).values(state="done"))


def test_the_lease_of_a_silent_worker_is_taken_back_and_the_others_woken(sweeps: Sweeps, rings: list[str]) -> None:
    stored(sweeps, 1)
    assert sweeps.queue.claim("silent", 0.001)
    time.sleep(0.01)
    sweeps.expire_leases()
    assert sweeps.queue.depth() == {"queued": 1}
    assert rings == ["ring"]


def test_a_list_that_is_ahead_of_the_clock_is_pulled_back_once_that_lasts(
    sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(minutes: float, ahead_seconds: float | None = None) -> bool:
        """Whether it has been pulled back then."""
        monkeypatch.setattr(time, "monotonic", lambda: minutes * 60)
        if ahead_seconds is not None:
            with sweeps.store.writing() as connection:
                connection.execute(update(studies).values(waiting_since=sweeps.store.after(ahead_seconds)))
        sweeps.mend_waiting()
        return not Waiting(sweeps.store).is_ahead()

    stored(sweeps, 1)
    assert look(0)
    assert not look(10, 86400)
    assert not look(19)
    assert look(19.5, 0)  # the clock was behind, and no longer is
    assert not look(21, 86400)
    assert not look(30)
    assert look(32)


@pytest.mark.fault(122)
def test_old_files_go_and_their_rows_stay(sweeps: Sweeps) -> None:
    sha256 = stored(sweeps, 1)
    end_jobs(sweeps)
    sweeps.delete_expired_files()
    assert sweeps.spool.kept.path(sha256).exists()
    age(sweeps, 8)
    sweeps.delete_expired_files()
    assert not sweeps.spool.kept.path(sha256).exists()
    assert len(Reading(sweeps.store).worklist()) == 1


def test_what_retention_deletes_is_in_the_audit_once_for_each_study(sweeps: Sweeps) -> None:
    noted: list[Access] = []
    for number in (1, 2):
        stored(sweeps, number)
    end_jobs(sweeps)
    age(sweeps, 8)
    for _ in range(2):
        replace(sweeps, note=noted.append).delete_expired_files()
    told = sorted((each.who, each.verb, each.study_instance_uid) for each in noted)
    assert told == [("retention", "delete", "1.2.1"), ("retention", "delete", "1.2.2")]


def test_a_file_that_could_not_be_deleted_is_deleted_at_the_next_turn(
    sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = stored(sweeps, 1)
    end_jobs(sweeps)
    age(sweeps, 8)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", Mock(side_effect=OSError(errno.EIO, "broken")))
        with pytest.raises(OSError, match="broken"):
            sweeps.delete_expired_files()
    sweeps.delete_expired_files()
    assert not sweeps.spool.kept.path(sha256).exists()


@pytest.mark.fault(122, 124)
def test_a_file_that_awaits_its_analysis_is_kept_however_old(sweeps: Sweeps) -> None:
    sha256 = stored(sweeps, 1)
    age(sweeps, 80)
    sweeps.delete_expired_files()
    assert sweeps.spool.kept.path(sha256).exists()


@pytest.mark.fault(80)
def test_an_orphan_is_listed_and_queued_once(sweeps: Sweeps, rings: list[str]) -> None:
    content = encoded(data_set())
    file = sweeps.spool.write(part10_header(CR, "1.2.3.1", "1.2.840.10008.1.2.1"), content)
    sweeps.adopt_orphans()  # too young: its row may be on the way
    assert Reading(sweeps.store).worklist() == []
    os.utime(file.path, (0, 0))
    for _ in range(2):
        sweeps.adopt_orphans()
    with sweeps.store.reading() as connection:
        assert connection.execute(select(func.count()).select_from(jobs)).scalar_one() == 1
    assert rings == ["ring"]


def orphan(sweeps: Sweeps, number: int, content: bytes | None = None) -> Path:
    """The older, the smaller its number."""
    content = encoded(data_set(StudyInstanceUID=f"1.2.{number}")) if content is None else content
    file = sweeps.spool.write(part10_header(CR, f"1.2.3.{number}", "1.2.840.10008.1.2.1"), content)
    os.utime(file.path, (number, number))
    return file.path


def test_an_orphan_waits_since_it_came_and_joins_the_overdue_only_after_a_limit_from_now(sweeps: Sweeps) -> None:
    """Those that were read since the backup stand above no newly flagged one."""
    orphan(sweeps, 1)
    sweeps.adopt_orphans()
    (entry,) = Reading(sweeps.store).worklist()
    assert entry.waiting_since.timestamp() == pytest.approx(1, abs=60)
    assert "waited over the limit" not in entry.why
    with sweeps.store.reading() as connection:
        overdue_at = connection.execute(select(studies.c.overdue_at)).scalar_one()
    left = overdue_at - sweeps.store.read_clock()
    assert left.total_seconds() == pytest.approx(POLICY.waiting_limit_minutes * 60, abs=120)


def test_an_orphan_that_is_refused_or_cannot_be_set_aside_stops_no_other(
    sweeps: Sweeps, capsys: pytest.CaptureFixture[str]
) -> None:
    class Refusing(Intake):
        def receive(self, received: ReceivedInstance) -> Receipt:
            if received.header.study_instance_uid == "1.2.2":
                raise IntegrityError("INSERT", {}, ValueError("refused"))
            return super().receive(received)

    arrivals = replace(sweeps.arrivals, intake=Refusing(sweeps.store, POLICY))
    aside = sweeps.spool.kept.path(orphan(sweeps, 1, b"").stem, quarantined=True)
    aside.parent.rmdir()
    aside.parent.write_bytes(b"")  # nothing can be put there
    for number in (2, 3):
        orphan(sweeps, number)
    replace(sweeps, arrivals=arrivals).adopt_orphans()
    assert [entry.study_instance_uid for entry in Reading(sweeps.store).worklist()] == ["1.2.3"]
    assert capsys.readouterr().out.count("orphan_refused") == 2


def test_leases_expire_while_an_adoption_takes_long(sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(sweeps, 1)
    assert sweeps.queue.claim("silent", 0.001)
    begun, stop = threading.Event(), threading.Event()

    def takes_long(_: Sweeps) -> None:
        begun.set()
        stop.wait(60)

    monkeypatch.setattr(Sweeps, "adopt_orphans", takes_long)
    running = threading.Thread(target=run, args=(sweeps, turn(sweeps.store), 0.1, stop), kwargs={"grace_seconds": 1.0})
    running.start()
    assert begun.wait(30)
    deadline = time.monotonic() + 30
    while sweeps.queue.depth() != {"queued": 1} and time.monotonic() < deadline:
        time.sleep(0.05)
    is_stuck = sweeps.queue.depth() != {"queued": 1}
    stop.set()
    running.join()
    assert not is_stuck


def test_quarantine_is_not_kept_for_ever(sweeps: Sweeps) -> None:
    file = sweeps.spool.write(part10_header(CR, "1.2.3.1", "1.2.840.10008.1.2.1"), b"")
    sweeps.spool.kept.quarantine(file.sha256)
    sweeps.delete_expired_files()
    assert len(list(sweeps.spool.kept.files(0, quarantined=True))) == 1
    os.utime(sweeps.spool.kept.path(file.sha256, quarantined=True), (0, 0))
    sweeps.delete_expired_files()
    assert list(sweeps.spool.kept.files(0, quarantined=True)) == []


def test_the_scheduler_goes_on_after_a_sweep_that_failed(sweeps: Sweeps) -> None:
    Intake(sweeps.store, POLICY).receive(received(1))
    with sweeps.store.writing() as connection:
        connection.execute(text("ALTER TABLE findings RENAME TO elsewhere"))
        past = sweeps.store.after(-1)
        connection.execute(update(jobs).values(state="leased", token="t", attempts=3, lease_until=past))
    stop = threading.Event()
    running = threading.Thread(target=run, args=(sweeps, turn(sweeps.store), 0.1, stop))
    running.start()
    time.sleep(0.5)  # the sweep fails: the finding cannot be written
    with sweeps.store.writing() as connection:
        connection.execute(text("ALTER TABLE elsewhere RENAME TO findings"))
    deadline = time.monotonic() + 30
    while Reading(sweeps.store).worklist()[0].analysis == "pending" and time.monotonic() < deadline:
        time.sleep(0.05)
    stop.set()
    running.join()
    assert Reading(sweeps.store).worklist()[0].reason == "internal_error"
