"""Bytes that are no DICOM, or odd DICOM, end their own association and nothing else."""

from __future__ import annotations

import pytest
from listening import (
    A_ABORT,
    CR,
    associate_rq,
    element,
    established,
    is_closed,
    listening,
    p_data,
    pdu,
    read_pdu,
    store_rq,
    us,
    wait_for,
)

from daemon.dicom.association import Outcome

pytestmark = pytest.mark.timeout(60)


@pytest.mark.fault(21)
@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", p_data(3, store_rq())])
def test_noise_at_the_plain_port_costs_only_itself(noise: bytes) -> None:
    with listening() as site, site.connect() as peer:
        peer.sendall(noise)
        assert is_closed(peer)
        assert site.can_echo()


MALFORMED = {
    "unknown CommandField": p_data(3, us(0x0100, 0x7777) + us(0x0110, 1) + us(0x0800, 0x0101)),
    "missing CommandField": p_data(3, us(0x0110, 1) + us(0x0800, 0x0101)),
    "PDV of one byte": pdu(4, b"\0\0\0\x01\x01"),
    "empty PDV": pdu(4, b"\0\0\0\0"),
    "PDV longer than its PDU": pdu(4, b"\0\0\xff\xff\x01\x03"),
    "unknown PDU type": pdu(0x99, b"1234"),
    "second association request": associate_rq(),
    "C-FIND": p_data(3, element(0x0002, CR.encode()) + us(0x0100, 0x0020) + us(0x0110, 1) + us(0x0800, 0x0101)),
    "command set without end": p_data(1, bytes(40_000)) * 3 + p_data(3, store_rq()),
    "nested sequences": p_data(3, b"\x08\0\x40\x11\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" * 2000),
    "store without message id": p_data(3, us(0x0100, 1) + us(0x0800, 1)) + p_data(2, bytes(8)),
}


@pytest.mark.fault(7, 9)
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_message_aborts_its_association_only(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with listening() as site:
        with established(site.connect()) as peer:
            peer.sendall(MALFORMED[name])
            assert read_pdu(peer)[0] == A_ABORT
            assert is_closed(peer)
        assert site.last_end().outcome is Outcome.ABORTED
        assert site.can_echo()
        assert wait_for(lambda: len(site.threads()) == 1), site.threads()
    assert capfd.readouterr().err == ""


def changed(request: bytes, offset: int, content: bytes) -> bytes:
    return request[:offset] + content + request[offset + len(content) :]


# Offsets: PS3.8 table 9-11; the only context item begins at 99.
ODD_REQUESTS = {
    "blank calling AE": changed(associate_rq(), 26, b" " * 16),
    "blank called AE": changed(associate_rq(), 10, b" " * 16),
    "control character in an AE": changed(associate_rq(), 26, b"PA\x1bCS"),
    "backslash in an AE": changed(associate_rq(), 26, b"PA\\CS"),
    "protocol version 2": changed(associate_rq(), 6, b"\0\2"),
    "even context id": changed(associate_rq(), 103, b"\2"),
    "item past the end": changed(associate_rq(), 101, b"\xff\xff"),
    "nothing": pdu(1, b""),
}


@pytest.mark.fault(6, 17, 19)
@pytest.mark.parametrize("name", ODD_REQUESTS)
def test_odd_association_request_is_answered_or_closed_and_costs_only_itself(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with listening() as site:
        with site.connect() as peer:
            peer.sendall(ODD_REQUESTS[name])
            assert read_pdu(peer)[0] != 2
            assert is_closed(peer)
        site.last_end()
        assert site.can_echo()
        assert wait_for(lambda: len(site.threads()) == 1), site.threads()
    assert capfd.readouterr().err == ""
