"""Who may associate, what is agreed on, and what happens to each instance."""

from __future__ import annotations

import logging
import subprocess
import threading
from importlib.metadata import version
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pydicom.uid
import pynetdicom
import pytest
from listening import (
    CR,
    CT,
    associate_rq,
    established,
    instance,
    listening,
    p_data,
    read_pdu,
    status_of,
    store_rq,
    us,
    wait_for,
)
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
)
from pynetdicom import _config, acse, association, dul, fsm, pdu, timer, transport
from pynetdicom.dsutils import encode
from pynetdicom.pdu_primitives import AsynchronousOperationsWindowNegotiation

from daemon.dicom.association import AssociationSummary, Outcome, Peer, StoreRequest
from daemon.dicom.negotiation import (
    CALLED_AE_UNKNOWN,
    CALLING_AE_UNKNOWN,
    LOCAL_LIMIT_EXCEEDED,
    TRANSFER_SYNTAXES,
    Rules,
    usable_uid,
)
from daemon.dicom.reactor import _request

pytestmark = pytest.mark.timeout(60)
SR = "1.2.840.10008.5.1.4.1.1.88.33"
RT_DELIVERY_INSTRUCTION = "1.2.840.10008.5.1.4.34.7"  # RT Beams Delivery Instruction
NOT_YET_STANDARD = "1.2.840.10008.5.1.4.1.1.999.1"
PRIVATE = "1.3.12.2.1107.5.9.1"
PEERS = (
    Peer(ae_title="PACS", network=ip_network("127.0.0.1/32")),
    Peer(ae_title="CR_ROOM", network=ip_network("127.0.0.0/30")),
)


def answer_to(association: Any) -> tuple[int, int, int]:
    primitive = association.acceptor.primitive
    return primitive.result, primitive.result_source, primitive.diagnostic


def test_instance_arrives_with_the_very_bytes_of_its_data_set() -> None:
    sent = instance("1.2.3.4.5.6")
    with listening() as site, site.associate() as peer:
        assert peer.send_c_store(sent).Status == 0
        (received,) = site.received
        assert received.data_set == encode(sent, is_implicit_vr=False, is_little_endian=True)
        request = received.request
        assert (request.calling_ae, request.called_ae, request.address) == ("MODALITY", "TRIAGE", "127.0.0.1")
        assert (request.sop_class_uid, request.sop_instance_uid) == (CR, "1.2.3.4.5.6")
        assert request.transfer_syntax_uid == ExplicitVRLittleEndian


@pytest.mark.fault(12)
def test_dcmtk_echoes_and_stores(dcmtk: Path, tmp_path: Path) -> None:
    film = instance()
    film.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    with listening() as site:
        port = str(site.port)
        subprocess.run([dcmtk / "echoscu", "-to", "10", "127.0.0.1", port], check=True, timeout=20)
        subprocess.run(
            [dcmtk / "storescu", "-to", "10", "127.0.0.1", port, tmp_path / "film.dcm"], check=True, timeout=20
        )
        assert wait_for(lambda: len(site.ends) == 2)
        assert [end.outcome for end in site.ends] == [Outcome.RELEASED] * 2
        assert (site.ends[0].echoes, site.ends[1].stored) == (1, 1)


def test_exception_while_storing_is_out_of_resources_and_the_association_lives() -> None:
    failures = [RuntimeError("CANARY"), OSError("CANARY")]

    def fail_twice(_request: StoreRequest) -> int:
        if failures:
            raise failures.pop()
        return 0

    with listening(fail_twice) as site, site.associate() as peer:
        assert [peer.send_c_store(instance()).Status for _ in range(3)] == [0xA700, 0xA700, 0]


@pytest.mark.parametrize("nonsense", [None, "0", -1, 0x10000])
def test_status_that_is_none_is_out_of_resources(nonsense: Any) -> None:
    with listening(lambda _request: nonsense) as site, site.associate() as peer:
        assert peer.send_c_store(instance()).Status == 0xA700
        assert peer.send_c_echo().Status == 0


