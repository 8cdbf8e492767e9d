"""Studies that come again, late, in pieces or never leave: listed once, in their place, and kept as long as needed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import chests
import pytest
from pydicom.uid import generate_uid
from running import Daemon, wait_for
from sending import send
from sqlalchemy import Engine, text

from daemon.arrival import Arrivals
from daemon.folder import Folder
from daemon.gauges import Gauges
from daemon.scheduler import Sweeps
from daemon.settings import DEFAULT_WEIGHTS
from daemon.spool import Spool, part10_header
from making import CR, POLICY, data_set, encoded
from triage.jobs import RetryRule
from triage.records.intake import Intake
from triage.records.queue import Queue
from triage.records.reading import Reading
from triage.records.store import Store

RUNNING = ("waiting_seconds",)
OPEN = "SELECT 1 FROM jobs WHERE state IN ('queued', 'leased')"


def shown(daemon: Daemon) -> list[dict[str, Any]]:
    """The worklist as viewers see it, but for what runs on by itself."""
    return [{name: value for name, value in entry.items() if name not in RUNNING} for entry in daemon.worklist()]


@pytest.mark.fault(115, 117, 118)
def test_a_study_in_pieces_is_one_row_and_sent_again_whole_changes_nothing_that_anybody_sees(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = make_daemon().serve()
    studies = [generate_uid() for _ in range(3)]
    films = [
        chests.chest(tmp_path / "films", side=256, StudyInstanceUID=study, PatientID=f"INV-{number}")
        for _ in range(2)
        for number, study in enumerate(studies)
    ]
    for film in films:  # each over an association of its own, the studies in turn
        assert send(daemon, film.dataset) == [0]
    wait_for(lambda: not daemon.rows(OPEN), 120)
    before, events = shown(daemon), daemon.rows("SELECT count(*) FROM events")
    assert len(before) == 3
    for again in (reversed(films), films[:2], films):
        assert set(send(daemon, *(film.dataset for film in again))) == {0}
        assert shown(daemon) == before
    assert not daemon.rows(OPEN)
    assert daemon.rows("SELECT count(*) FROM instances") == [(6,)]
    assert daemon.rows("SELECT count(*) FROM events") == events
    assert len(daemon.files("instances")) == 6
    assert sum(line["duplicate"] for line in daemon.lines("instance_received")) == 14


@pytest.mark.fault(116)
def test_a_film_that_comes_after_its_study_was_analysed_can_raise_it_and_after_it_was_read_brings_it_back(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = make_daemon().serve()
    first = chests.chest(tmp_path / "films", side=256)
    more = [chests.chest(tmp_path / "films", side=256, StudyInstanceUID=first.study) for _ in range(2)]
    assert send(daemon, first.dataset) == [0]
    before = daemon.settled(first.study, 120)
    for number, film in enumerate(more):
        assert send(daemon, film.dataset) == [0]
        wait_for(lambda: not daemon.rows(OPEN), 120)
        after = daemon.entry(first.study)
        assert after["status"] == "unread"
        assert after["flagged"] >= before["flagged"] or number == 1
        assert daemon.rows("SELECT count(*) FROM findings") == [(number + 2,)]
        if number == 0:
            assert daemon.run("close", first.study).returncode == 0
            assert daemon.worklist() == []
    assert daemon.rows("SELECT episode FROM studies") == [(1,)]


@pytest.fixture
def sweeps(engine: Engine, tmp_path: Path) -> Sweeps:
    store, spool = Store(engine), Spool(tmp_path / "data", Folder(tmp_path / "data"))
    spool.prepare()
    return Sweeps(
        store=store,
        queue=Queue(store, POLICY),
        spool=spool,
        arrivals=Arrivals(kept=spool.kept, intake=Intake(store, POLICY)),
        ring=lambda: None,
        rule=RetryRule(attempts_max=3, delay_seconds=0.001),
        lease_seconds=60.0,
        pending_seconds=300.0,
        retention_days=7.0,
        free_mib_min=0,
        gauges=Gauges(store=store, queue=Queue(store, POLICY), weights_card=DEFAULT_WEIGHTS),
    )


def stored(sweeps: Sweeps, number: int, days_ago: float = 0.0) -> str:
    content = encoded(data_set(SOPInstanceUID=f"1.2.3.{number}", StudyInstanceUID=f"1.2.{number}"))
    file = sweeps.spool.write(part10_header(CR, f"1.2.3.{number}", "1.2.840.10008.1.2.1"), content)
    sweeps.arrivals.admit(file)
    ago = str(sweeps.store.after(-days_ago * 86400))
    with sweeps.store.writing() as connection:
        named = {"uid": f"1.2.{number}"}
        connection.execute(text(f"UPDATE instances SET received_at = {ago} WHERE study_instance_uid = :uid"), named)
    return file.sha256


def kept(sweeps: Sweeps) -> set[str]:
    return {file.sha256 for file in sweeps.spool.kept.files(0)}


@pytest.mark.fault(122)
def test_retention_takes_files_alone_and_never_a_study_off_the_list_or_a_film_that_is_still_to_be_seen(
    sweeps: Sweeps,
) -> None:
    pending, analysed, read = (stored(sweeps, number, days_ago=80) for number in (1, 2, 3))
    young = stored(sweeps, 4)
    with sweeps.store.writing() as connection:
        done = "UPDATE jobs SET state = 'done' WHERE instance_id IN (SELECT instance_id FROM instances "
        connection.execute(text(done + "WHERE study_instance_uid <> '1.2.1')"))
    Reading(sweeps.store).close("1.2.3")
    sweeps.delete_expired_files()
    assert kept(sweeps) == {pending, young}
    assert {analysed, read}.isdisjoint(kept(sweeps))
    assert {entry.study_instance_uid for entry in Reading(sweeps.store).worklist()} == {"1.2.1", "1.2.2", "1.2.4"}
    assert Reading(sweeps.store).study("1.2.3")["status"] == "read"


@pytest.mark.fault(124, 76)
def test_a_disk_that_is_nearly_full_costs_no_film_its_days(sweeps: Sweeps, capsys: pytest.CaptureFixture[str]) -> None:
    films = {stored(sweeps, number, days_ago=6.9) for number in (1, 2)}
    with sweeps.store.writing() as connection:
        connection.execute(text("UPDATE jobs SET state = 'done'"))
    full = replace(sweeps, free_mib_min=2**40)
    full.watch_disk()
    full.delete_expired_files()
    assert kept(sweeps) == films
    assert "disk_low" in capsys.readouterr().out


@pytest.mark.fault(80, 94)
def test_films_without_rows_are_listed_in_the_order_they_came_and_have_waited_since(sweeps: Sweeps) -> None:
    for number, days_ago in ((1, 1.0), (2, 3.0), (3, 2.0)):
        content = encoded(data_set(SOPInstanceUID=f"1.2.3.{number}", StudyInstanceUID=f"1.2.{number}"))
        file = sweeps.spool.write(part10_header(CR, f"1.2.3.{number}", "1.2.840.10008.1.2.1"), content)
        then = time.time() - days_ago * 86400
        os.utime(file.path, (then, then))
    sweeps.adopt_orphans()
    entries = Reading(sweeps.store).worklist()
    assert [entry.study_instance_uid for entry in entries] == ["1.2.2", "1.2.3", "1.2.1"]
    assert [round(entry.waiting_seconds / 86400, 2) for entry in entries] == [3.0, 2.0, 1.0]
