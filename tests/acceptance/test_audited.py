"""What a real daemon tells an audit repository: peers over DICOM, people on the web, and its own coming and going."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path

import chests
import httpx
import pytest
from lxml import etree
from running import Daemon, has_ended, wait_for

from certificates import HOST, Papers
from repository import Collector, kind

PASSWORD = "correct horse battery"


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    return Papers(tmp_path / "papers")


@pytest.fixture
def collector(papers: Papers) -> Collector:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*papers.issue("repository"))
    return Collector(context)


@pytest.fixture
def daemon(make_daemon: Callable[..., Daemon], papers: Papers, collector: Collector) -> Daemon:
    where = f"syslog-tls://{HOST}:{collector.port}"
    listed = {"dicom_peers": "PACS@127.0.0.1,ECHOSCU@127.0.0.1", "dicom_strict_loopback": True}
    return make_daemon(audit_repository=where, audit_tls_ca_file=papers.ca, audit_source="audited", **listed)


def user(daemon: Daemon, name: str) -> None:
    command = [sys.executable, "-m", "daemon.cli", "users", "add", name, "--role", "radiologist"]
    subprocess.run(command, env=daemon.environment, input=PASSWORD, text=True, check=True, timeout=120)


def run(*command: str | Path) -> int:
    return subprocess.run(command, capture_output=True, check=False, timeout=120).returncode


def of(collector: Collector, name: str) -> list[etree._Element]:
    return [message for message in collector.messages if kind(message).startswith(name)]


def test_everything_that_is_done_arrives_and_nothing_waits_for_it(
    daemon: Daemon, collector: Collector, dcmtk: Path, tmp_path: Path
) -> None:
    daemon.start("serve")
    wait_for(daemon.live)
    daemon.wait_for_log("receiving")
    first = chests.chest(tmp_path / "films", PatientName="Audited^Child", PatientID="AUD-1", AccessionNumber="ACC-1")
    second = chests.chest(
        tmp_path / "films", StudyInstanceUID=first.study, PatientName="Audited^Child", PatientID="AUD-1"
    )
    other = chests.chest(tmp_path / "films", PatientID="AUD-2")
    at = (HOST, str(daemon.dicom_port))
    pacs = ("-aec", "TRIAGE", "-aet", "PACS")
    # While the repository is away.
    assert run(dcmtk / "storescu", *pacs, *at, first.path, second.path, other.path) == 0
    assert run(dcmtk / "storescu", "-aec", "TRIAGE", "-aet", "STRANGER", *at, other.path) != 0
    assert run(dcmtk / "storescu", "-aec", "TRIAGE", "-aet", "STRANGER-2", *at, other.path) != 0
    for _ in range(3):  # a viewer that asks again and again
        keys = ("-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "PatientID=AUD-1", "-k", "StudyInstanceUID")
        assert run(dcmtk / "findscu", *pacs, *at, *keys) == 0
    user(daemon, "Dr Adler")
    with httpx.Client(base_url=f"http://{HOST}:{daemon.http_port}", headers={"sec-fetch-site": "same-origin"}) as web:
        assert web.post("/login", data={"name": "Dr Adler", "password": "wrong"}).status_code == 403
        assert web.post("/login", data={"name": "Dr Adler", "password": PASSWORD}).status_code == 303
        assert web.get(f"/api/studies/{first.study}").is_success
    wait_for(lambda: len(daemon.rows("SELECT 1 FROM accesses WHERE verb = 'look'")) == 1)
    daemon.wait_for_log("audit_repository_unavailable")
    daemon.kill("serve")
    wait_for(lambda: all(map(has_ended, daemon.orphans)))
    daemon.start("serve")
    with collector.listening():
        wait_for(lambda: any(kind(message).startswith("DICOM Instances Accessed") for message in collector.messages))
        wait_for(daemon.live)
        wait_for(lambda: len(of(collector, "Application Activity/Application Start")) >= 6)  # two of each process
        wait_for(lambda: not daemon.rows("SELECT 1 FROM accesses WHERE waits"))
    daemon.terminate()

    transfers = {
        m.find("ParticipantObjectIdentification").get("ParticipantObjectID"): m
        for m in of(collector, "DICOM Instances Transferred 0")
    }
    assert set(transfers) == {first.study, other.study}
    assert transfers[first.study].find(".//SOPClass").get("NumberOfInstances") == "2"
    assert transfers[first.study].find(".//Accession").get("Number") == "ACC-1"
    names = [each.text for each in transfers[first.study].iter("ParticipantObjectName")]
    assert "Audited^Child" in names
    (query,) = of(collector, "Query 0")
    assert b"AUD-1" in b64decode(query.findtext(".//ParticipantObjectQuery"))
    (alert,) = of(collector, "Security Alert/Node Authentication 8")  # the second stranger came from the same address
    assert alert.find("ActiveParticipant").get("UserID") == "STRANGER"
    assert len(of(collector, "User Authentication/Login 4")) == len(of(collector, "Security Alert/Login 4")) == 1
    assert len(of(collector, "User Authentication/Login 0")) == 1
    (look,) = of(collector, "DICOM Instances Accessed 0")
    assert look.findall("ParticipantObjectIdentification")[1].get("ParticipantObjectID") == "AUD-1"
    assert {m.find("AuditSourceIdentification").get("AuditSourceID") for m in collector.messages} == {"audited"}
    assert not [word for word in ("AUD-1", "Audited", "ACC-1", first.study) if word in daemon.log()]


def test_what_peers_do_stands_in_the_audit_of_this_machine_without_a_repository(
    make_daemon: Callable[..., Daemon], dcmtk: Path, tmp_path: Path
) -> None:
    daemon = make_daemon()
    daemon.start("receive")
    daemon.wait_until_up(web=False)
    film = chests.chest(tmp_path / "films")
    assert run(dcmtk / "storescu", "-aec", "TRIAGE", "-aet", "PACS", HOST, str(daemon.dicom_port), film.path) == 0
    daemon.terminate()
    rows = json.loads(daemon.run("audit", "--json").stdout)
    told = [(row["verb"], row["who"], row["study_instance_uid"], row["outcome"]) for row in rows]
    assert ("store", "PACS over DICOM", film.study, "success") in told
    assert (told[0][0], told[-1][0]) == ("application_stop", "application_start")
