"""What is received while the database is away: kept, told Success within bounds, entered once and in order."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import Mock

import pytest
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy import Engine, func, select, text

from daemon.arrival import Arrivals
from daemon.dicom.association import StoreRequest
from daemon.folder import Folder
from daemon.ledger import Ledger, is_open
from daemon.outage import Bounds, Outage
from daemon.receiver import Receiver
from daemon.spool import Spool
from daemon.telemetry import Pseudonym
from making import CR, POLICY, data_set, encoded
from stopping import Server, own_server
from triage.records import schema
from triage.records.intake import Intake
from triage.records.postgresql import Site
from triage.records.reading import Reading
from triage.records.store import Store, open_engine
from triage.records.tables import instances, jobs

BOUNDS = Bounds(instances=20, seconds=600)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with own_server() as server:
        yield server


@pytest.fixture
def engine(server: Server) -> Iterator[Engine]:
    """Migrated and empty."""
    engine = open_engine(server.url, Site(seconds=1.0))
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    schema.upgrade(engine)
    yield engine
    engine.dispose()


@dataclass
class Ward:
    """A receiver with its ledger."""

    engine: Engine
    data_dir: Path
    bounds: Bounds = BOUNDS
    outage: Outage = field(init=False)
    receiver: Receiver = field(init=False)

    def __post_init__(self) -> None:
        spool = Spool(self.data_dir, Folder(self.data_dir))
        spool.prepare()
        store = Store(self.engine)
        self.outage = Outage(Intake(store, POLICY), spool.kept, Ledger(self.data_dir), self.bounds)
        arrivals = Arrivals(kept=spool.kept, intake=self.outage)
        ringer = Mock()  # PostgreSQL rings by itself
        self.receiver = Receiver(spool=spool, arrivals=arrivals, ringer=ringer, pseudonym=Pseudonym(spool.root))

    def store(self, number: int, command: str = "", calling_ae: str = "PACS", **changes: str | None) -> int:
        made = data_set(**{"SOPInstanceUID": f"1.2.3.{number}", "StudyInstanceUID": f"1.2.{number}", **changes})
        request = StoreRequest(
            calling_ae=calling_ae,
            called_ae="TRIAGE",
            address="127.0.0.1",
            sop_class_uid=CR,
            sop_instance_uid=command or f"1.2.3.{number}",
            transfer_syntax_uid=ExplicitVRLittleEndian,
        )
        deposit = self.receiver.begin(request)
        deposit.write(memoryview(encoded(made)))
        return deposit.finish()

    @property
    def listed(self) -> list[str]:
        return [entry.study_instance_uid for entry in Reading(Store(self.engine)).worklist()]

    def caught_up(self) -> bool:
        return not is_open(self.data_dir)


@pytest.fixture
def site(engine: Engine, tmp_path: Path) -> Iterator[Ward]:
    site = Ward(engine, tmp_path / "data")
    site.outage.start()
    yield site
    site.outage.stop()


def until(ask: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not ask():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.fault(86)
def test_while_the_database_is_away_success_is_said_and_all_are_entered_once_in_order(
    server: Server, site: Ward
) -> None:
    assert site.store(1) == 0
    server.stop()
    assert [site.store(number) for number in range(2, 8)] == [0] * 6
    assert site.store(4) == 0  # sent again
    server.start()
    until(site.caught_up)
    assert site.store(8) == 0
    assert site.listed == [f"1.2.{number}" for number in range(1, 9)]
    with site.engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(jobs)).scalar_one() == 8
        assert set(connection.execute(select(instances.c.calling_ae)).scalars()) == {"PACS"}


@pytest.mark.fault(87)
def test_a_frozen_server_is_waited_for_once_not_by_every_instance(server: Server, site: Ward) -> None:
    assert site.store(1) == 0
    with server.frozen():
        assert site.store(2) == 0
        began = time.monotonic()
        assert [site.store(number) for number in range(3, 13)] == [0] * 10
        assert time.monotonic() - began < 10  # each alone would have waited longer than that for the server
    until(site.caught_up)
    assert site.listed == [f"1.2.{number}" for number in range(1, 13)]


def test_a_study_has_waited_since_it_came_not_since_the_database_was_back(server: Server, site: Ward) -> None:
    server.stop()
    assert site.store(1) == 0
    time.sleep(2.0)
    server.start()
    until(site.caught_up)
    (entry,) = Reading(Store(site.engine)).worklist()
    with site.engine.connect() as connection:
        since = "SELECT extract(epoch FROM statement_timestamp() - received_at) FROM studies"
        assert float(connection.execute(text(since)).scalar_one()) >= 2.0
    assert entry.waiting_since == entry.received_at


def test_what_would_be_refused_is_refused_and_listed_when_it_can_be(server: Server, site: Ward) -> None:
    server.stop()
    assert site.store(1) == 0
    assert site.store(2, command="1.2.3.999") == 0xA900
    assert site.store(3, SOPInstanceUID=None) == 0xC000
    server.start()
    until(site.caught_up)
    entries = {entry.study_instance_uid: entry.reason for entry in Reading(Store(site.engine)).worklist()}
    assert entries == {"1.2.1": None, "1.2.2": "quarantined", "1.2.3": "quarantined"}
    assert len(list(site.receiver.spool.kept.files(0, quarantined=True))) == 2


@pytest.mark.fault(86)
@pytest.mark.parametrize("bounds", [Bounds(instances=3, seconds=600), Bounds(instances=100, seconds=0.0)])
def test_beyond_its_bounds_an_outage_is_out_of_resources(
    server: Server, engine: Engine, tmp_path: Path, bounds: Bounds
) -> None:
    site = Ward(engine, tmp_path / "data", bounds)
    site.outage.start()
    server.stop()
    answers = [site.store(number) for number in range(5)]
    server.start()
    until(site.caught_up)
    site.outage.stop()
    assert answers == ([0, 0, 0, 0xA700, 0xA700] if bounds.instances == 3 else [0xA700] * 5)
    assert site.listed == ["1.2.0", "1.2.1", "1.2.2"][: answers.count(0)]


def test_a_database_that_refuses_is_no_outage(site: Ward) -> None:
    with site.engine.begin() as connection:
        connection.execute(text("ALTER TABLE jobs RENAME TO elsewhere"))
    assert site.store(1) == 0xA700
    assert site.caught_up()


def enter_and_die(url: str, data_dir: Path, after: int) -> None:
    """A receiver that is killed in the middle of entering."""
    site = Ward(open_engine(url), data_dir)
    entered: list[object] = []
    real = site.outage._enter

    def enter(entry: object, ahead: float) -> None:
        real(entry, ahead)  # type: ignore[arg-type] # an entry
        entered.append(entry)
        if len(entered) == after:
            os.kill(os.getpid(), signal.SIGKILL)

    site.outage._enter = enter  # type: ignore[method-assign]
    site.outage.start()
    threading.Event().wait(30)


def test_kill_9_while_entering_loses_and_doubles_nothing(server: Server, engine: Engine, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    site = Ward(engine, data_dir)
    site.outage._begin(OSError())  # type: ignore[arg-type] # the first to notice
    assert [site.store(number) for number in range(9)] == [0] * 9
    os.close(site.outage._ledger._descriptor)  # dead, as far as others can see
    context = multiprocessing.get_context("spawn")
    for after in (3, 5):
        process = context.Process(target=enter_and_die, args=(server.url, data_dir, after))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    last = Ward(engine, data_dir)
    last.outage.start()
    until(last.caught_up)
    last.outage.stop()
    assert last.listed == [f"1.2.{number}" for number in range(9)]
    with engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(instances)).scalar_one() == 9
    assert list((data_dir / "ledger").iterdir()) == []


def test_a_torn_last_line_was_promised_to_nobody(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.note("a" * 64, 10, "PACS")
    with ledger.path.open("ab") as file:
        file.write(b'{"sha256": "bbbb')
    assert [entry.sha256 for entry in ledger.entries()] == ["a" * 64]
    os.close(ledger._descriptor)
    heir = Ledger(tmp_path)
    assert heir.inherit() == 1
    heir.note("c" * 64, 10, "PACS")
    assert [entry.sha256[0] for entry in heir.entries()] == ["a", "c"]
    heir.close()


def test_the_ledger_of_a_process_that_lives_is_left_alone(tmp_path: Path) -> None:
    alive, other = Ledger(tmp_path), Ledger(tmp_path)
    alive.note("a" * 64, 10, "PACS")
    assert other.inherit() == 0
    assert is_open(tmp_path)
    for ledger in (alive, other):
        ledger.close()


def test_a_ledger_names_no_patient(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.note("a" * 64, 10, "PACS")
    (line,) = ledger.path.read_text().splitlines()
    assert json.loads(line).keys() == {"sha256", "size_bytes", "calling_ae", "noted_at"}
    ledger.close()