def test_status_of_the_receiver_reaches_the_sender_and_is_counted() -> None:
    statuses = [0, 0xB000, 0xA900, 0xC000, 0]
    with listening(lambda _request: statuses[len(site.received)]) as site:
        with site.associate() as peer:
            assert [peer.send_c_store(instance()).Status for _ in range(5)] == statuses
            peer.send_c_echo()
        assert site.last_end() == AssociationSummary(
            calling_ae="MODALITY",
            called_ae="TRIAGE",
            address="127.0.0.1",
            outcome=Outcome.RELEASED,
            stored=3,
            failed=2,
            echoes=1,
            statuses={0: 2, 0xB000: 1, 0xA900: 1, 0xC000: 1},
            bytes_received=site.last_end().bytes_received,
            seconds=site.last_end().seconds,
        )
        assert 10_000 < site.last_end().bytes_received < 20_000
        assert 0 < site.last_end().seconds < 10


@pytest.mark.fault(30, 31)
@pytest.mark.parametrize(
    "bad", [b"1." + b"2" * 68, b"../../etc/passwd", b"..", b"1.2.\xff", b"1.2.A", b"", None, b"1..2", b"1.2%2e"]
)
def test_bad_uid_costs_its_instance_only(bad: bytes | None) -> None:
    with listening() as site, established(site.connect()) as peer:
        for uid, status in ((bad, 0xC001), (b"1.2.3", 0)):
            peer.sendall(p_data(3, store_rq(uid)) + p_data(2, b"\x08\0\x18\0\0\0\0\0"))
            kind, content = read_pdu(peer)
            assert (kind, status_of(content)) == (4, status)
        assert [each.request.sop_instance_uid for each in site.received] == ["1.2.3"]


def test_unknown_element_of_a_command_set_is_passed_over() -> None:
    with listening() as site, established(site.connect()) as peer:
        peer.sendall(p_data(3, store_rq() + us(0x0B02, 1)) + p_data(2, bytes(8)))
        kind, content = read_pdu(peer)
        assert (kind, status_of(content)) == (4, 0)


@pytest.mark.fault(31)
@pytest.mark.parametrize(
    ("received", "usable"),
    [("1.2.3", "1.2.3"), ("1.02.003", "1.02.003"), ("1.2.3 ", "1.2.3"), ("1.2.3\0", "1.2.3"), ("1" * 64, "1" * 64),
     ("1" * 65, ""), (".1", ""), ("1.", ""), ("1.2\n", ""), ("1.2\\1.3", ""), ("\u0661.\u0662", "")],
)  # fmt: skip
def test_uid_is_judged_by_length_and_characters_but_forgiven_zeros_and_padding(received: str, usable: str) -> None:
    assert usable_uid(received) == usable


@pytest.mark.fault(18)
def test_every_storage_class_is_accepted_and_nothing_else() -> None:
    syntaxes = [ImplicitVRLittleEndian, ExplicitVRLittleEndian]
    storage = [CR, CT, SR, RT_DELIVERY_INSTRUCTION, NOT_YET_STANDARD, PRIVATE]
    other = [
        "1.2.840.10008.5.1.4.1.2.2.1",  # Study Root FIND
        "1.2.840.10008.5.1.4.1.1.201.2",  # Inventory FIND, under the root of the storage classes
        "1.2.840.10008.1.20.1",  # Storage Commitment
        "1.2.840.10008.5.1.4.34.6.1",  # UPS Push
    ]
    with listening() as site, site.associate(*[(uid, syntaxes) for uid in storage + other]) as peer:
        assert {each.abstract_syntax for each in peer.accepted_contexts} == set(storage)
        assert {each.transfer_syntax[0] for each in peer.accepted_contexts} == {ExplicitVRLittleEndian}
        assert all(each.result == 3 for each in peer.rejected_contexts)
        for sop_class in storage:
            assert peer.send_c_store(instance(sop_class=sop_class)).Status == 0
        assert [each.request.sop_class_uid for each in site.received] == storage


@pytest.mark.fault(18, 68, 69)
def test_deflated_and_big_endian_are_refused_and_compressed_accepted() -> None:
    refused = [DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, pydicom.uid.MPEG2MPML]
    with listening() as site, site.associate(*[(CR, [each]) for each in [*refused, *TRANSFER_SYNTAXES]]) as peer:
        assert [each.result for each in peer.rejected_contexts] == [4, 4, 4]
        assert tuple(each.transfer_syntax[0] for each in peer.accepted_contexts) == TRANSFER_SYNTAXES


