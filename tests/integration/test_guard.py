"""A hostile or broken network costs its own connection and nothing else."""

from __future__ import annotations

import gc
import os
import resource
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import trustme
from listening import (
    A_ABORT,
    Site,
    associate_rq,
    established,
    instance,
    is_closed,
    listening,
    p_data,
    pdu,
    read_pdu,
    sent_until_closed,
    status_of,
    store_rq,
    wait_for,
)

from daemon.dicom.association import GuardedAssociation, Outcome, StoreRequest
from daemon.dicom.guard import GuardedServer
from daemon.dicom.inlet import Inlet
from daemon.dicom.reactor import MonotonicTimer

pytestmark = pytest.mark.timeout(60)
MIB = 1024 * 1024


def rss() -> int:
    return int(psutil.Process().memory_info().rss)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_what_an_association_reads_into_goes_with_it_and_not_with_the_next_collection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The association is a cycle, and pynetdicom collects at every sixtieth look at its port."""
    made: list[weakref.ref[memoryview]] = []

    class Watched(Inlet):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(weakref.ref(self._buffer))

    monkeypatch.setattr("daemon.dicom.association.Inlet", Watched)
    monkeypatch.setattr(gc, "collect", lambda *_: 0)
    gc.disable()
    try:
        with listening() as site:
            assert site.can_echo()
            wait_for(lambda: made and made[0]() is None)
    finally:
        gc.enable()


@pytest.mark.fault(1)
def test_silent_connection_is_closed_after_the_acse_timeout() -> None:
    with listening() as site, site.connect() as peer:
        began = time.monotonic()
        assert is_closed(peer)
        assert 0.4 < time.monotonic() - began < 2
        assert site.last_end().outcome is Outcome.TIMEOUT


@pytest.mark.fault(1)
def test_request_that_comes_just_as_its_time_runs_out_holds_no_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """The association gives up, and the timer of the upper layer has not rung yet."""
    monkeypatch.setattr(MonotonicTimer, "expired", False)
    with listening() as site, site.connect() as peer:
        time.sleep(0.7)
        with suppress(ConnectionError):
            peer.sendall(associate_rq())
        assert is_closed(peer)
        assert site.last_end().outcome is Outcome.TIMEOUT
        assert wait_for(lambda: len(site.threads()) == 1), site.threads()


@pytest.mark.fault(2)
def test_half_a_pdu_header_then_silence_is_closed() -> None:
    with listening() as site, site.connect() as peer:
        peer.sendall(b"\x01\0\0")
        assert is_closed(peer)
        assert site.last_end().outcome is Outcome.TIMEOUT


@pytest.mark.fault(3)
def test_bytes_that_drip_within_a_pdu_are_closed_at_its_deadline() -> None:
    with listening() as site, established(site.connect()) as peer:
        peer.settimeout(0.1)
        began = time.monotonic()
        dripped = 0
        for byte in p_data(3, store_rq()):
            try:
                peer.sendall(bytes([byte]))
                if not peer.recv(1):
                    break
            except TimeoutError:
                dripped += 1
            except ConnectionError:
                break
        assert 3 <= dripped < 10
        assert time.monotonic() - began < 2
        assert site.last_end().outcome is Outcome.TIMEOUT


@pytest.mark.fault(4)
def test_pdu_of_4_gib_is_closed_with_flat_memory() -> None:
    with listening(pdu_seconds=20, acse_seconds=20) as site, site.connect() as peer:
        before = rss()
        assert sent_until_closed(peer, b"\x01\0\xff\xff\xff\xff", 100) < 10
        assert rss() - before < 10 * MIB
        assert site.can_echo()


@pytest.mark.fault(5)
def test_pdu_over_the_limit_aborts_the_association_as_invalid_parameter() -> None:
    with listening() as site, established(site.connect()) as peer:
        peer.sendall(b"\x04\0" + (MIB + 1).to_bytes(4, "big"))
        assert read_pdu(peer) == (A_ABORT, b"\0\0\x02\x06")
        assert is_closed(peer)
        assert site.last_end().outcome is Outcome.ABORTED


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_server(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture
def tls_client(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.mark.fault(21)
def test_silent_tls_clients_do_not_keep_others_out(tls_server: ssl.SSLContext, tls_client: ssl.SSLContext) -> None:
    with listening(tls=lambda: tls_server, acse_seconds=2) as site, ExitStack() as stack:
        silent = [stack.enter_context(site.connect()) for _ in range(5)]
        began = time.monotonic()
        with site.associate(tls_args=(tls_client, "localhost")) as association:
            assert association.send_c_echo().Status == 0
        assert time.monotonic() - began < 1.5
        assert all(is_closed(peer) for peer in silent)
        assert wait_for(lambda: len(site.ends) == 6)
        assert [end.outcome for end in site.ends].count(Outcome.TIMEOUT) == 5


def test_instance_over_tls_arrives_whole(tls_server: ssl.SSLContext, tls_client: ssl.SSLContext) -> None:
    with listening(tls=lambda: tls_server) as site:
        with site.associate(tls_args=(tls_client, "localhost")) as association:
            assert association.send_c_store(instance(pixel_bytes=3 * MIB)).Status == 0
        assert len(site.received[0].data_set) > 3 * MIB


@pytest.mark.fault(21)
@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", associate_rq(), bytes(range(256))])
def test_noise_at_the_tls_port_costs_only_itself(
    noise: bytes, tls_server: ssl.SSLContext, tls_client: ssl.SSLContext
) -> None:
    with listening(tls=lambda: tls_server) as site, site.connect() as peer:
        peer.sendall(noise)
        assert is_closed(peer)
        with site.associate(tls_args=(tls_client, "localhost")) as association:
            assert association.is_established


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1400:
        pytest.skip("not allowed 1400 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1400), hard))
    with ExitStack() as stack:
        for _ in range(1100):
            stack.enter_context(Path(os.devnull).open("rb"))
        yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.fault(13)
@pytest.mark.usefixtures("many_descriptors")
def test_more_than_1024_descriptors_are_no_obstacle(dcmtk: Path) -> None:
    with listening() as site:
        subprocess.run([dcmtk / "echoscu", "-to", "10", "127.0.0.1", str(site.port)], check=True, timeout=20)
        assert site.last_end().outcome is Outcome.RELEASED


@pytest.mark.fault(11)
def test_connection_cut_within_a_c_store_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with listening() as site:
        with established(site.connect()) as peer:
            peer.sendall(p_data(3, store_rq()) + p_data(0, bytes(100_000)) * 3 + p_data(0, bytes(100_000))[:5000])
        assert site.last_end().outcome is Outcome.CLOSED
        assert site.last_end().bytes_received > 300_000
        assert site.received == []
        assert list(tmp_path.iterdir()) == []
        assert site.can_echo()


@pytest.mark.fault(14)
def test_silent_sockets_of_one_address_do_not_keep_another_out() -> None:
    limits = {"connections_max": 8, "connections_per_address_max": 4, "acse_seconds": 20, "pdu_seconds": 20}
    with listening(**limits) as site, ExitStack() as stack:
        silent = [stack.enter_context(site.connect()) for _ in range(50)]
        assert wait_for(lambda: len(site.ends) == 42), "all but 4 served and 4 turned away are closed at once"
        with site.associate(source="127.0.0.2") as association:
            assert association.is_established
        for peer in silent:
            peer.close()
        assert wait_for(site.can_echo, 1), "slots are free as soon as their connections are closed"


@pytest.mark.fault(13)
def test_connections_over_the_cap_are_rejected_as_transient() -> None:
    with listening(connections_max=2, acse_seconds=20) as site, ExitStack() as stack:
        for _ in range(2):
            assert stack.enter_context(site.associate()).is_established
        with site.associate() as third:
            answer = third.acceptor.primitive
            assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 2)
        assert site.last_end().outcome is Outcome.REJECTED


def test_port_that_comes_back_before_its_former_connection_is_gone_has_a_slot_of_its_own() -> None:
    started, release = threading.Event(), threading.Event()

    def slow(_request: StoreRequest) -> int:
        started.set()
        release.wait(10)
        return 0

    with listening(slow, acse_seconds=10) as site:
        with established(site.connect()) as former:
            former.sendall(p_data(3, store_rq()) + p_data(2, bytes(8)))
            assert started.wait(5)
            source = former.getsockname()
            former.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with socket.create_connection(("127.0.0.1", site.port), timeout=10, source_address=source) as peer:
            assert wait_for(lambda: len(site.listener._server.slots) == 2)
            release.set()
            site.last_end()
            established(peer)


@pytest.mark.fault(41)
def test_instance_over_the_cap_is_out_of_resources_and_the_next_is_stored() -> None:
    with listening(instance_bytes_max=50_000) as site:
        before = rss()
        with site.associate() as association:
            assert association.send_c_store(instance("1.2.3.1", pixel_bytes=40 * MIB)).Status == 0xA700
            assert association.send_c_store(instance("1.2.3.2")).Status == 0
        assert [each.request.sop_instance_uid for each in site.received] == ["1.2.3.2"]
        assert site.last_end().statuses == {0xA700: 1, 0: 1}
        assert rss() - before < 130 * MIB  # what the sender holds of it


def test_peer_that_does_not_wait_for_answers_is_held_back() -> None:
    release = threading.Event()

    def slow(_request: StoreRequest) -> int:
        release.wait(20)
        return 0

    store = p_data(3, store_rq()) + p_data(0, bytes(500_000)) * 19 + p_data(2, bytes(500_000))
    with listening(slow) as site, established(site.connect()) as peer:
        peer.settimeout(1)
        with pytest.raises(TimeoutError):
            peer.sendall(store * 20)
        peer.settimeout(20)
        release.set()
        assert status_of(read_pdu(peer)[1]) == 0


@pytest.mark.fault(10)
def test_idle_association_is_aborted_and_its_slot_freed() -> None:
    with listening(idle_seconds=0.5) as site, established(site.connect()) as peer:
        assert read_pdu(peer)[0] == A_ABORT
        assert site.last_end().outcome is Outcome.TIMEOUT


def test_slow_storage_is_not_taken_for_an_idle_peer() -> None:
    def slow(_request: StoreRequest) -> int:
        time.sleep(1)
        return 0

    with listening(slow, idle_seconds=0.5) as site, site.associate() as association:
        assert association.send_c_store(instance("1.2.3.1")).Status == 0
        assert association.send_c_store(instance("1.2.3.2")).Status == 0
        assert len(site.received) == 2


@pytest.mark.fault(3)
def test_message_that_takes_too_long_is_aborted() -> None:
    with listening(dimse_seconds=0.5, pdu_seconds=5) as site, established(site.connect()) as peer:
        began = time.monotonic()
        peer.sendall(p_data(3, store_rq()))
        for _ in range(4):
            time.sleep(0.2)
            peer.sendall(p_data(0, bytes(10)))
        assert read_pdu(peer)[0] == A_ABORT
        assert time.monotonic() - began < 3, "ended by the idle timeout instead"
        assert site.last_end().outcome is Outcome.TIMEOUT


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """So that a descriptor is closed by us or not at all."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.fault(13, 26)
@pytest.mark.usefixtures("no_garbage_collection")
def test_thousand_connections_leak_neither_threads_nor_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GuardedServer, "service_actions", lambda _self: None)
    with listening(acse_seconds=10, connections_per_address_max=200, connections_max=200) as site:
        assert site.can_echo()
        assert wait_for(lambda: len(site.threads()) == 1)
        before = descriptors()
        for number in range(1000):
            with site.connect() as peer:
                if number % 10 == 0:
                    peer.sendall(associate_rq())
                    read_pdu(peer)
            assert wait_for(lambda: len(site.threads()) < 100)
        assert wait_for(lambda: len(site.ends) == 1001)
        assert wait_for(lambda: len(site.threads()) == 1), site.threads()
        assert descriptors() <= before
        assert site.can_echo()


@pytest.mark.fault(111)
def test_step_of_the_wall_clock_expires_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    timer = MonotonicTimer(60)
    timer.start()
    monkeypatch.setattr(time, "time", lambda: 1e12)
    assert not timer.expired
    quick = MonotonicTimer(0.01)
    quick.start()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert wait_for(lambda: quick.expired)


@pytest.mark.fault(11)
@pytest.mark.parametrize("cut", ["reset", "abort", "release"])
def test_instance_that_stops_half_way_is_discarded(cut: str) -> None:
    with listening() as site:
        with established(site.connect()) as peer:
            peer.sendall(p_data(3, store_rq()) + p_data(0, bytes(1000)))
            assert wait_for(lambda: any(each._service and each._service._reception for each in live(site)))
            if cut == "reset":
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                peer.sendall(pdu(7, bytes(4)) if cut == "abort" else pdu(5, bytes(4)))
        site.last_end()
        assert (site.discarded, site.received) == (1, [])


def live(site: Site) -> list[GuardedAssociation]:
    return list(site.listener._associations)
