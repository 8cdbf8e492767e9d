"""Status says how the daemon stands, and its exit code whether somebody has to look."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from sqlalchemy import Engine, text, update

from daemon.house import House
from daemon.ledger import Ledger
from daemon.notation import this_host
from daemon.operating.status import Status, lines, status
from daemon.operating.verdict import Grade, exit_code
from daemon.presence import appear
from daemon.pulse import SILENT_SECONDS
from daemon.settings import Settings
from making import finding, received
from triage.errors import Reason, TriageError
from triage.policy import Policy, not_analysed
from triage.records.intake import Intake
from triage.records.processes import Processes
from triage.records.queue import Queue, Result
from triage.records.store import Store
from triage.records.tables import processes
from triage.study import Analysis, Finding

POLICY = Policy()


@pytest.fixture
def house(engine: Engine, tmp_path: Path) -> House:
    """A receiver alone runs, so that something does."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    appear(folder, "receiver")
    url = engine.url.render_as_string(hide_password=False)
    return House(Settings(data_dir=folder, database_url=url, disk_free_mib_min=1), POLICY, "status")


def worse(found: Status) -> list[str]:
    return [f"{each.grade} {each.words}" for each in found.verdicts if each.grade is not Grade.OK]


def test_of_a_quiet_day_nothing_is_said(house: House) -> None:
    found = status(house)
    assert worse(found) == []
    assert exit_code(found.verdicts) == 0
    assert found.figures
    assert (found.figures.state.received_at, found.figures.policy) == (None, None)
    assert "worklist   0 open" in "\n".join(lines(found))


def test_figures_are_those_of_the_rows(house: House, engine: Engine) -> None:
    intake, queue = Intake(Store(engine), POLICY), Queue(Store(engine), POLICY)
    for number in range(1, 6):
        intake.receive(received(number))
    intake.receive(received(6, not_analysed=Reason.UNSUPPORTED_SOP_CLASS))
    first, second = queue.claim("worker", 60.0, most=2)
    queue.finish(
        [
            Result(
                job=first, finding=Finding(reason=Reason.AGE_UNKNOWN), priority=not_analysed(Reason.AGE_UNKNOWN, POLICY)
            )
        ]
    )
    shown = dataclasses.replace(
        not_analysed(Reason.AGE_UNKNOWN, POLICY), analysis=Analysis.ANALYSED, reason=None, flagged=True
    )
    queue.finish([Result(job=second, finding=finding(0.9), priority=shown)])
    queue.claim("worker", 60.0)
    with engine.begin() as connection:
        connection.execute(text("UPDATE studies SET overdue_at = received_at WHERE study_instance_uid = '1.2.5'"))
        connection.execute(
            text("UPDATE instances SET received_at = '2020-01-01 00:00:00' WHERE sop_instance_uid = '1.2.3.6'")
        )
    figures = status(house).figures
    assert figures
    assert (figures.state.jobs, figures.received) == ({"queued": 2, "leased": 1}, 5)
    assert figures.not_analysed == {"age_unknown": 1}, "of the last day alone"
    assert figures.state.not_analysed == {"age_unknown": 1, "unsupported_sop_class": 1}
    state = figures.state
    assert (state.open_studies, state.flagged, state.overdue, state.pending) == (6, 1, 1, 3)
    assert figures.last_analysed_at
    assert figures.policy == "default-1"
    json.dumps(status(house).told(), default=str)


def test_a_queue_that_nobody_works_off_has_to_be_looked_at(house: House, engine: Engine) -> None:
    Intake(Store(engine), POLICY).receive(received(1))
    for seconds, code in ((90, 1), (900, 2)):
        earlier = Store(engine).clock.after.format(seconds=-seconds)
        with engine.begin() as connection:
            connection.execute(text(f"UPDATE jobs SET available_at = {earlier}"))
        found = status(house)
        assert exit_code(found.verdicts) == code
        assert "films wait for analysis" in worse(found)[0]


def test_what_we_could_not_analyse_for_our_own_fault_is_worth_a_look(house: House, engine: Engine) -> None:
    Intake(Store(engine), POLICY).receive(received(1))
    (job,) = Queue(Store(engine), POLICY).claim("worker", 60.0)
    Queue(Store(engine), POLICY).defer(job, Reason.MODEL_UNAVAILABLE, 30.0)
    assert "1 model_unavailable" in worse(status(house))[0]


def test_what_waits_in_the_ledger_is_counted(house: House) -> None:
    ledger = Ledger(house.settings.data_dir)
    ledger.note("a" * 64, 1, "PACS")
    found = status(house)
    ledger.close()
    assert found.ledger == 1
    assert "1 instances came while the database was away" in worse(found)[0]


def test_a_full_disk_a_missing_network_and_no_process_have_to_be_mended(house: House, tmp_path: Path) -> None:
    full = dataclasses.replace(house, settings=house.settings.model_copy(update={"disk_free_mib_min": 2**40}))
    assert worse(status(full))[0].startswith("fail ")
    lost = house.settings.model_copy(update={"weights_card": tmp_path / "none.json"})
    assert "none.json" in worse(status(dataclasses.replace(house, settings=lost)))[0]
    empty = house.settings.model_copy(update={"data_dir": tmp_path / "nowhere"})
    assert "no process of this data folder" in worse(status(dataclasses.replace(house, settings=empty)))[0]


def test_processes_of_other_machines_are_those_that_get_on(house: House, engine: Engine, tmp_path: Path) -> None:
    known = Processes(Store(engine))
    for name in ("other/worker-1", "hangs/worker-1", f"{this_host()}/killed"):
        known.beat(name, "worker")
    with engine.begin() as connection:
        connection.execute(
            update(processes)
            .where(processes.c.process == "hangs/worker-1")
            .values(beat_at=Store(engine).after(-2 * SILENT_SECONDS))
        )
    nowhere = house.settings.model_copy(update={"data_dir": tmp_path / "nowhere"})
    found = status(dataclasses.replace(house, settings=nowhere))
    assert found.elsewhere == ["other/worker-1"]
    assert worse(found) == [], "none has to run here"
    assert "  elsewhere: other/worker-1" in lines(found)


def test_a_database_that_is_away_is_told_with_what_is_known_without_it(house: House) -> None:
    url = "postgresql://triage:geheim@127.0.0.1:1/triage"
    away = dataclasses.replace(house, settings=house.settings.model_copy(update={"database_url": url}))
    found = status(away)
    assert found.figures is None
    assert worse(found)[0].startswith("warn database_url postgresql://triage:***@127.0.0.1")
    assert "geheim" not in "\n".join(lines(found))


def test_no_database_is_begun_by_looking(tmp_path: Path) -> None:
    with pytest.raises(TriageError, match="no database at"):
        status(House(Settings(data_dir=tmp_path / "data"), POLICY))
    assert list(tmp_path.iterdir()) == []