def test_our_order_of_transfer_syntaxes_decides() -> None:
    proposed = [JPEG2000Lossless, JPEGLosslessSV1, ImplicitVRLittleEndian]
    with listening() as site, site.associate((CR, proposed)) as peer:
        assert peer.accepted_contexts[0].transfer_syntax == [ImplicitVRLittleEndian]


@pytest.mark.fault(19)
def test_128_contexts_are_negotiated_in_time() -> None:
    contexts = [(f"1.2.840.10008.5.1.4.1.1.{number}", list(TRANSFER_SYNTAXES)) for number in range(300, 428)]
    with listening(acse_seconds=5) as site, site.associate(*contexts) as peer:
        assert len(peer.accepted_contexts) == 128


@pytest.mark.fault(20)
def test_large_pdus_are_asked_for_and_asynchronous_operations_are_not() -> None:
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = 0
    window.maximum_number_operations_performed = 0
    with listening() as site, site.associate(ext_neg=[window]) as peer:
        assert peer.acceptor.maximum_length == 131_072
        assert peer.acceptor.asynchronous_operations == (1, 1)


@pytest.mark.fault(15, 16, 17)
@pytest.mark.parametrize(
    ("calling", "called", "source", "rejection"),
    [
        ("PACS", "TRIAGE", "127.0.0.1", None),
        (" PACS", "TRIAGE ", "127.0.0.1", None),
        ("CR_ROOM", "TRIAGE", "127.0.0.2", None),
        ("PACS", "TRIAGE", "127.0.0.2", CALLING_AE_UNKNOWN),
        ("STRANGER", "TRIAGE", "127.0.0.1", CALLING_AE_UNKNOWN),
        ("pacs", "TRIAGE", "127.0.0.1", CALLING_AE_UNKNOWN),
        ("PACS", "ANOTHER", "127.0.0.1", CALLED_AE_UNKNOWN),
        ("STRANGER", "ANOTHER", "127.0.0.1", CALLING_AE_UNKNOWN),
    ],
)
def test_peer_must_match_by_title_and_address_and_call_us_by_name(
    calling: str, called: str, source: str, rejection: tuple[int, int, int] | None
) -> None:
    with listening(peers=PEERS, strict_loopback=True) as site:
        with site.associate(calling=calling, called=called, source=source) as peer:
            assert peer.is_established == (rejection is None)
            assert rejection is None or answer_to(peer) == rejection
        end = site.last_end()
        assert end.outcome is (Outcome.RELEASED if rejection is None else Outcome.REJECTED)
        assert end.rejection == rejection
        assert (end.calling_ae, end.address) == (calling.strip(), source)


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "::2"])
def test_address_off_loopback_is_strict_even_without_strict_loopback(address: str) -> None:
    assert Rules(ae_title="TRIAGE", peers=PEERS).rejection("PACS", "TRIAGE", address) == CALLING_AE_UNKNOWN


@pytest.mark.fault(24)
def test_ipv6_socket_serves_ipv4_peers_under_their_ipv4_address() -> None:
    try:
        site_of_both = listening(host="::")
        with site_of_both as site:
            assert site.can_echo()
            assert site.last_end().address == "127.0.0.1"
    except OSError:
        pytest.skip("no IPv6 here")


@pytest.mark.fault(76)
def test_full_disk_rejects_as_transient_and_recovers_by_itself() -> None:
    full = threading.Event()
    full.set()
    with listening(refuse=full.is_set) as site:
        with site.associate() as peer:
            assert answer_to(peer) == LOCAL_LIMIT_EXCEEDED
        full.clear()
        assert site.can_echo()


@pytest.mark.fault(76)
def test_watermark_that_cannot_be_read_is_taken_as_reached() -> None:
    def broken() -> bool:
        raise OSError

    with listening(refuse=broken) as site, site.associate() as peer:
        assert answer_to(peer) == LOCAL_LIMIT_EXCEEDED


