"""A real daemon that speaks TLS at all its doors, while its certificates are exchanged."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import chests
import httpx
import pytest
from running import Daemon, free_port, wait_for

import hl7_orders
from certificates import HOST, Papers

WINGS = ("dicom", "hl7", "http")


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    papers = Papers(tmp_path / "papers")
    for name in ("triage", "modality", "renewed"):
        papers.issue(name)
    return papers


@pytest.fixture
def daemon(make_daemon: Callable[..., Daemon], papers: Papers) -> Daemon:
    own = {f"{wing}_tls_certificate_file": papers.folder / "triage.pem" for wing in WINGS}
    own |= {f"{wing}_tls_key_file": papers.folder / "triage.key" for wing in WINGS}
    own |= {f"{wing}_tls_ca_file": papers.ca for wing in ("dicom", "hl7")}
    return make_daemon(hl7_port=free_port(), **own)


def test_every_door_speaks_tls_and_takes_a_new_certificate_without_a_restart(
    daemon: Daemon, papers: Papers, dcmtk: Path, tmp_path: Path
) -> None:
    daemon.start("serve")
    for event in ("receiving", "web_listening", "taking_orders"):
        assert daemon.wait_for_log(event)["tls"] is True
    film = chests.chest(tmp_path / "films", AccessionNumber="A1")
    pair = ("+tls", papers.folder / "modality.key", papers.folder / "modality.pem", "+cf", papers.ca)
    sent = (dcmtk / "storescu", *pair, "-aec", "TRIAGE", HOST, str(daemon.dicom_port), film.path)
    assert subprocess.run(sent, check=False, capture_output=True, timeout=60).returncode == 0
    assert order_over_tls(daemon, papers) == "AA"
    listed = over_https(daemon, papers, "/api/worklist")
    assert [entry["clinical_priority"] for entry in listed.json()["entries"]] == ["STAT"]
    assert listed.headers["strict-transport-security"] == "max-age=31536000"
    with pytest.raises(httpx.TransportError):
        daemon.get("/api/worklist")
    ports = [daemon.dicom_port, daemon.http_port, int(str(daemon.settings["hl7_port"]))]
    assert {shown(papers, port) for port in ports} == {"triage"}
    pids = [process.pid for process in daemon.family()]

    for suffix in ("pem", "key"):
        shutil.copy(papers.folder / f"renewed.{suffix}", papers.folder / f"triage.{suffix}")
    wait_for(lambda: len(daemon.lines("tls_reloaded")) == 3, 60)
    assert {shown(papers, port) for port in ports} == {"renewed"}
    shutil.copy(papers.folder / "modality.key", papers.folder / "triage.key")
    wait_for(lambda: len(daemon.lines("tls_not_reloaded")) == 3, 60)
    assert {shown(papers, port) for port in ports} == {"renewed"}
    assert set(pids) <= {process.pid for process in daemon.family()}

    daemon.terminate()
    refused = daemon.run("receive")
    assert refused.returncode == 2
    assert "not the key of dicom_tls_certificate_file" in refused.stderr


def client(papers: Papers) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=papers.ca)
    context.load_cert_chain(papers.folder / "modality.pem", papers.folder / "modality.key")
    return context


def shown(papers: Papers, port: int) -> str:
    """Common name of the certificate that a server shows."""
    with (
        socket.create_connection((HOST, port), 10) as plain,
        client(papers).wrap_socket(plain, server_hostname=HOST) as secure,
    ):
        subject = dict(pair for ((pair),) in (secure.getpeercert() or {})["subject"])
        return str(subject["commonName"])


def over_https(daemon: Daemon, papers: Papers, path: str) -> httpx.Response:
    with httpx.Client(verify=client(papers)) as browser:
        return browser.get(f"https://{HOST}:{daemon.http_port}{path}", timeout=20)


def order_over_tls(daemon: Daemon, papers: Papers) -> str:
    """The answer's code. Without TLS, and without a certificate, there is none."""
    where = (HOST, int(str(daemon.settings["hl7_port"])))
    stranger = ssl.create_default_context(cafile=papers.ca)
    with socket.create_connection(where, 10) as plain:
        assert b"MSA" not in answered(plain)
    with socket.create_connection(where, 10) as plain, stranger.wrap_socket(plain, server_hostname=HOST) as secure:
        assert answered(secure) == b""
    told = wait_for(lambda: daemon.lines("order_connection")[1:])  # written once the connection has been left
    assert [line["problem"] for line in told] == ["peer did not return a certificate"]
    with (
        socket.create_connection(where, 10) as plain,
        client(papers).wrap_socket(plain, server_hostname=HOST) as secure,
    ):
        return hl7_orders.code(hl7_orders.Sender(secure).say(hl7_orders.order("A1", "S")))


def answered(peer: socket.socket) -> bytes:
    """To an order; nothing if the connection ends."""
    try:
        peer.sendall(hl7_orders.framed(hl7_orders.order("A1", "S")))
        return peer.recv(1000)
    except (ConnectionError, ssl.SSLError):
        return b""
