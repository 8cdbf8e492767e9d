"""Studies that say nothing of their urgency: a real modality worklist (dcmtk's wlmscpfs) is asked for it."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import chests
import pytest
from running import Daemon, free_port, wait_for
from sending import storescu

ENTRY = """
(0008,0050) SH [{number}]
(0010,0010) PN [Invented^Child]
(0010,0020) LO [{patient}]
(0020,000d) UI [1.2.3.{n}]
(0032,1060) LO [Chest]
(0040,0100) SQ
(fffe,e000) -
(0008,0060) CS [CR]
(0040,0001) AE [CR1]
(0040,0002) DA [20260105]
(0040,0003) TM [080000]
(0040,0009) SH [SPS{n}]
(fffe,e00d) -
(fffe,e0dd) -
(0040,1001) SH [RP{n}]
(0040,1003) SH [{priority}]
"""
PRIORITY = "SELECT clinical_priority FROM studies WHERE accession_number = :number"


def write_entry(folder: Path, n: int, number: str, priority: str, patient: str = "INV-1") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lockfile").touch()
    dump = folder / f"{n}.dump"
    dump.write_text(ENTRY.format(n=n, number=number, priority=priority, patient=patient), encoding="ascii")
    subprocess.run(["dump2dcm", "+te", dump, folder / f"{n}.wl"], check=True, capture_output=True)


@contextmanager
def provider(port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Its AE title is the name of the folder."""
    command = ["wlmscpfs", "-d", "-dfr", "-dfp", folder.parent, str(port)]
    with (folder.parent / "provider.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_for(lambda: can_connect(port))
        yield process
    finally:
        process.kill()
        process.wait()


def can_connect(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.fixture
def entries(tmp_path: Path) -> Path:
    return tmp_path / "worklists" / "MWL"


@pytest.fixture(params=["sqlite", "postgresql"])
def daemon(request: pytest.FixtureRequest, make_daemon: Callable[..., Daemon]) -> Daemon:
    own = {} if request.param == "sqlite" else {"database_url": request.getfixturevalue("postgresql_url")}
    made = make_daemon(mwl_peer=f"MWL@127.0.0.1:{free_port()}", mwl_pause_seconds=0.2, mwl_seconds=2, **own)
    made.start("receive")
    made.wait_until_up(web=False)
    return made


def peer_port(daemon: Daemon) -> int:
    return int(str(daemon.settings["mwl_peer"]).rpartition(":")[2])


def send(dcmtk: Path, daemon: Daemon, folder: Path, number: str, **elements: str) -> None:
    film = chests.chest(folder / "films", side=64, AccessionNumber=number, **elements)
    assert storescu(dcmtk, daemon, film.path).returncode == 0


def answered(daemon: Daemon, count: int) -> list[str]:
    return wait_for(
        lambda: found if len(found := [x["outcome"] for x in daemon.lines("order_enquiry")]) >= count else []
    )


def test_what_the_modality_worklist_says_of_an_order_moves_its_study(
    daemon: Daemon, dcmtk: Path, entries: Path, tmp_path: Path
) -> None:
    write_entry(entries, 1, "A1", "STAT")
    write_entry(entries, 2, "A2", "HIGH")
    write_entry(entries, 3, "A3", "STAT", patient="ANOTHER")
    write_entry(entries, 4, "A4", "WHENEVER")
    for number in ("A1", "A2", "A3", "A4", "A5"):
        send(dcmtk, daemon, tmp_path, number)
    with provider(peer_port(daemon), entries):
        daemon.start("orders")
        assert sorted(answered(daemon, 5)) == ["STAT", "URGENT", "nothing", "nothing", "nothing"]
        time.sleep(1)  # time enough to ask again, if it did
        assert len(daemon.lines("order_enquiry")) == 5
    found = [daemon.rows(PRIORITY, number=number) for number in ("A1", "A2", "A3", "A4", "A5")]
    assert found == [[(0,)], [(1,)], [(2,)], [(2,)], [(2,)]]
    assert daemon.rows("SELECT DISTINCT who FROM events WHERE kind = 'prioritised'") == [("MWL",)]
    assert "INV-1" not in daemon.log()


def test_while_it_is_away_films_are_received_and_it_is_told_once(
    daemon: Daemon, dcmtk: Path, entries: Path, tmp_path: Path
) -> None:
    write_entry(entries, 1, "A1", "STAT")
    daemon.start("orders")
    send(dcmtk, daemon, tmp_path, "A1")
    wait_for(lambda: daemon.lines("modality_worklist_unavailable"))
    send(dcmtk, daemon, tmp_path, "A2")
    time.sleep(1.5)
    with provider(peer_port(daemon), entries):
        wait_for(lambda: daemon.rows(PRIORITY, number="A1") == [(0,)])
        assert wait_for(lambda: daemon.lines("modality_worklist_back"))[0]["count"] >= 2
    assert len(daemon.lines("modality_worklist_unavailable")) == 1


def test_a_peer_that_accepts_and_says_nothing_costs_only_its_time(daemon: Daemon, dcmtk: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", peer_port(daemon))) as silent:
        held: list[socket.socket] = []
        threading.Thread(target=lambda: held.append(silent.accept()[0]), daemon=True).start()
        daemon.start("orders")
        send(dcmtk, daemon, tmp_path, "A1")
        wait_for(lambda: daemon.lines("modality_worklist_unavailable"), 20)
        for connection in held:
            connection.close()
    assert daemon.terminate(20)["orders"] == 0


def test_an_accession_number_that_would_be_a_pattern_is_not_asked_for(
    daemon: Daemon, dcmtk: Path, entries: Path, tmp_path: Path
) -> None:
    write_entry(entries, 1, "A1", "STAT")
    for number in ("A*", "A?", "A1"):
        send(dcmtk, daemon, tmp_path, number)
    with provider(peer_port(daemon), entries):
        daemon.start("orders")
        assert answered(daemon, 3) == ["nothing", "nothing", "STAT"]
    heard = (entries.parent / "provider.log").read_text(encoding="utf-8", errors="replace")
    assert "[A1]" in heard
    assert "[A*" not in heard
    assert "[A?" not in heard
