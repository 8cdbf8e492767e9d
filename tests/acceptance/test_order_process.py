"""Orders over HL7 into a real process: acknowledged is committed, and no peer can stop the others."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import chests
import psutil
import pytest
from hl7.client import MLLPClient
from running import Daemon, free_port, wait_for
from sending import storescu

import hl7_orders

ORDERS = "SELECT clinical_priority FROM orders WHERE accession_number = :number"
STUDY = "SELECT clinical_priority FROM studies WHERE accession_number = :number"


@pytest.fixture(params=["sqlite", "postgresql"])
def daemon(request: pytest.FixtureRequest, make_daemon: Callable[..., Daemon]) -> Daemon:
    """Without a process yet; small limits."""
    own = {} if request.param == "sqlite" else {"database_url": request.getfixturevalue("postgresql_url")}
    return make_daemon(
        hl7_port=free_port(),
        hl7_message_kib_max=64,
        hl7_message_seconds=2,
        hl7_idle_seconds=4,
        hl7_connections_max=8,
        **own,
    )


@pytest.fixture
def port(daemon: Daemon) -> int:
    take_orders(daemon)
    return int(str(daemon.settings["hl7_port"]))


def take_orders(daemon: Daemon) -> None:
    before = len(daemon.lines("taking_orders"))
    daemon.start("orders")
    wait_for(lambda: len(daemon.lines("taking_orders")) > before)


def say(port: int, *messages: str | bytes) -> list[str]:
    """The codes of the answers."""
    with hl7_orders.sender(port) as peer:
        return [hl7_orders.code(peer.say(message)) for message in messages]


def test_orders_before_and_after_the_images_reach_the_worklist(
    daemon: Daemon, port: int, dcmtk: Path, tmp_path: Path
) -> None:
    daemon.start("receive")
    daemon.wait_until_up(web=False)
    assert say(port, hl7_orders.order("A1", "S", patient_id="INV-1")) == ["AA"]
    for number in ("A1", "A2"):
        film = chests.chest(tmp_path / "films", side=64, AccessionNumber=number, PatientID="INV-1")
        assert storescu(dcmtk, daemon, film.path).returncode == 0
    assert daemon.rows(STUDY, number="A1") == [(0,)]
    assert say(port, hl7_orders.imaging_order(["A2"], "A", patient_id="INV-1")) == ["AA"]
    assert daemon.rows(STUDY, number="A2") == [(1,)]
    assert say(port, hl7_orders.order("A1", "R", patient_id="INV-1", control="XO")) == ["AA"]
    shown = daemon.rows("SELECT accession_number FROM reading_worklist ORDER BY rank")
    assert shown == [("A2",), ("A1",)]
    assert "INV-1" not in daemon.log()
    assert "A2" not in {line.get("problem") for line in daemon.lines("order_message")}


def test_another_implementations_client_is_answered_on_one_connection(daemon: Daemon, port: int) -> None:
    with MLLPClient("127.0.0.1", port) as client:
        answers = [client.send_message(hl7_orders.order(f"A{n}")) for n in range(20)]
    assert all(b"MSA|AA|" in answer for answer in answers)
    assert daemon.rows("SELECT count(*) FROM orders") == [(20,)]


def test_nothing_that_is_sent_stops_it_and_what_is_refused_is_listed(daemon: Daemon, port: int) -> None:
    bad = [
        b"",
        b"\x00\xff" * 100,
        hl7_orders.msh("ADT^A01") + "\rPID|||SECRET-1\r",
        hl7_orders.order("", "S", patient_id="SECRET-2").replace("|FL1|", "||").replace("|PL1", "|"),
        hl7_orders.order("A9", "WHENEVER", patient_id="SECRET-3"),
        hl7_orders.order("A9").replace("ORC|NW", "ORC|"),
    ]
    assert say(port, *bad, bad[-1], hl7_orders.order("A1")) == ["AR", "AR", "AR", "AE", "AE", "AE", "AE", "AA"]
    listed = daemon.run("orders-refused")
    assert (listed.returncode, listed.stdout.count("\n")) == (0, 7)
    assert "6 refused" in listed.stdout
    assert "2x  ORC-1: no order control" in listed.stdout
    assert "SECRET" not in listed.stdout + listed.stderr + daemon.log()
    assert "SECRET-3" in daemon.run("orders-refused", "--show").stdout


def test_a_message_of_ten_megabytes_is_refused_without_being_held_and_the_connection_goes_on(
    daemon: Daemon, port: int
) -> None:
    process = daemon.child("orders")
    say(port, hl7_orders.order("A0"))
    before = process.memory_info().rss
    large = hl7_orders.order("A1") + "NTE|1||" + "x" * 10_000_000
    assert say(port, large, hl7_orders.order("A2")) == ["AR", "AA"]
    assert process.memory_info().rss - before < 8 * 2**20
    assert daemon.rows(ORDERS, number="A1") == []
    assert daemon.rows("SELECT length(content) FROM hl7_messages WHERE content IS NOT NULL") == [(4096,)]


def test_half_a_message_is_none_and_begun_anew_it_is_one(daemon: Daemon, port: int) -> None:
    half = hl7_orders.framed(hl7_orders.order("A1"))[:-9]
    with hl7_orders.sender(port) as peer:
        peer.connection.sendall(half)
    with hl7_orders.sender(port) as peer:
        peer.connection.sendall(half)
        assert hl7_orders.code(peer.say(hl7_orders.order("A2"))) == "AA"
        for byte in hl7_orders.framed(hl7_orders.order("A3")):  # byte by byte, and line ends between frames
            peer.connection.sendall(bytes([byte]))
        assert hl7_orders.code(peer.hear()) == "AA"
        peer.connection.sendall(b"\r\n\r\n" + hl7_orders.framed(hl7_orders.order("A4")) * 2)
        assert [hl7_orders.code(peer.hear()), hl7_orders.code(peer.hear())] == ["AA", "AA"]
    found = daemon.rows("SELECT accession_number FROM orders ORDER BY accession_number")
    assert found == [("A2",), ("A3",), ("A4",)]
    wait_for(lambda: "half_message" in {line["outcome"] for line in daemon.lines("order_connection")})


def test_silent_and_slow_peers_are_closed_and_others_served_meanwhile(daemon: Daemon, port: int) -> None:
    with hl7_orders.sender(port) as silent, hl7_orders.sender(port) as slow, hl7_orders.sender(port) as garbled:
        slow.connection.sendall(b"\x0bMSH|")
        garbled.connection.sendall(b"GET / HTTP/1.1\r\n")
        assert say(port, hl7_orders.order("A1")) == ["AA"]
        assert [peer.hear() for peer in (garbled, slow, silent)] == ["", "", ""]
    outcomes = [line["outcome"] for line in daemon.lines("order_connection")]
    assert sorted(outcomes) == ["closed", "garbage", "silent", "slow"]


def test_one_address_cannot_take_all_connections(daemon: Daemon, port: int) -> None:
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(6)]
    try:
        refused = wait_for(lambda: daemon.lines("order_sender_refused"))
        assert refused[0]["problem"] == "too many connections from this address"
        with hl7_orders.sender(port, source="127.0.0.2") as peer:
            assert hl7_orders.code(peer.say(hl7_orders.order("A1"))) == "AA"
    finally:
        for connection in held:
            connection.close()
    wait_for(lambda: say_or_nothing(port) == ["AA"])


def say_or_nothing(port: int) -> list[str]:
    with suppress(OSError):
        return say(port, hl7_orders.order("A2"))
    return []


def test_killed_before_its_answer_was_read_the_message_sent_again_has_no_second_effect(
    daemon: Daemon, port: int, dcmtk: Path, tmp_path: Path
) -> None:
    daemon.start("receive")
    daemon.wait_until_up(web=False)
    film = chests.chest(tmp_path / "films", side=64, AccessionNumber="A1", PatientID="INV-1")
    assert storescu(dcmtk, daemon, film.path).returncode == 0
    message = hl7_orders.order("A1", "S", control_id="M1")
    with hl7_orders.sender(port) as peer:
        peer.connection.sendall(hl7_orders.framed(message))
        wait_for(lambda: daemon.rows(ORDERS, number="A1"), pause=0.001)
        daemon.kill("orders")
    take_orders(daemon)
    assert say(port, hl7_orders.order("A1", "A", control_id="M2"), message) == ["AA", "AA"]
    assert daemon.rows(STUDY, number="A1") == [(1,)]
    assert daemon.rows("SELECT count(*) FROM events WHERE kind = 'prioritised'") == [(2,)]


@pytest.mark.timeout(200)
def test_whatever_was_acknowledged_is_committed_however_often_it_is_killed(daemon: Daemon, port: int) -> None:
    promised: list[str] = []
    over = threading.Event()

    def send() -> None:
        number = 0
        while not over.is_set():
            with suppress(OSError), hl7_orders.sender(port, seconds=5) as peer:
                while not over.is_set() and hl7_orders.code(
                    peer.say(hl7_orders.order(f"A{number}", control_id=str(number)))
                ):
                    promised.append(f"A{number}")
                    number += 1
            time.sleep(0.02)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        for _ in range(4):
            before = len(promised)
            wait_for(lambda before=before: len(promised) > before + 30)
            daemon.kill("orders")
            take_orders(daemon)
    finally:
        over.set()
        thread.join()
    kept = {row[0] for row in daemon.rows("SELECT accession_number FROM orders")}
    assert len(promised) > 120
    assert set(promised) <= kept
    assert daemon.rows("SELECT count(*) FROM hl7_messages") == [(len(kept),)]


def test_it_stops_when_asked_while_peers_are_connected(daemon: Daemon, port: int) -> None:
    with hl7_orders.sender(port) as peer:
        assert hl7_orders.code(peer.say(hl7_orders.order("A1"))) == "AA"
        assert daemon.terminate() == {"orders": 0}
        assert peer.hear() == ""


def test_serve_starts_it_where_a_port_is_set(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon(hl7_port=free_port()).serve()
    daemon.wait_for_log("taking_orders")
    assert say(int(str(daemon.settings["hl7_port"])), hl7_orders.order("A1")) == ["AA"]
    assert isinstance(daemon.child("orders"), psutil.Process)


def test_a_port_that_is_taken_is_told_in_one_line(make_daemon: Callable[..., Daemon]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        answer = make_daemon(hl7_port=taken.getsockname()[1]).run("orders")
    assert answer.returncode == 2
    assert "cannot listen on 127.0.0.1" in answer.stderr
