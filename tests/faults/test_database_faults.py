"""The database is locked, full or half-open: what is acknowledged is listed, and no list is said to be empty."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import chests
import pytest
from running import Daemon, wait_for
from sending import send

from faults.disks import small_disk
from making import CARD, POLICY, finding, received
from stopping import own_server
from triage.policy import judge
from triage.records import schema
from triage.records.intake import Intake
from triage.records.queue import Queue, Result
from triage.records.store import Store, open_engine


class Proxy:
    """Before a server: passes on what both ends say, until it falls silent. Connections stay, and nothing comes."""

    def __init__(self, port: int) -> None:
        self._to = ("127.0.0.1", port)
        self._passing = threading.Event()
        self._passing.set()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(self._to)
                self._ends += [client, server]
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, here: socket.socket, there: socket.socket) -> None:
        with suppress(OSError):
            while part := here.recv(65536):
                self._passing.wait()
                there.sendall(part)
        for each in (here, there):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def silent(self) -> Iterator[None]:
        self._passing.clear()
        try:
            yield
        finally:
            self._passing.set()

    def close(self) -> None:
        self._passing.set()
        self._listening.close()
        for each in self._ends:
            each.close()


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """By somebody who begins to write and does not end."""
    engine = open_engine(f"sqlite:///{file}")
    with engine.connect() as connection, connection.begin():
        yield
    engine.dispose()


def assert_says_that_it_is_away(daemon: Daemon) -> None:
    for path in ("/api/worklist", "/"):
        answer = daemon.get(path)
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert "entries" not in answer.text


@pytest.mark.fault(85)
@pytest.mark.timeout(600)
def test_a_database_that_stays_locked_is_out_of_resources_in_time_for_every_sender_and_can_be_read(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    before, *others = (chests.chest(tmp_path / "films", side=160) for _ in range(5))
    daemon = make_daemon()
    for command in ("receive", "web"):
        daemon.start(command)
    daemon.wait_until_up()
    assert send(daemon, before.dataset) == [0]
    with locked(daemon.data_dir / "triage.db"), ThreadPoolExecutor(4) as senders:
        answers = senders.map(lambda film: send(daemon, film.dataset), others)
        assert daemon.entry(before.study)["analysis"] == "pending"
        assert list(answers) == [[0xA700]] * 4  # none of them has hung up: each was answered within a minute
    assert daemon.rows("SELECT study_instance_uid FROM studies") == [(before.study,)]
    assert [send(daemon, film.dataset) for film in others] == [[0]] * 4
    assert daemon.rows("SELECT count(*) FROM instances") == [(5,)]
    assert {line["error"] for line in daemon.lines("instance_refused")} == {"OperationalError"}


@pytest.mark.fault(85)
@pytest.mark.timeout(600)
def test_a_worker_goes_on_when_the_lock_is_gone(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    films = [chests.chest(tmp_path / "films", side=160) for _ in range(2)]
    daemon = make_daemon(lease_seconds=5)
    for command in ("receive", "schedule"):
        daemon.start(command)
    daemon.wait_until_up(web=False)
    assert [send(daemon, film.dataset) for film in films] == [[0], [0]]
    with locked(daemon.data_dir / "triage.db"):
        daemon.start("work")
        daemon.wait_for_log("database_unavailable")
    wait_for(lambda: daemon.rows("SELECT count(*) FROM studies WHERE analysis = 'analysed'") == [(2,)], 120)
    assert daemon.ended() == []


@pytest.mark.fault(86, 87)
@pytest.mark.timeout(600)
def test_behind_a_half_open_connection_receiving_goes_on_to_its_limit_and_no_list_is_said_to_be_empty(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    films = [chests.chest(tmp_path / "films", side=160) for _ in range(6)]
    with own_server() as server:
        proxy = Proxy(server.port)
        url = server.url.replace(f":{server.port}/", f":{proxy.port}/")
        daemon = make_daemon(database_url=url, database_seconds=2, outage_instances_max=3, lease_seconds=10)
        for command in ("receive", "web", "work", "schedule"):
            daemon.start(command)
        daemon.wait_until_up()
        assert send(daemon, films[0].dataset) == [0]
        daemon.wait_for_log("study_ranked", 120)
        with proxy.silent():
            assert [send(daemon, film.dataset) for film in films[1:5]] == [[0], [0], [0], [0xA700]]
            assert_says_that_it_is_away(daemon)
            assert daemon.live()
        daemon.wait_for_log("outage_over", 120)
        assert send(daemon, films[5].dataset) == [0]
        acknowledged = {film.study for film in (*films[:4], films[5])}
        assert {entry["study_instance_uid"] for entry in daemon.worklist()} == acknowledged
        for study in acknowledged:
            assert daemon.settled(study, 120)["analysis"] == "analysed"
        assert daemon.ended() == []
        daemon.stop()
        proxy.close()


@pytest.mark.fault(86, 88)
def test_a_receiver_whose_connections_are_ended_behind_its_back_asks_again_and_says_success(
    make_daemon: Callable[..., Daemon], tmp_path: Path, postgresql_url: str
) -> None:
    films = [chests.chest(tmp_path / "films", side=160) for _ in range(4)]
    daemon = make_daemon(database_url=postgresql_url)
    daemon.start("receive")
    daemon.wait_until_up(web=False)
    ending = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name LIKE 'triage receiver%'"
    )
    for film in films:
        assert send(daemon, film.dataset) == [0]
        assert daemon.rows(ending)[0][0] >= 1
    wait_for(lambda: daemon.rows("SELECT count(*) FROM instances") == [(4,)])
    assert daemon.lines("instance_refused") == []


@pytest.mark.fault(88)
def test_workers_that_end_the_same_studies_in_opposite_orders_never_wait_for_each_other(postgresql_url: str) -> None:
    engine = open_engine(postgresql_url)
    schema.upgrade(engine)
    store = Store(engine)
    intake, rounds = Intake(store, POLICY), 20
    for number in range(rounds * 4):
        intake.receive(received(number, study=number % 2))
    at_once = threading.Barrier(2)

    def work(name: str) -> int:
        queue, done = Queue(store, POLICY), 0
        for _ in range(rounds):
            jobs = queue.claim(name, 60, 2)[:: 1 if name == "first" else -1]
            at_once.wait(30)
            found = finding(0.9)
            results = [Result(job=job, finding=found, priority=judge(found, card=CARD, policy=POLICY)) for job in jobs]
            done += sum(priority is not None for priority in queue.finish(results))
        return done

    with ThreadPoolExecutor(2) as workers:
        assert sum(workers.map(work, ("first", "second"))) == rounds * 4
    engine.dispose()


def fill(disk: Path) -> Path:
    """To its last byte; the file that did it."""
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        for size in (2**20, 4096):
            with suppress(OSError):
                while file.write(b"\1" * size) == size:
                    pass
    assert shutil.disk_usage(disk).free == 0
    return ballast


@pytest.mark.fault(90)
def test_a_database_without_room_takes_nothing_in_and_is_read_also_by_who_starts_then(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    before, lost = (chests.chest(tmp_path / "films", side=160) for _ in range(2))
    with small_disk(tmp_path / "disk", "size=4m") as disk:
        daemon = make_daemon(database_url=f"sqlite:///{disk}/triage.db")
        for command in ("receive", "web"):
            daemon.start(command)
        daemon.wait_until_up()
        assert send(daemon, before.dataset) == [0]
        ballast = fill(disk)
        assert send(daemon, lost.dataset) == [0xA700]
        daemon.kill("web")
        daemon.start("web")
        wait_for(daemon.live)
        assert [entry["study_instance_uid"] for entry in daemon.worklist()] == [before.study]
        ballast.unlink()
        assert send(daemon, lost.dataset) == [0]
        assert [entry["study_instance_uid"] for entry in daemon.worklist()] == [before.study, lost.study]
        assert daemon.processes["receive"].poll() is None
        daemon.stop()


@pytest.mark.fault(90, 86)
def test_a_postgresql_whose_disk_is_full_is_away_and_gets_everything_when_there_is_room(
    make_daemon: Callable[..., Daemon], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films = [chests.chest(tmp_path / "films", side=160) for _ in range(3)]
    # Not in pytest's own folder: as root the server runs as another user, who may not look in there.
    with tempfile.TemporaryDirectory(prefix="triage-disk-") as folder:
        Path(folder).chmod(0o755)
        with small_disk(Path(folder) / "disk", "mode=0755,size=256m") as disk:
            monkeypatch.setattr(tempfile, "tempdir", str(disk))
            with own_server() as server:
                monkeypatch.undo()
                daemon = make_daemon(database_url=server.url, database_seconds=5)
                daemon.start("receive")
                daemon.wait_until_up(web=False)
                ballast = fill(disk)
                assert [send(daemon, film.dataset) for film in films] == [[0]] * 3
                assert daemon.lines("outage_began")[0]["error"] == "OperationalError"
                assert daemon.rows("SELECT count(*) FROM instances") == [(0,)]
                ballast.unlink()
                daemon.wait_for_log("outage_over", 120)
                assert daemon.rows("SELECT count(*) FROM instances") == [(3,)]
                daemon.stop()
