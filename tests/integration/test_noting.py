"""What peers ask for is noted as far as somebody reads it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from listening import CR, instance, is_closed, wait_for
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from sqlalchemy import Engine, select, text

from certificates import Papers
from daemon.dicom.command import C_FIND_RQ, N_ACTION_RQ, N_GET_RQ
from daemon.dicom.exchange import SUCCESS, Question, Reply
from daemon.house import House, build_listener
from daemon.noting import Noting
from daemon.settings import Settings
from daemon.trail import Trail
from doors import free_port
from triage.policy import Policy
from triage.records.account_tables import accesses
from triage.records.audit import Audit
from triage.records.store import Store


@pytest.fixture
def trail(engine: Engine, tmp_path: Path) -> Trail:
    return Trail(Audit(Store(engine)), tmp_path / "noting")


def ask(noting: Noting, kind: int, uid: str = "", encoded: bytes | None = None) -> None:
    def answered(_: Question) -> Iterator[Reply]:
        yield Reply(status=SUCCESS)

    question = Question(
        calling_ae="PACS",
        called_ae="TRIAGE",
        address="127.0.0.1",
        abstract_syntax="1.2.840.10008.5.1.4.34.6.3",
        kind=kind,
        sop_class_uid="1.2.840.10008.5.1.4.34.6.1",
        sop_instance_uid=uid,
        action=1,
        attributes=(),
        encoded=encoded,
        transfer_syntax="1.2.840.10008.1.2.1",
    )
    (handler,) = noting.handlers({(question.abstract_syntax, kind): answered}).values()
    list(handler(question))


def noted(trail: Trail, engine: Engine) -> list[tuple[str, str, dict[str, Any]]]:
    """(verb, UID, details)"""
    trail.enter()
    query = select(accesses.c.verb, accesses.c.study_instance_uid, accesses.c.details).order_by(accesses.c.access_id)
    with engine.connect() as connection:
        return [(verb, uid, json.loads(details)) for verb, uid, details in connection.execute(query)]


@pytest.mark.parametrize("tells", [True, False])
def test_what_was_asked_is_noted_for_a_repository_alone(trail: Trail, engine: Engine, tells: bool) -> None:  # noqa: FBT001 - a parameter
    ask(Noting(trail, tells_queries=tells), C_FIND_RQ, encoded=b"PatientID")
    ((verb, _, details),) = noted(trail, engine)
    assert (verb, "query" in details) == ("find", tells)


def test_a_viewer_that_looks_again_and_again_is_noted_once_and_each_action_each_time(
    trail: Trail, engine: Engine
) -> None:
    noting = Noting(trail, tells_queries=True)
    for kind, uid in ((N_GET_RQ, "1.2.1"), (N_GET_RQ, "1.2.2"), (N_GET_RQ, "1.2.1"), *[(N_ACTION_RQ, "1.2.1")] * 2):
        ask(noting, kind, uid)
    told = [(verb, uid) for verb, uid, _ in noted(trail, engine)]
    assert told == [("look", "1.2.1"), ("look", "1.2.2"), ("workitem", "1.2.1"), ("workitem", "1.2.1")]


# -- peers that fail, on the listener as the daemon builds it --------------------------------------------------------


@pytest.fixture
def receiving(tmp_path: Path) -> Iterator[Callable[..., House]]:
    """A house that receives; settings by name."""
    with ExitStack() as stack:

        def receive(**changes: Any) -> House:
            ours = {"dicom_host": "127.0.0.1", "dicom_port": free_port(), "disk_free_mib_min": 1}
            house = House(Settings(data_dir=tmp_path / "data", **ours, **changes), Policy())
            stack.callback(house.store.engine.dispose)
            stack.callback(house.ringer.close)
            listener = build_listener(house, lambda: None)
            listener.start()
            stack.callback(listener.stop, 5)
            return house

        yield receive


@contextmanager
def calling(house: House, name: str) -> Iterator[Association]:
    """Established or not. What the daemon notes of it is noted once this is over."""
    ae = AE(name)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
    ae.add_requested_context(CR, ExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", house.settings.dicom_port, ae_title="TRIAGE")
    yield association
    if association.is_established:
        association.release()


def told(house: House) -> list[tuple[Any, ...]]:
    """(verb, who, address, outcome, problem), once there is any; a listener notes after the peer has gone."""
    query = select(accesses.c["verb", "who", "address", "outcome", "details"])

    def entered() -> list[tuple[Any, ...]]:
        house.trail.enter()
        with house.store.engine.connect() as connection:
            return [(*row[:4], json.loads(row.details)["problem"]) for row in connection.execute(query)]

    return wait_for(entered)


def test_a_peer_that_is_turned_away_stands_in_the_audit_as_refused(receiving: Callable[..., House]) -> None:
    house = receiving(dicom_peers=("PACS@127.0.0.1",), dicom_strict_loopback=True)
    with calling(house, "STRANGER") as association:
        assert association.is_rejected
    problem = "calling AE title or address is not listed"
    assert told(house) == [("associate", "STRANGER over DICOM", "127.0.0.1", "refused", problem)]


def test_a_peer_without_the_encryption_that_is_asked_for_stands_in_the_audit_as_refused(
    receiving: Callable[..., House], tmp_path: Path
) -> None:
    certificate, key = Papers(tmp_path / "papers").issue("triage")
    house = receiving(dicom_tls_certificate_file=certificate, dicom_tls_key_file=key)
    with socket.create_connection(("127.0.0.1", house.settings.dicom_port), 10) as peer:
        peer.sendall(b"no ClientHello at all")
        assert is_closed(peer)
    assert told(house) == [("connect", "", "127.0.0.1", "refused", "TLS: wrong version number")]


def test_instances_that_could_not_be_stored_stand_in_the_audit_as_failed(receiving: Callable[..., House]) -> None:
    house = receiving()
    with house.store.engine.begin() as connection:
        connection.execute(text("ALTER TABLE instances RENAME TO instances_aside"))
    with calling(house, "PACS") as association:
        assert [association.send_c_store(instance(f"1.2.3.{n}")).Status for n in (1, 2)] == [0xA700, 0xA700]
    problem = "2 instances could not be stored"
    assert told(house) == [("store", "PACS over DICOM", "127.0.0.1", "failed", problem)]
