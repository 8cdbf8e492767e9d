"""Too many peers, peers that vanish, peers that come back all at once: bounded cost, and good peers get through."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from listening import associate_rq, established, is_closed, p_data, pdu, read_pdu, status_of, store_rq, us
from running import wait_for

from faults.hostile import Target, cost, receiving, sockets, store, store_command
from making import data_set, encoded

pytestmark = pytest.mark.timeout(600)
NO_ANSWER, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ABORT, RELEASE_RP = 0, 2, 3, 7, 6
CONNECTIONS_MAX, TURNED_AWAY_AT_A_TIME = 100, 16
LOCAL_LIMIT_EXCEEDED = bytes((0, 2, 3, 2))
C_ECHO = us(0x0100, 0x30) + us(0x0110, 1) + us(0x0800, 0x0101)
VERIFICATION = "1.2.840.10008.1.1"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with receiving(tmp_path_factory.mktemp("receiver"), dicom_idle_seconds=20) as target:
        yield target


def echoscu(dcmtk: Path, target: Target) -> int:
    asked = [dcmtk / "echoscu", "-to", "30", "-aet", "PACS", "-aec", "TRIAGE", "127.0.0.1", str(target.port)]
    return subprocess.run(asked, capture_output=True, timeout=120, check=False).returncode


def film(number: int) -> bytes:
    return encoded(data_set(SOPInstanceUID=f"1.2.3.{number}", StudyInstanceUID=f"1.2.9.{number}", Modality="CR"))


def send(peer: socket.socket, number: int) -> int | None:
    return store(peer, film(number), store_command(b"1.2.840.10008.5.1.4.1.1.1", f"1.2.3.{number}".encode()))


def request() -> bytes:
    """For films in Explicit VR."""
    return associate_rq(transfer_syntax="1.2.840.10008.1.2.1")


def listed(target: Target, numbers: range) -> bool:
    found = {study for (study,) in target.daemon.rows("SELECT study_instance_uid FROM studies")}
    return found >= {f"1.2.9.{number}" for number in numbers}


@pytest.mark.fault(10)
def test_an_association_whose_peer_is_gone_is_closed_and_what_it_sent_is_listed(target: Target) -> None:
    with target.costing_at_most(), established(target.connect(), request()) as peer:
        assert send(peer, 100) == 0
        assert read_pdu(peer)[0] == A_ABORT
        assert listed(target, range(100, 101))


@pytest.mark.fault(11)
@pytest.mark.parametrize("cut", ["reset", "abort", "release", "close"])
def test_an_instance_cut_in_the_middle_is_not_kept_and_the_ones_before_it_are(target: Target, cut: str) -> None:
    number = 200 + ["reset", "abort", "release", "close"].index(cut)
    before = set(target.daemon.files("instances"))
    with target.costing_at_most(mib=48):
        with established(target.connect(), request()) as peer:
            assert send(peer, number) == 0
            peer.sendall(p_data(3, store_rq()) + p_data(0, bytes(500_000)) * 8)
            wait_for(lambda: target.daemon.files("incoming"))
            if cut == "reset":
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif cut != "close":
                peer.sendall(pdu(7 if cut == "abort" else 5, bytes(4)))
        wait_for(lambda: not target.daemon.files("incoming"))
    assert listed(target, range(number, number + 1))
    assert len(set(target.daemon.files("instances")) - before) == 1


@pytest.mark.fault(12)
def test_associations_without_an_instance_and_a_flood_of_echoes_cost_nothing(target: Target) -> None:
    with target.costing_at_most():
        for _ in range(50):
            with established(target.connect()) as peer:
                peer.sendall(pdu(5, bytes(4)))
                assert read_pdu(peer)[0] == RELEASE_RP
        with established(target.connect(), associate_rq(VERIFICATION)) as peer:
            for _ in range(500):
                peer.sendall(p_data(3, C_ECHO))
                assert status_of(read_pdu(peer)[1]) == 0


@pytest.mark.fault(13)
def test_of_a_thousand_associations_at_once_some_are_served_some_told_to_come_again_and_no_good_peer_is_hurt(
    tmp_path: Path, dcmtk: Path
) -> None:
    # Nobody's time runs out while the last of the thousand are still on their way.
    patience = {"dicom_acse_seconds": 60, "dicom_idle_seconds": 60}
    with receiving(tmp_path / "receiver", dicom_connections_max=CONNECTIONS_MAX, **patience) as target:
        with (
            target.costing_at_most(mib=160, threads=240, descriptors=320) as before,
            established(target.connect(), request()) as good,
            sockets(lambda number: target.connect(f"127.0.{2 + number // 200}.{1 + number % 200}"), 1000) as peers,
        ):
            assert send(good, 1) == 0
            outcomes = Counter(associated(peer) for peer in peers)
            now = cost(target.process)
            assert now.threads - before.threads <= 240
            assert send(good, 2) == 0
        assert outcomes.keys() <= {A_ASSOCIATE_AC, A_ASSOCIATE_RJ, NO_ANSWER}
        assert CONNECTIONS_MAX - 10 <= outcomes[A_ASSOCIATE_AC] < CONNECTIONS_MAX
        assert outcomes[A_ASSOCIATE_RJ] >= TURNED_AWAY_AT_A_TIME
        wait_for(lambda: target.ends("").count("rejected") == outcomes[NO_ANSWER])
        assert listed(target, range(1, 3))
        assert echoscu(dcmtk, target) == 0


def associated(peer: socket.socket) -> int:
    """Kind of the answer, or none; a rejection says that it will pass."""
    try:
        peer.sendall(associate_rq())
    except ConnectionError:
        return NO_ANSWER
    kind, content = read_pdu(peer)
    assert kind != A_ASSOCIATE_RJ or content == LOCAL_LIMIT_EXCEEDED
    return kind


OPENS_1100_FILES = """
import os, resource, sys
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
for _ in range(1100):
    os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.fault(13)
