"""Who may send orders, and what is said while the database is away."""

from __future__ import annotations

import socket
from ipaddress import ip_network

import pytest

import hl7_orders
from daemon.absence import Absence
from daemon.orders.desk import Desk
from daemon.orders.framing import Frame, Limits
from daemon.orders.listener import Listener
from daemon.settings import Settings
from stopping import own_server
from triage.records import schema
from triage.records.orders import Orders
from triage.records.postgresql import Site
from triage.records.store import Store, open_engine

FIELDS = Settings.model_fields["hl7_accession_fields"].default


@pytest.mark.parametrize(
    ("address", "is_admitted"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("10.2.0.1", False),
        ("fe80::1%eth0", False),
    ],
)
def test_only_listed_addresses_and_this_machine_may_send(address: str, *, is_admitted: bool) -> None:
    networks = [ip_network("10.1.0.0/16")]
    refused: list[str] = []
    listener = Listener(
        host="127.0.0.1",
        port=0,
        networks=networks,
        limits=Limits(),
        answer=lambda _, __: None,
        on_refused=lambda who, _: refused.append(who),
    )
    assert listener.admit(address) is is_admitted
    assert refused == ([] if is_admitted else [address])


def test_a_sender_that_is_gone_while_an_answer_is_on_its_way_holds_no_connection_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the kernel was told of the connection: to see it take two minutes to give up would take two minutes."""
    told: dict[int, int] = {}
    plain = socket.socket.setsockopt

    def setsockopt(connection: socket.socket, level: int, option: int, value: int) -> None:
        if level == socket.IPPROTO_TCP:
            told[option] = value
        plain(connection, level, option, value)

    monkeypatch.setattr(socket.socket, "setsockopt", setsockopt)
    listener = Listener(host="127.0.0.1", port=0, networks=[], limits=Limits(), answer=lambda _, __: None)
    listener.start()
    try:
        with socket.create_connection(("127.0.0.1", listener.port), timeout=10) as sender:
            sender.sendall(b"\x0bMSH|\x1c\r")
            assert sender.recv(1) == b""
    finally:
        listener.stop(1.0)
    assert told[socket.TCP_USER_TIMEOUT] == 120_000


def test_while_the_database_is_away_nothing_is_acknowledged_and_afterwards_all_is() -> None:
    frame = Frame(hl7_orders.order("A1").encode(), is_whole=True)
    garbage = Frame(b"HELLO", is_whole=True)
    with own_server() as server:
        engine = open_engine(server.url, Site(seconds=1))
        schema.upgrade(engine)
        desk = Desk(orders=Orders(Store(engine)), absence=Absence(), accession_fields=FIELDS)
        with server.frozen():
            assert [desk.answer(each, "10.0.0.1") for each in (frame, garbage)] == [None, None]
        server.stop("immediate")
        assert [desk.answer(each, "10.0.0.1") for each in (frame, garbage)] == [None, None]
        server.start()
        answers = [desk.answer(each, "10.0.0.1") or b"" for each in (frame, frame, garbage)]
        engine.dispose()
    assert [hl7_orders.code(answer.decode()) for answer in answers] == ["AA", "AA", "AR"]
