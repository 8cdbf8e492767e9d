"""Those that we call, as `triage doctor` asks them: do they answer, and do both sides trust each other?"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.ae import ApplicationEntity
from verdicts import faults, grades, only, with_

from certificates import HOST, Papers
from daemon.operating.peers import look_at_peers
from daemon.settings import Settings
from doors import free_port
from repository import Collector

VERIFICATION = "1.2.840.10008.1.1"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


@pytest.fixture
def peer() -> Iterator[tuple[ApplicationEntity, int]]:
    ae, port = AE("RIS"), free_port()
    ae.add_supported_context(VERIFICATION)
    server = ae.start_server(("127.0.0.1", port), block=False)
    yield ae, port
    server.shutdown()  # type: ignore[union-attr]


def test_peers_that_we_call_are_asked_by_their_name(settings: Settings, peer: tuple[ApplicationEntity, int]) -> None:
    ae, port = peer
    asked = with_(settings, mwl_peer=f"RIS@127.0.0.1:{port}", ups_subscribers=(f"RIS@127.0.0.1:{port}",))
    assert grades(look_at_peers(asked)) == [
        f"ok ups_subscribers RIS@127.0.0.1:{port} answers",
        f"ok mwl_peer RIS@127.0.0.1:{port} answers",
    ]
    ae.require_called_aet = True
    wrong = with_(settings, mwl_peer=f"OTHER@127.0.0.1:{port}")
    assert only(look_at_peers(wrong)).startswith("fail mwl_peer") is True
    away = with_(settings, mwl_peer=f"RIS@127.0.0.1:{free_port()}")
    assert only(look_at_peers(away)).startswith("warn mwl_peer")


def test_whether_the_audit_repository_listens_is_told(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        there = with_(settings, audit_repository=f"syslog-tcp://127.0.0.1:{port}")
        assert grades(look_at_peers(there))[0] == f"ok audit_repository syslog-tcp://127.0.0.1:{port} answers"
    assert only(look_at_peers(there)).startswith(f"warn audit_repository syslog-tcp://127.0.0.1:{port} does not answer")


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    return Papers(tmp_path / "papers")


@pytest.fixture
def audited(settings: Settings, papers: Papers) -> Iterator[Settings]:
    """With a repository that listens, over TLS, and asks for a certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(papers.ca))
    context.load_cert_chain(*papers.issue("repository"))
    context.verify_mode = ssl.CERT_REQUIRED
    collector = Collector(context)
    with collector.listening():
        certificate, key = papers.issue("triage")
        shown = {"audit_tls_certificate_file": certificate, "audit_tls_key_file": key}
        where = {"audit_repository": f"syslog-tls://{HOST}:{collector.port}", "audit_tls_ca_file": papers.ca}
        yield with_(settings, **where, **shown)


def test_an_audit_repository_answers_if_both_sides_trust_each_other(audited: Settings) -> None:
    assert grades(look_at_peers(audited))[0] == f"ok audit_repository {audited.audit_repository} answers"


def test_an_audit_repository_of_another_authority_does_not_answer(audited: Settings, tmp_path: Path) -> None:
    wrong = only(look_at_peers(with_(audited, audit_tls_ca_file=Papers(tmp_path / "others").ca)))
    assert wrong.startswith(f"fail audit_repository {audited.audit_repository}: no TLS can be agreed on (")
    assert "certificate" in wrong


def test_an_audit_repository_that_does_not_trust_us_does_not_answer(audited: Settings, tmp_path: Path) -> None:
    certificate, key = Papers(tmp_path / "others").issue("triage")
    stranger = with_(audited, audit_tls_certificate_file=certificate, audit_tls_key_file=key)
    assert only(look_at_peers(stranger)).startswith(f"fail audit_repository {audited.audit_repository}: no TLS")


def test_an_audit_repository_whose_authority_cannot_be_read_is_left_to_the_certificates(
    audited: Settings, tmp_path: Path
) -> None:
    assert faults(look_at_peers(with_(audited, audit_tls_ca_file=tmp_path / "nowhere.pem"))) == []
