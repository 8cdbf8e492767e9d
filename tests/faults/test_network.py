"""Bytes of strangers at the port of a real receiver: each costs its own connection, little memory, and no thread."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest
from listening import (
    associate_rq,
    element,
    established,
    is_closed,
    p_data,
    pdu,
    read_pdu,
    sent_until_closed,
    store_rq,
    us,
)
from running import wait_for

from faults.hostile import MIB, Target, receiving, sockets

pytestmark = pytest.mark.timeout(300)
A_ABORT, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, P_DATA = 7, 2, 3, 4
INVALID_PARAMETER = b"\0\0\x02\x06"
# A second, and nine for a machine with other work; 3 MiB were measured: a buffer that nobody reads from does not grow.
CUT_SECONDS, SOCKET_BUFFERS_MIB = 10, 16


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with receiving(tmp_path_factory.mktemp("receiver")) as target:
        yield target


@pytest.mark.fault(1, 2)
@pytest.mark.parametrize("beginning", [b"", b"\x01\0\0", b"\x01\0\0\0\0\xff", associate_rq()[:-1]])
def test_a_peer_that_falls_silent_before_it_is_associated_is_closed(target: Target, beginning: bytes) -> None:
    with target.costing_at_most(mib=8), target.connect() as peer:
        peer.sendall(beginning)
        assert is_closed(peer)
        wait_for(lambda: target.ends("")[-1:] == ["timeout"])


@pytest.mark.fault(2, 3)
@pytest.mark.parametrize("pause", [0.4, 60])
def test_a_pdu_that_drips_or_stops_on_an_association_is_cut_at_its_deadline(target: Target, pause: float) -> None:
    with target.costing_at_most(mib=8), established(target.connect()) as peer:
        began = time.monotonic()
        peer.settimeout(pause)
        for byte in p_data(3, store_rq()):
            try:
                peer.sendall(bytes([byte]))
                if not peer.recv(1):
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert time.monotonic() - began < 50
        wait_for(lambda: target.ends("MODALITY")[-1:] == ["timeout"])


@pytest.mark.fault(4)
@pytest.mark.parametrize("is_associated", [False, True])
def test_a_pdu_of_4_gib_is_cut_and_fills_no_memory(target: Target, *, is_associated: bool) -> None:
    with target.costing_at_most(mib=16), target.connect() as peer:
        if is_associated:
            established(peer)
        peer.sendall(b"\x04" if is_associated else b"\x01")
        peer.sendall(b"\0\xff\xff\xff\xff")
        assert read_pdu(peer) == (A_ABORT, INVALID_PARAMETER)
        began = time.monotonic()
        sent = sent_until_closed(peer, b"", 65536)
        # On an association all that comes is read and forgotten for a second, so that the peer gets to see the abort:
        # how much that is depends on the machine (2.4 GiB measured), how long it takes does not. Before one nothing is
        # read, and only the buffers of both sockets fill.
        assert time.monotonic() - began < CUT_SECONDS
        assert is_associated or sent < SOCKET_BUFFERS_MIB


@pytest.mark.fault(5)
def test_a_pdu_over_the_maximum_is_an_invalid_parameter(target: Target) -> None:
    with target.costing_at_most(mib=8), established(target.connect()) as peer:
        peer.sendall(b"\x04\0" + (MIB + 1).to_bytes(4, "big"))
        assert read_pdu(peer) == (A_ABORT, INVALID_PARAMETER)
        assert is_closed(peer)


def mutants(count: int) -> list[bytes]:
    """Requests of which some bytes behind the PDU header are others; the same each time."""
    chance, whole = random.Random(6), associate_rq()
    made = []
    for _ in range(count):
        request = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            request[chance.randrange(6, len(request))] = chance.choice((0, 1, 0x20, 0x7F, 0xFF, chance.randrange(256)))
        made.append(bytes(request))
    return made


@pytest.mark.fault(6)
def test_an_association_request_with_any_inner_lengths_is_answered_or_closed(target: Target) -> None:
    with target.costing_at_most(mib=24):
        for request in mutants(150):
            with target.connect() as peer:
                peer.sendall(request)
                assert read_pdu(peer)[0] in {0, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ABORT}


@pytest.mark.fault(6)
@pytest.mark.parametrize("cut", [1, 8, 60, 74, 99, 103, 130, 170])
def test_an_association_request_that_ends_too_early_is_none_or_one_on_which_nothing_can_be_sent(
    target: Target, cut: int
) -> None:
    with target.costing_at_most(mib=8), target.connect() as peer:
        peer.sendall(pdu(1, associate_rq()[6:][:cut]))
        if read_pdu(peer)[0] == A_ASSOCIATE_AC:
            peer.sendall(p_data(3, store_rq()))
            assert read_pdu(peer)[0] == A_ABORT


OUT_OF_STATE = {
    "data before the association": (False, p_data(3, store_rq())),
    "release before the association": (False, pdu(5, bytes(4))),
    "an answer before the association": (False, pdu(2, bytes(68))),
    "unknown kind before the association": (False, pdu(0x99, b"1234")),
    "second request": (True, associate_rq()),
    "an answer": (True, pdu(2, associate_rq()[6:])),
    "a rejection": (True, pdu(3, bytes(4))),
    "release of a release": (True, pdu(6, bytes(4))),
    "unknown kind": (True, pdu(0x99, b"1234")),
}


@pytest.mark.fault(7)
@pytest.mark.parametrize("name", OUT_OF_STATE)
def test_a_pdu_out_of_its_state_aborts(target: Target, name: str) -> None:
    is_associated, content = OUT_OF_STATE[name]
    with target.costing_at_most(mib=8), target.connect() as peer:
        if is_associated:
            established(peer)
        peer.sendall(content)
        assert read_pdu(peer)[0] in {A_ABORT, 0}
        assert is_closed(peer)


@pytest.mark.fault(8)
@pytest.mark.parametrize("most", [0, 1, 7, 16384, 2**32 - 1])
def test_any_maximum_of_the_peer_is_kept_to(target: Target, most: int) -> None:
    request = associate_rq().replace((16384).to_bytes(4, "big"), most.to_bytes(4, "big"))
    with target.costing_at_most(mib=8), target.connect() as peer:
        peer.sendall(request)
        kind, _ = read_pdu(peer)
        assert kind in {A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ABORT}
        if kind == A_ASSOCIATE_AC:
            peer.sendall(p_data(3, store_rq(b"1.2.A")) + p_data(2, bytes(8)))
            kind, content = read_pdu(peer)
            assert kind in {P_DATA, A_ABORT}
            assert kind == A_ABORT or not 7 <= most < len(content)


MALFORMED = {
    "unknown CommandField": p_data(3, us(0x0100, 0x7777) + us(0x0110, 1) + us(0x0800, 0x0101)),
    "missing CommandField": p_data(3, us(0x0110, 1) + us(0x0800, 0x0101)),
    "CommandField of 4 GiB": p_data(3, b"\0\0\0\1\xff\xff\xff\xff" + bytes(8)),
    "PDV of one byte": pdu(4, b"\0\0\0\x01\x01"),
    "empty PDV": pdu(4, b"\0\0\0\0"),
    "PDV of 4 GiB": pdu(4, b"\xff\xff\xff\xff\x01\x03"),
    "no PDV": pdu(4, b""),
    "context nobody agreed on": pdu(4, b"\0\0\0\x04\x63\x03\0\0"),
    "data set without a command": p_data(2, bytes(100)),
    "command set without end": p_data(1, bytes(40_000)) * 3 + p_data(3, store_rq()),
    "group other than 0000": p_data(3, b"\x08\0\x18\0" + (4).to_bytes(4, "little") + b"1.2\0"),
    "nested sequences": p_data(3, b"\x08\0\x40\x11\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" * 2000),
    "store without message id": p_data(3, us(0x0100, 1) + us(0x0800, 1)) + p_data(2, bytes(8)),
    "C-FIND on a storage class": p_data(3, element(2, b"1.2\0") + us(0x0100, 0x20) + us(0x0110, 1) + us(0x0800, 1)),
}


@pytest.mark.fault(9)
@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_message_aborts_its_association_with_one_line_in_the_log(target: Target, name: str) -> None:
    with target.costing_at_most(mib=8):
        lines = len(target.ends("MODALITY"))
        with established(target.connect()) as peer:
            peer.sendall(MALFORMED[name])
            assert read_pdu(peer)[0] == A_ABORT
            assert is_closed(peer)
        wait_for(lambda: len(target.ends("MODALITY")) > lines)
        assert target.ends("MODALITY")[lines:] == ["aborted"]


@pytest.mark.fault(21)
@pytest.mark.parametrize(
    "noise", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", bytes(range(256))]
)
def test_another_protocol_at_the_port_is_closed(target: Target, noise: bytes) -> None:
    with target.costing_at_most(mib=8), target.connect() as peer:
        peer.sendall(noise)
        assert is_closed(peer)


@pytest.mark.fault(9, 21)
def test_a_hundred_connections_of_random_bytes_leave_nothing(target: Target) -> None:
    chance = random.Random(21)
    with target.costing_at_most(mib=24):
        for _ in range(5):
            with sockets(lambda number: target.connect(f"127.0.1.{number + 1}"), 20) as peers:
                for number, peer in enumerate(peers):
                    if number % 2:
                        established(peer)
                    peer.sendall(chance.randbytes(chance.randrange(1, 3000)))
        assert target.process.is_running()