def test_a_receiver_that_holds_1100_descriptors_serves_its_peers(tmp_path: Path, dcmtk: Path) -> None:
    with receiving(tmp_path / "receiver", inside=(sys.executable, "-c", OPENS_1100_FILES)) as target:
        assert cost(target.process).descriptors > 1100
        assert echoscu(dcmtk, target) == 0
        with target.costing_at_most(), established(target.connect(), request()) as peer:
            assert send(peer, 1) == 0


@pytest.mark.fault(14)
def test_fifty_silent_sockets_of_one_address_keep_no_good_peer_out(tmp_path: Path, dcmtk: Path) -> None:
    slots = {"dicom_connections_max": 40, "dicom_connections_per_address_max": 10, "dicom_acse_seconds": 60}
    with receiving(tmp_path / "receiver", **slots) as target:
        with sockets(lambda _: target.connect("127.0.0.9"), 50):
            wait_for(lambda: len(target.ends()) >= 36)  # all but ten served and four turned away
            assert [echoscu(dcmtk, target) for _ in range(5)] == [0] * 5
        wait_for(target.daemon.echo, 10)
        with established(target.connect("127.0.0.9")):
            pass


@pytest.mark.fault(25)
def test_a_backlog_that_comes_at_once_is_held_back_by_rejections_and_all_of_it_is_listed(tmp_path: Path) -> None:
    """Senders that do as they are told: after a rejection they come again."""
    slots = {"dicom_connections_max": 6, "dicom_connections_per_address_max": 6}
    with receiving(tmp_path / "receiver", **slots) as target:
        with target.costing_at_most(mib=96), ThreadPoolExecutor(16) as pool:
            rejections = sum(pool.map(lambda first: delivered(target, range(first, first + 25)), range(0, 800, 25)))
        assert rejections
        assert listed(target, range(800))


def delivered(target: Target, numbers: range) -> int:
    """How often it was turned away before."""
    for rejections in range(10_000):
        with target.connect() as peer:
            if associated_for_films(peer) == A_ASSOCIATE_AC:
                assert [send(peer, number) for number in numbers] == [0] * len(numbers)
                peer.sendall(pdu(5, bytes(4)))
                read_pdu(peer)
                return rejections
        time.sleep(0.2)
    pytest.fail("never let in")


def associated_for_films(peer: socket.socket) -> int:
    try:
        peer.sendall(request())
        return read_pdu(peer)[0]
    except ConnectionError:
        return 0


@pytest.mark.fault(26)
def test_ten_thousand_health_checks_leave_nothing(target: Target, dcmtk: Path) -> None:
    with target.costing_at_most(mib=24):
        for number in range(10_000):
            with target.connect(f"127.0.{10 + number // 200}.{1 + number % 200}") as peer:
                if number % 100 == 0:
                    peer.shutdown(socket.SHUT_WR)
                    assert is_closed(peer)
    assert echoscu(dcmtk, target) == 0
