"""What is told, and what is not, where the web server cannot do as it is asked."""

from __future__ import annotations

import logging
import socket
import threading
from typing import Any

import pytest
from sqlalchemy import text

from daemon.web.server import build_app
from daemon.web.serving import _listen, serve
from sites import POLICY, UNKNOWN, Site, is_problem
from triage.errors import TriageError
from triage.records.listing import Listing
from triage.records.queue import Queue
from triage.records.reading import Reading
from triage.records.store import Store, open_engine


@pytest.mark.fault(86, 134)
def test_without_the_database_nothing_looks_like_an_empty_worklist(site: Site) -> None:
    uid = site.receive(1)
    with site.engine.begin() as connection:
        connection.execute(text("DROP VIEW reading_worklist"))
        connection.execute(text("ALTER TABLE studies RENAME TO gone"))
        connection.execute(text("ALTER TABLE jobs RENAME TO gone_too"))
    for address in ("/api/worklist", f"/api/studies/{uid}"):
        answer = site.client.get(address)
        assert is_problem(answer, 503)
        assert int(answer.headers["retry-after"]) > 0
        assert "studies" not in answer.text
    assert is_problem(site.client.post(f"/api/studies/{uid}/read"), 503)
    assert site.client.get("/").status_code == 503
    assert "Nothing waits" not in site.client.get("/").text
    ready = site.client.get("/api/health/ready")
    assert (ready.status_code, ready.json()["missing"]) == (503, ["The database does not answer."])
    assert site.client.get("/api/health/live").status_code == 200


@pytest.mark.fault(135)
def test_an_unexpected_error_tells_nothing_of_itself(
    site: Site, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("SECRET^PATIENT")

    monkeypatch.setattr(Listing, "page", fail)
    answer = site.client.get("/api/worklist")
    assert is_problem(answer, 500)
    assert set(answer.json()) == {"type", "title", "status"}
    page = site.client.get("/")
    assert page.status_code == 500
    assert page.headers["x-content-type-options"] == "nosniff"
    printed = "".join(capfd.readouterr())
    assert "SECRET" not in answer.text + page.text + printed
    assert "http_request_failed" in printed


def test_neither_addresses_nor_names_are_logged(
    site: Site, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    logging.getLogger("uvicorn.access").setLevel("DEBUG")
    uid = site.receive(1, patient_name="Secret^Name")
    site.client.get(f"/api/studies/{uid}")
    site.client.get("/")
    site.client.get(f"/api/studies/{UNKNOWN}")
    logged = "".join(record.getMessage() for record in caplog.records if not record.name.startswith("http"))
    printed = "".join(capfd.readouterr())
    assert not any(secret in printed + logged for secret in (uid, UNKNOWN, "Secret"))


def test_no_answer_waits_for_the_acknowledgement_of_its_head_and_none_for_ever_for_its_own() -> None:
    listening = _listen("127.0.0.1", 0)
    with listening, socket.create_connection(listening.getsockname()):
        connection, _ = listening.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 300_000


def test_a_port_that_is_taken_is_told_in_words(sqlite_url: str) -> None:
    store = Store(open_engine(sqlite_url))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        app = build_app(Reading(store), Queue(store, POLICY), [], dict)
        with pytest.raises(TriageError, match=rf"listen on 127.0.0.1 port {port}: Address already in use"):
            serve(app, "127.0.0.1", port, threading.Event())