def test_failing_report_costs_no_slot() -> None:
    def broken(_summary: AssociationSummary) -> None:
        raise OSError

    with listening(on_association_end=broken, connections_max=1) as site:
        assert all(wait_for(site.can_echo) for _ in range(3))


def test_no_value_received_is_logged_or_warned_about(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    caplog.set_level(logging.DEBUG)
    with listening() as site:
        with established(site.connect()) as peer:
            peer.sendall(p_data(3, store_rq(b"CANARY")) + p_data(2, b"CANARY"))
            read_pdu(peer)
            peer.sendall(p_data(3, b"CANARY" * 20))
            read_pdu(peer)
        site.last_end()
    out, err = capfd.readouterr()
    assert "CANARY" not in out + err + caplog.text + "".join(str(each.message) for each in recwarn)


@pytest.mark.fault(24)
def test_port_in_use_is_an_error_at_the_start() -> None:
    with listening() as site, pytest.raises(OSError, match="in use"), listening(port=site.port):
        pass


# What guard, reactor, silence and association override or read. Another version: read its source anew, then change it.
FIT: dict[Any, list[str]] = {
    acse.ACSE: ["negotiate_association", "send_reject"],
    association.Association: ["_run_reactor", "run_reactor", "kill", "set_socket"],
    dul.DULServiceProvider: ["run_reactor", "_read_pdu_data", "_decode_pdu", "_is_transport_event", "kill_dul"],
    fsm.StateMachine: ["do_action"],
    pdu.A_ASSOCIATE_RQ: ["decode", "to_primitive"],
    timer.Timer: ["start", "stop", "restart", "expired", "remaining", "timeout"],
    transport.AssociationSocket: ["ready", "recv", "send", "close", "_shutdown_socket", "event_queue"],
    transport.RequestHandler: ["handle", "local", "remote", "ae"],
    transport.ThreadedAssociationServer: ["process_request_thread", "server_bind", "server_close", "get_request"],
    _config: ["LOG_HANDLER_LEVEL", "LOG_REQUEST_IDENTIFIERS", "LOG_RESPONSE_IDENTIFIERS", "VALIDATORS",
              "STORE_RECV_CHUNKED_DATASET", "ENFORCE_UID_CONFORMANCE"],
}  # fmt: skip


def test_pynetdicom_is_the_version_whose_private_names_we_use() -> None:
    assert version("pynetdicom") == "3.0.4"
    assert [(owner, name) for owner, names in FIT.items() for name in names if not hasattr(owner, name)] == []


def test_pynetdicom_still_keeps_its_state_where_we_read_it() -> None:
    stock = association.Association(pynetdicom.AE(), "acceptor")
    names = {"_accepted_cx", "_server", "_kill", "requestor", "acceptor", "is_established", "is_aborted"}
    assert names <= vars(stock).keys()
    names = {"artim_timer", "_run_loop_delay", "_kill_thread", "state_machine", "to_user_queue"}
    assert names <= vars(stock.dul).keys()
    assert ("Evt7", "Sta3") in fsm.TRANSITION_TABLE
    assert dul._PDU_TYPES[b"\1"] == (pdu.A_ASSOCIATE_RQ, "Evt6")
    assert {"_start_time", "_end_time"} <= vars(timer.Timer(1)).keys()


def test_a_proposal_that_comes_again_is_taken_apart_once() -> None:
    proposed = associate_rq()
    _request.cache_clear()
    with listening() as site:
        for _ in range(3):
            with established(site.connect(), proposed) as peer:
                peer.sendall(p_data(3, store_rq()) + p_data(2, bytes(8)))
                assert status_of(read_pdu(peer)[1]) == 0
    assert (_request.cache_info().misses, _request.cache_info().hits) == (1, 2)
    first, second = _request(proposed).to_primitive(), _request(proposed).to_primitive()
    first.result = 1
    assert second.result is None


def test_several_listeners_share_a_port_if_they_say_so() -> None:
    with listening(shares_port=True) as first, listening(shares_port=True, port=first.port) as second:
        for _ in range(40):
            assert first.can_echo()
        assert wait_for(lambda: len(first.ends) + len(second.ends) == 40)
        assert first.ends
        assert second.ends
    with listening() as alone, pytest.raises(OSError, match="in use"), listening(port=alone.port):
        pass
