"""The worklist over HTTP: a real server on a free port, a real SQLite database."""

from __future__ import annotations

import html
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from daemon.folder import Folder
from daemon.web.drawing import Drawing
from daemon.web.page import badge
from daemon.web.schemas import BODY_BYTES_MAX, ENTRY_EXAMPLE, WORKLIST_EXAMPLE, Entry, Study, Worklist
from daemon.web.server import Wings, build_app
from daemon.web.serving import serve
from triage.errors import BusyError, Reason, TriageError
from triage.policy import Policy, not_analysed
from triage.records import schema
from triage.records.intake import Intake
from triage.records.listing import Listing
from triage.records.queue import Queue, Result
from triage.records.reading import Reading
from triage.records.store import Store, open_engine
from triage.records.tables import studies
from triage.study import (
    Analysis,
    ClinicalPriority,
    Etiology,
    Explanation,
    Finding,
    Header,
    Priority,
    ReceivedInstance,
    Tier,
    WorklistEntry,
)

POLICY = Policy(version="site-7", waiting_limit_minutes=240)
UNKNOWN = "1.2.3.999999"
HOST = "triage.example"


class Pictures(Drawing):
    """Draws the words of what it was asked for, or is busy."""

    busy = False

    def draw(self, study_instance_uid: str, kind: Explanation) -> bytes:
        self.reading.film_to_explain(study_instance_uid)
        if Pictures.busy:
            raise BusyError("other explanations are being drawn")
        return f"{kind} of {study_instance_uid}".encode()


@dataclass
class Site:
    """A server and what is behind it."""

    url: str
    client: httpx.Client
    engine: Engine
    state: dict[str, Any] = field(default_factory=lambda: {"ready": True, "missing": []})
    state_error: Exception | None = None

    def ready(self) -> dict[str, Any]:
        if self.state_error:
            raise self.state_error
        return self.state

    @property
    def store(self) -> Store:
        return Store(self.engine)

    def receive(self, number: int, image: int = 1, **header: Any) -> str:
        uid = f"1.2.3.{number}"
        received = ReceivedInstance(
            header=Header(sop_class_uid="1.2", sop_instance_uid=f"{uid}.{image}", study_instance_uid=uid, **header),
            sha256=f"{number:032d}{image:032d}",
            size_bytes=1,
        )
        Intake(self.store, POLICY).receive(received)
        return uid

    def analyse(self, tier: Tier | None) -> None:
        """Finish the oldest job; None: without a finding."""
        queue = Queue(self.store, POLICY)
        (job,) = queue.claim("test", 60)
        if tier is None:
            shown = not_analysed(Reason.AGE_UNKNOWN, POLICY)
            queue.finish([Result(job=job, finding=Finding(reason=Reason.AGE_UNKNOWN), priority=shown)])
            return
        flagged = tier is not Tier.UNLIKELY
        priority = Priority(
            analysis=Analysis.ANALYSED,
            flagged=flagged,
            tier=tier,
            etiology=Etiology.BACTERIAL if flagged else None,
            p_pneumonia=0.9,
            words=f"flagged: pneumonia {tier}" if flagged else "analysed, not flagged",
            policy_version=POLICY.version,
        )
        found = Finding(weights_sha256="0" * 64, p_normal=0.1, p_bacterial=0.6, p_viral=0.3)
        queue.finish([Result(job=job, finding=found, priority=priority)])

    def uids(self) -> list[str]:
        return [entry["study_instance_uid"] for entry in self.client.get("/api/worklist").json()["entries"]]

    def shown_uids(self) -> list[str]:
        return re.findall(r'id="(?:start|release)-([0-9.]+)"', self.client.get("/").text)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with opened(tmp_path, explains=False) as site:
        yield site


@pytest.fixture
def explaining_site(tmp_path: Path) -> Iterator[Site]:
    with opened(tmp_path, explains=True) as site:
        yield site


@contextmanager
def opened(
    tmp_path: Path, *, explains: bool, beside: Callable[[Store], dict[str, Any]] = lambda _: {}
) -> Iterator[Site]:
    """``beside``: what else the pages are built with."""
    engine = open_engine(f"sqlite:///{tmp_path / 'triage.db'}")
    schema.upgrade(engine)
    store = Store(engine)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url, timeout=30) as client:
        site = Site(url, client, engine)
        drawing = Pictures(reading=Reading(store), kept=Folder(tmp_path)) if explains else None
        app = build_app(
            Reading(store),
            Queue(store, POLICY),
            POLICY,
            [HOST],
            site.ready,
            **{"wings": Wings(drawing=drawing), **beside(store)},
        )
        stop = threading.Event()
        server = threading.Thread(target=serve, args=(app, "127.0.0.1", port, stop))
        server.start()
        wait_for(site)
        yield site
        stop.set()
        server.join(15)
        assert not server.is_alive()
    engine.dispose()


def wait_for(site: Site) -> None:
    for _ in range(100):
        try:
            assert site.client.get("/api/health/live").status_code == 200
        except httpx.ConnectError:
            time.sleep(0.05)
        else:
            return
    pytest.fail("the server does not answer")


def is_problem(answer: httpx.Response, status: int) -> bool:
    content = answer.json()
    return (
        answer.status_code == status == content["status"]
        and answer.headers["content-type"] == "application/problem+json"
        and bool(content["title"])
    )


# -- the interface -------------------------------------------------------------------------------------------------


def test_the_worklist_has_every_column_of_the_view_and_says_what_it_is(site: Site) -> None:
    site.receive(1, patient_name="Doe^Jane", age_years=4.0)
    answer = site.client.get("/api/worklist").json()
    names = {"generated_at", "policy_version", "waiting_limit_minutes", "version", "count", "entries", "next_cursor"}
    assert set(answer) == names
    assert (answer["policy_version"], answer["waiting_limit_minutes"], answer["count"]) == ("site-7", 240, 1)
    assert list(answer["entries"][0]) == [column.name for column in fields(WorklistEntry)]
    assert answer["entries"][0]["patient_name"] == "Doe^Jane"
    assert answer["entries"][0]["analysis"] == "pending"


def test_a_limit_gives_the_first_of_the_same_order(site: Site) -> None:
    for number in range(4):
        site.receive(number)
    site.receive(9, clinical_priority=ClinicalPriority.STAT)
    everything = site.uids()
    assert everything[0] == "1.2.3.9"
    limited = site.client.get("/api/worklist", params={"limit": 2}).json()
    assert limited["count"] == 2
    assert [entry["study_instance_uid"] for entry in limited["entries"]] == everything[:2]


@pytest.mark.parametrize("limit", ["0", "10001", "-1", "<b>", "1e3"])
def test_a_limit_out_of_range_is_refused_without_repeating_it(site: Site, limit: str) -> None:
    answer = site.client.get("/api/worklist", params={"limit": limit})
    assert is_problem(answer, 422)
    assert "limit" in answer.json()["detail"]
    assert f" {limit}" not in answer.text
    assert "<b>" not in answer.text


def test_a_study_is_told_whole_also_after_it_was_read(site: Site) -> None:
    uid = site.receive(1, patient_id="P1", clinical_priority=ClinicalPriority.URGENT)
    assert site.client.post(f"/api/studies/{uid}/read").status_code == 204
    study = site.client.get(f"/api/studies/{uid}").json()
    assert (study["status"], study["patient_id"], study["clinical_priority"]) == ("read", "P1", "URGENT")
    assert study["policy_version"] == "site-7"
    assert [study[name] for name in ("rank", "why", "overdue", "waiting_seconds")] == [None] * 4


def test_an_open_study_is_told_with_its_place_on_the_worklist(site: Site) -> None:
    site.receive(1, clinical_priority=ClinicalPriority.STAT)
    uid = site.receive(2)
    study = site.client.get(f"/api/studies/{uid}").json()
    entry = site.client.get("/api/worklist").json()["entries"][1]
    assert study["rank"] == entry["rank"] == 2
    assert study["why"] == entry["why"] != ""
    assert study["overdue"] is False
    assert 0 <= study["waiting_seconds"] <= entry["waiting_seconds"] < 60


def test_a_study_that_was_read_leaves_the_worklist_and_reading_it_again_changes_nothing(site: Site) -> None:
    uid, other = site.receive(1), site.receive(2)
    assert site.client.post(f"/api/studies/{uid}/read", json={"reader": "Dr A"}).status_code == 204
    assert site.client.post(f"/api/studies/{uid}/read", json={"reader": "Dr B"}).status_code == 204
    assert site.uids() == [other] == site.shown_uids()
    assert site.client.get(f"/api/studies/{uid}").json()["reader"] == "Dr A"


def test_a_study_held_by_one_reader_cannot_be_started_by_another_until_it_is_released(site: Site) -> None:
    start = f"/api/studies/{site.receive(1)}/start"
    assert site.client.post(start, json={"reader": "Dr A"}).status_code == 204
    assert site.client.post(start, json={"reader": "Dr A"}).status_code == 204
    assert is_problem(site.client.post(start, json={"reader": "Dr B"}), 409)
    assert site.client.get("/api/worklist").json()["entries"][0]["reader"] == "Dr A"
    assert site.client.post("/api/studies/1.2.3.1/release").status_code == 204
    assert site.client.post(start, json={"reader": "Dr B"}).status_code == 204


def test_a_study_that_was_read_can_neither_be_started_nor_released(site: Site) -> None:
    uid = site.receive(1)
    site.client.post(f"/api/studies/{uid}/read")
    assert is_problem(site.client.post(f"/api/studies/{uid}/start", json={"reader": "Dr A"}), 409)
    assert is_problem(site.client.post(f"/api/studies/{uid}/release"), 409)


@pytest.mark.parametrize("verb", ["read", "release"])
def test_who_gives_a_name_cannot_end_the_reading_of_another(site: Site, verb: str) -> None:
    uid = site.receive(1)
    site.client.post(f"/api/studies/{uid}/start", json={"reader": "Dr A"})
    refused = site.client.post(f"/api/studies/{uid}/{verb}", json={"reader": "Dr SECRET"})
    assert is_problem(refused, 409)
    assert "another reader holds" in refused.json()["detail"]
    assert "SECRET" not in refused.text
    assert site.client.get(f"/api/studies/{uid}").json()["status"] == "reading"
    assert site.client.post(f"/api/studies/{uid}/{verb}", json={"reader": "Dr A"}).status_code == 204
    assert site.client.get(f"/api/studies/{uid}").json()["status"] != "reading"


@pytest.mark.parametrize("verb", ["read", "release"])
def test_without_a_name_nobody_is_asked_who_holds_the_study(site: Site, verb: str) -> None:
    uid = site.receive(1)
    site.client.post(f"/api/studies/{uid}/start", json={"reader": "Dr A"})
    assert site.client.post(f"/api/studies/{uid}/{verb}").status_code == 204
    assert site.client.get(f"/api/studies/{uid}").json()["status"] != "reading"


@pytest.mark.parametrize("body", [None, {"reader": "Dr A"}])
def test_a_study_with_new_images_cannot_be_read_before_it_is_started_again(site: Site, body: Any) -> None:
    uid = site.receive(1)
    site.client.post(f"/api/studies/{uid}/start", json={"reader": "Dr A"})
    site.receive(1, image=2)
    refused = site.client.post(f"/api/studies/{uid}/read", json=body)
    assert is_problem(refused, 409)
    assert "new images have arrived" in refused.json()["detail"]
    assert site.uids() == [uid]
    site.client.post(f"/api/studies/{uid}/start", json={"reader": "Dr A"})
    assert site.client.post(f"/api/studies/{uid}/read", json=body).status_code == 204
    assert site.uids() == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"reader": ""},
        {"reader": "SECRET" * 20},
        {"reader": "SECRET\x00"},
        {"reader": "\ud800"},
        {"SECRET": "x"},
        [1],
    ],
)
def test_a_reader_must_have_a_sensible_name(site: Site, body: Any) -> None:
    uid = site.receive(1)
    content = json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    answer = site.client.post(f"/api/studies/{uid}/start", content=content, headers=headers)
    assert is_problem(answer, 422)
    assert "SECRET" not in answer.text
    assert site.client.get(f"/api/studies/{uid}").json()["status"] == "unread"


@pytest.mark.parametrize(
    ("method", "address"),
    [("GET", ""), ("POST", "/read"), ("POST", "/release"), ("POST", "/start")],
)
def test_an_unknown_study_is_a_problem_that_does_not_repeat_its_uid(site: Site, method: str, address: str) -> None:
    body = {"reader": "Dr SECRET"} if address == "/start" else None
    answer = site.client.request(method, f"/api/studies/{UNKNOWN}{address}", json=body)
    assert is_problem(answer, 404)
    assert UNKNOWN not in answer.text
    assert "SECRET" not in answer.text


@pytest.mark.fault(135)
@pytest.mark.parametrize(
    ("method", "address", "status"),
    [
        ("GET", "/api/SECRET", 404),
        ("GET", "/SECRET", 404),
        ("GET", "/studies/1.2.3/SECRET", 405),
        ("POST", "/studies/1.2.3/SECRET", 422),
        ("GET", "/api/studies/SECRET", 422),
        ("DELETE", "/api/worklist?SECRET", 405),
        ("GET", "/?limit=SECRET", 422),
        ("GET", "/static/../web.py?SECRET", 404),
        ("GET", "/static/%2e%2e/web.py?SECRET", 404),
    ],
)
def test_no_error_repeats_a_value_of_the_request(site: Site, method: str, address: str, status: int) -> None:
    answer = site.client.request(method, address)
    assert answer.status_code == status
    assert "SECRET" not in answer.text + str(answer.headers)


def test_readiness_says_what_is_missing_and_which_jobs_wait(site: Site) -> None:
    site.receive(1)
    answer = site.client.get("/api/health/ready")
    assert (answer.status_code, answer.json()["missing"], answer.json()["jobs"]) == (200, [], {"queued": 1})
    site.state = {"ready": False, "missing": ["No worker runs."]}
    answer = site.client.get("/api/health/ready")
    assert (answer.status_code, answer.json()["missing"]) == (503, ["No worker runs."])


def test_a_readiness_check_that_fails_hides_no_study(site: Site) -> None:
    uid = site.receive(1)
    site.state = {}
    assert site.client.get("/api/health/ready").status_code == 503
    assert site.shown_uids() == [uid]
    assert "The state of the daemon is not known." in site.client.get("/").text


def test_readiness_without_the_database_says_that_it_does_not_answer(site: Site) -> None:
    site.state_error = OperationalError("SELECT SECRET", {}, Exception("SECRET"))
    answer = site.client.get("/api/health/ready")
    assert (answer.status_code, answer.json()["missing"]) == (503, ["The database does not answer."])


# -- its description -----------------------------------------------------------------------------------------------


def parts_of(site: Site) -> Any:
    return site.client.get("/api/openapi.json").json()["components"]["schemas"]


def fits(value: Any, schema: dict[str, Any], parts: dict[str, Any]) -> bool:
    """Whether a value is what the description says: names, types, codes, nulls."""
    if "$ref" in schema:
        return fits(value, parts[schema["$ref"].rpartition("/")[2]], parts)
    if "anyOf" in schema:
        return any(fits(value, part, parts) for part in schema["anyOf"])
    if schema["type"] == "array":
        return isinstance(value, list) and all(fits(part, schema["items"], parts) for part in value)
    if "properties" in schema:
        return set(value) == set(schema["properties"]) and all(
            fits(part, schema["properties"][name], parts) for name, part in value.items()
        )
    kinds = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None)}
    if not isinstance(value, kinds[schema["type"]]) or value not in schema.get("enum", [value]):
        return False
    return schema.get("format") != "date-time" or datetime.fromisoformat(value).tzinfo == UTC


def test_every_answer_is_as_described(site: Site) -> None:
    parts = parts_of(site)
    tiers = [Tier.LIKELY, None, Tier.POSSIBLE, Tier.UNLIKELY]
    for number, tier in enumerate(tiers):
        site.receive(number, clinical_priority=ClinicalPriority(number % 3), age_years=1.5)
        site.analyse(tier)
    site.receive(8)
    site.client.post("/api/studies/1.2.3.0/start", json={"reader": "Dr A"})
    assert fits(site.client.get("/api/worklist").json(), parts["Worklist"], parts)
    assert {entry["analysis"] for entry in site.client.get("/api/worklist").json()["entries"]} == set(Analysis)
    site.client.post("/api/studies/1.2.3.1/read")
    for number in range(len(tiers)):
        assert fits(site.client.get(f"/api/studies/1.2.3.{number}").json(), parts["Study"], parts)


def test_the_description_has_every_field_and_every_code(site: Site) -> None:
    parts = parts_of(site)
    names = [column.name for column in fields(WorklistEntry)]
    assert list(parts["WorklistEntry"]["properties"]) == list(Entry.model_fields) == names
    told = {*names, *studies.columns.keys()} - {"workitem_uid", "transaction_uid"}
    assert set(parts["Study"]["properties"]) == set(Study.model_fields) == told
    described = {name: shape for name, shape in parts["WorklistEntry"]["properties"].items() if shape["description"]}
    assert list(described) == names
    codes = {
        "clinical_priority": ["STAT", "URGENT", "ROUTINE"],
        "status": ["unread", "reading", "read"],
        "analysis": ["pending", "analysed", "not_analysed"],
        "reason": [reason.value for reason in Reason],
        "tier": ["likely", "possible", "unlikely"],
        "etiology": ["bacterial", "viral"],
    }
    for name, allowed in codes.items():
        shape = described[name]
        assert shape.get("anyOf", [shape])[0]["enum"] == allowed
    assert {name for name, shape in described.items() if {"type": "null"} in shape.get("anyOf", [])} == {
        column.name for column in fields(WorklistEntry) if "None" in str(column.type)
    }
    assert described["waiting_since"]["format"] == "date-time"
    assert "read" in parts["Study"]["properties"]["status"]["enum"]


def test_the_example_is_an_answer(site: Site) -> None:
    parts = parts_of(site)
    assert parts["Worklist"]["examples"] == [WORKLIST_EXAMPLE]
    assert fits(WORKLIST_EXAMPLE, parts["Worklist"], parts)
    assert json.loads(Worklist.model_validate(WORKLIST_EXAMPLE).model_dump_json()) == WORKLIST_EXAMPLE
    assert list(ENTRY_EXAMPLE) == list(Entry.model_fields)


def test_a_code_that_is_not_described_hides_no_study(site: Site) -> None:
    uid = site.receive(1)
    with site.engine.begin() as connection:
        connection.execute(text("UPDATE studies SET analysis = 'not_analysed', reason = 'of_a_newer_version'"))
    assert site.client.get("/api/worklist").json()["entries"][0]["reason"] == "of_a_newer_version"
    assert site.client.get(f"/api/studies/{uid}").status_code == 200


READ = "/api/studies/{uid}/read"
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("status", "method", "address", "request_"),
    [
        (400, "GET", "/api/worklist", {"headers": {"host": "evil.example"}}),
        (400, "POST", READ, {"content": b'{"reader": "\xff"}', "headers": JSON}),
        (403, "POST", READ, {"headers": {"origin": "https://evil.example"}}),
        (404, "GET", "/api/studies/{uid}", {}),
        (404, "POST", READ, {}),
        (409, "POST", "/api/studies/{uid}/start", {"json": {"reader": "Dr B"}}),
        (411, "POST", READ, {"content": iter([b"{}"])}),
        (413, "POST", READ, {"content": b" " * (BODY_BYTES_MAX + 1)}),
        (422, "GET", "/api/worklist", {"params": {"limit": 0}}),
        (422, "POST", READ, {"content": b'{"reader": "Dr B"}', "headers": {"content-type": "text/plain"}}),
        (422, "POST", READ, {"content": b'{"reader": "Dr B"}'}),
        (503, "GET", "/api/worklist", {}),
        (503, "POST", READ, {}),
        (503, "GET", "/api/health/ready", {}),
    ],
)
def test_every_failure_has_a_described_status_and_form(
    site: Site, status: int, method: str, address: str, request_: dict[str, Any]
) -> None:
    described = site.client.get("/api/openapi.json").json()
    uid = UNKNOWN if status == 404 else site.receive(1)
    if status == 409:
        site.client.post(f"/api/studies/{uid}/start", json={"reader": "Dr A"})
    if status == 503:
        with site.engine.begin() as connection:
            connection.execute(text("DROP VIEW reading_worklist"))
            connection.execute(text("ALTER TABLE jobs RENAME TO gone"))
            connection.execute(text("ALTER TABLE studies RENAME TO gone_too"))
    answer = site.client.request(method, address.format(uid=uid), **request_)
    assert answer.status_code == status
    forms = described["paths"][address][method.lower()]["responses"][str(status)]["content"]
    media_type = answer.headers["content-type"].partition(";")[0]
    assert media_type in forms
    if media_type == "application/problem+json":
        parts = described["components"]["schemas"]
        assert fits({"detail": "", **answer.json()}, forms[media_type]["schema"], parts)


def test_the_interface_is_described_without_anything_from_outside(site: Site) -> None:
    described = site.client.get("/api/openapi.json").json()
    page = site.client.get("/api/docs").text
    assert "/api/studies/{uid}/start" in described["paths"]
    assert all(path in page for path in described["paths"])
    assert not re.search(r"(src|href)=\"?(https?:)?//", page)


def test_the_page_that_describes_it_shows_types_codes_and_an_example(site: Site) -> None:
    page = html.unescape(site.client.get("/api/docs").text)
    rows = dict(re.findall(r"<tr><td><code>(\w+)</code></td><td>([^<]+)</td>", page.partition('id="Worklist"')[2]))
    assert rows["waiting_seconds"] == "integer"
    assert rows["waiting_since"] == "date-time string"
    assert rows["age_years"] == "number or null"
    assert rows["entries"] == "array of WorklistEntry"
    assert all(f"<code>{reason.value}</code></dt><dd>{reason.words}<" in page for reason in Reason)
    assert json.dumps(WORKLIST_EXAMPLE["generated_at"]) in page
    assert "every 5 s" in page
    assert "`" not in page
    targets = set(re.findall(r'href="#(\w+)"', page))
    bodies = {"ReaderName", "MaybeReaderName", "OpinionBody", "PriorityBody"}
    answers = {"Worklist", "Study", "StudyEvents", "Opinions", "Requeued", "Problem", "Liveness", "Readiness"}
    assert targets == bodies | answers
    assert targets <= set(re.findall(r'<section id="(\w+)"', page))


# -- failures ------------------------------------------------------------------------------------------------------


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


def test_a_port_that_is_taken_is_told_in_words(sqlite_url: str) -> None:
    store = Store(open_engine(sqlite_url))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        app = build_app(Reading(store), Queue(store, POLICY), POLICY, [], dict)
        with pytest.raises(TriageError, match=rf"listen on 127.0.0.1 port {port}: Address already in use"):
            serve(app, "127.0.0.1", port, threading.Event())


# -- defence -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": "cross-site", "origin": "self"},
    ],
)
def test_a_foreign_page_can_change_nothing(site: Site, headers: dict[str, str]) -> None:
    uid = site.receive(1)
    headers = {name: site.url if value == "self" else value for name, value in headers.items()}
    assert is_problem(site.client.post(f"/api/studies/{uid}/read", headers=headers), 403)
    assert site.client.post(f"/studies/{uid}/read", headers=headers).status_code == 403
    assert site.client.get(f"/api/studies/{uid}").json()["status"] == "unread"


def test_our_own_page_and_programs_can_change_a_study(site: Site) -> None:
    first, second = site.receive(1), site.receive(2)
    own = {"origin": site.url, "sec-fetch-site": "same-origin"}
    assert site.client.post(f"/studies/{first}/read", headers=own).status_code == 303
    assert site.client.post(f"/api/studies/{second}/read").status_code == 204
    assert site.uids() == []


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("127.0.0.1:8080", 200), ("[::1]:8080", 200), (HOST, 200), ("evil.example", 400), ("", 400)],
)
def test_only_known_host_names_are_served(site: Site, host: str, status: int) -> None:
    answer = site.client.get("/api/worklist", headers={"host": host})
    assert answer.status_code == status
    assert "evil" not in answer.text


@pytest.mark.fault(128)
def test_large_bodies_and_bodies_without_a_length_are_refused(site: Site) -> None:
    uid = site.receive(1)
    large = site.client.post(f"/api/studies/{uid}/read", content=b" " * (BODY_BYTES_MAX + 1))
    assert is_problem(large, 413)
    chunked = site.client.post(f"/api/studies/{uid}/read", content=iter([b"{}"]))
    assert is_problem(chunked, 411)
    assert site.client.get(f"/api/studies/{uid}").json()["status"] == "unread"


@pytest.mark.fault(129)
@pytest.mark.parametrize("address", ["/", "/api/worklist", "/api/docs", "/static/style.css", "/nothing", "/reader"])
@pytest.mark.parametrize("host", ["localhost", "evil.example"])
def test_every_answer_has_the_headers_of_defence(site: Site, address: str, host: str) -> None:
    headers = site.client.get(address, headers={"host": host}).headers
    assert headers["content-security-policy"].startswith("default-src 'none';")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["x-frame-options"] == "DENY"
    assert "server" not in headers


# -- the page ------------------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """Names of all elements, and of all attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.mark.parametrize(
    ("tier", "flagged", "shown"),
    [
        (Tier.LIKELY, True, ("likely", "likely")),
        (Tier.POSSIBLE, True, ("possible", "possible")),
        (Tier.LIKELY, False, ("unlikely", "likely, not flagged")),
        (Tier.POSSIBLE, False, ("unlikely", "possible, not flagged")),
        (Tier.UNLIKELY, False, ("unlikely", "not flagged")),
    ],
)
def test_the_colour_says_flagged_and_the_words_how_likely(
    *, tier: Tier, flagged: bool, shown: tuple[str, str], site: Site
) -> None:
    site.receive(1)
    (entry,) = Reading(site.store).worklist()
    assert badge(replace(entry, analysis=Analysis.ANALYSED, tier=tier, flagged=flagged)) == shown


def test_the_page_lists_in_the_order_of_the_interface(site: Site) -> None:
    for number, tier in enumerate([Tier.UNLIKELY, Tier.LIKELY, None, Tier.POSSIBLE], start=1):
        site.receive(number)
        site.analyse(tier)
    site.receive(5, clinical_priority=ClinicalPriority.URGENT)
    assert site.uids() == [f"1.2.3.{number}" for number in (5, 2, 4, 1, 3)] == site.shown_uids()
    page = site.client.get("/").text
    badges = re.findall(r'class="badge [a-z-]+">([a-z ]+)<', page)
    assert badges == ["pending", "likely", "possible", "not flagged", "not analysed"]
    whys = re.findall(r'data-label="Why here\?">([^<]+)<', page)
    assert [html.unescape(why) for why in whys] == [
        entry["why"] for entry in site.client.get("/api/worklist").json()["entries"]
    ]
    assert page.count("not reliable on films") == 2


@pytest.mark.fault(39, 129)
def test_markup_in_a_data_set_stays_text(site: Site) -> None:
    attack = '"><img src=x onerror=alert(1)><script>alert(1)</script>{{ 7*7 }}'
    names = ("patient_name", "patient_id", "patient_sex", "accession_number", "study_description", "modality")
    harmless = Elements(site.client.get("/").text)
    uid = site.receive(1, **dict.fromkeys(names, attack))
    site.client.post(f"/api/studies/{uid}/start", json={"reader": attack[:64]})
    page = site.client.get("/").text
    elements = Elements(page)
    assert "img" not in elements.names
    assert "onerror" not in elements.attributes
    assert page.count("<script") == 1 == site.client.get("/reader").text.count("<script") + 1
    assert "{{ 7*7 }}" in page
    assert html.escape("<script>alert(1)</script>") in page
    assert "style" not in elements.attributes | elements.names | harmless.attributes


@pytest.mark.fault(38)
def test_characters_that_hide_or_turn_text_around_are_made_visible(site: Site) -> None:
    site.receive(1, patient_name="Doe\u202e^Jane\x1b\u2028\u200b")
    page = site.client.get("/").text
    assert "Doe⟨U+202E⟩, Jane⟨U+001B⟩⟨U+2028⟩⟨U+200B⟩" in page
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", page)


def test_all_groups_of_a_name_are_shown(site: Site) -> None:
    site.receive(1, patient_name="Yamada^Tarou=山田^太郎=やまだ^たろう")
    assert "Yamada, Tarou · 山田, 太郎 · やまだ, たろう" in site.client.get("/").text


def test_an_empty_worklist_says_so_and_an_incomplete_page_too(site: Site) -> None:
    assert "Nothing waits to be read" in site.client.get("/").text
    for number in range(3):
        site.receive(number)
    page = site.client.get("/", params={"limit": 2}).text
    assert "The first 2 of 3 studies" in page
    assert "<b>3</b> open" in page


def test_what_is_missing_is_shown_above_the_list(site: Site) -> None:
    assert "Not everything is running" not in site.client.get("/").text
    site.state = {"ready": False, "missing": ["No worker has been heard of for 90 s."]}
    assert "No worker has been heard of for 90 s." in site.client.get("/").text


def test_the_buttons_lead_from_start_to_read_without_a_script(site: Site) -> None:
    uid = site.receive(1)
    site.client.post("/reader", data={"reader": "Dr Ögel"})
    answer = site.client.post(f"/studies/{uid}/start", data={"limit": "50"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/?limit=50")
    assert site.client.get("/api/worklist").json()["entries"][0]["reader"] == "Dr Ögel"
    page = site.client.get("/").text
    assert "you are reading" in page
    assert f'action="/studies/{uid}/read"' in page
    assert site.client.post(f"/studies/{uid}/read").headers["location"] == "/"
    assert site.uids() == []


def test_a_reader_without_a_name_is_given_one_that_stays(site: Site) -> None:
    for number in (1, 2):
        site.client.post(f"/studies/{site.receive(number)}/start")
    readers = {entry["reader"] for entry in site.client.get("/api/worklist").json()["entries"]}
    assert len(readers) == 1
    assert "you are reading" in site.client.get("/").text
    cookie = site.client.post("/studies/1.2.3.1/start").headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


def test_the_page_says_in_words_why_nothing_was_changed_and_leads_back(site: Site) -> None:
    uid = site.receive(1)
    site.client.post(f"/api/studies/{uid}/start", json={"reader": "Dr <A>"})
    refusals = [
        (f"/studies/{uid}/start", 409, "Another reader holds the study"),
        (f"/studies/{uid}/read", 409, "Another reader holds the study"),
        (f"/studies/{UNKNOWN}/read", 404, "no study is held"),
    ]
    for address, status, words in refusals:
        answer = site.client.post(address, data={"limit": "50"})
        assert answer.status_code == status
        assert words in answer.text
        assert 'href="/' in answer.text
        assert "<form" not in answer.text
    assert "read by <bdi>Dr &lt;A&gt;</bdi>" in site.client.post(f"/studies/{uid}/start").text
    assert 'href="/?limit=50"' in site.client.post(f"/studies/{uid}/start", data={"limit": "50"}).text
    assert site.client.get(f"/api/studies/{uid}").json()["status"] == "reading"
    assert f'action="/studies/{uid}/read"' not in site.client.get("/").text


def press(site: Site, page: str) -> httpx.Response:
    """Send the only form of a page."""
    address = re.findall(r'<form [^>]*action="([^"]+)"', page)
    assert len(address) == 1
    return site.client.post(address[0], data=dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page)))


def test_new_images_are_told_to_the_reader_who_can_start_again_and_then_read(site: Site) -> None:
    uid = site.receive(1)
    site.client.post(f"/studies/{uid}/start")
    site.receive(1, image=2)
    refused = site.client.post(f"/studies/{uid}/read", data={"limit": "50"})
    assert refused.status_code == 409
    assert "New images have arrived" in refused.text
    assert site.uids() == [uid]
    assert press(site, refused.text).headers["location"] == "/?limit=50"
    assert site.client.post(f"/studies/{uid}/read").status_code == 303
    assert site.uids() == []


def test_the_study_of_another_reader_is_released_only_at_the_second_asking(site: Site) -> None:
    uid = site.receive(1)
    site.client.post(f"/api/studies/{uid}/start", json={"reader": "Dr A"})
    refused = site.client.post(f"/studies/{uid}/release")
    assert refused.status_code == 409
    assert "read by <bdi>Dr A</bdi>" in refused.text
    assert site.client.get(f"/api/studies/{uid}").json()["reader"] == "Dr A"
    assert press(site, refused.text).status_code == 303
    assert site.client.get(f"/api/studies/{uid}").json()["status"] == "unread"


# -- explanations --------------------------------------------------------------------------------------------------


def test_pictures_are_off_unless_the_site_chose_them(site: Site) -> None:
    uid = site.receive(1)
    site.analyse(Tier.LIKELY)
    assert "explanation" not in site.client.get("/").text
    for address in (f"/studies/{uid}/explanation", f"/api/studies/{uid}/explanation"):
        assert site.client.get(address).status_code in (404, 405)
    assert "/api/studies/{uid}/explanation" not in site.client.get("/api/openapi.json").json()["paths"]


def test_studies_that_were_analysed_have_a_picture_of_each_kind(explaining_site: Site) -> None:
    site = explaining_site
    uid, pending = site.receive(1), site.receive(2)
    site.analyse(Tier.LIKELY)
    page = site.client.get("/").text
    assert f'href="/studies/{uid}/explanation"' in page
    assert f'href="/studies/{pending}/explanation"' not in page
    sheet = site.client.get(f"/studies/{uid}/explanation?kind=heat").text
    assert "not for diagnosis" in sheet
    (source,) = re.findall(r'<img[^>]* src="([^"]+)"', sheet)
    picture = site.client.get(source)
    assert picture.headers["content-type"] == "image/png"
    assert picture.headers["cache-control"] == "no-store"
    assert picture.content == f"heat of {uid}".encode()


def test_without_a_film_to_explain_there_is_no_picture(explaining_site: Site) -> None:
    site = explaining_site
    uid = site.receive(1)
    site.analyse(None)
    assert is_problem(site.client.get(f"/api/studies/{uid}/explanation"), 404)
    assert is_problem(site.client.get(f"/api/studies/{UNKNOWN}/explanation"), 404)
    assert is_problem(site.client.get(f"/api/studies/{uid}/explanation?kind=other"), 422)


def test_who_cannot_be_served_now_is_asked_to_come_again(
    explaining_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = explaining_site
    uid = site.receive(1)
    site.analyse(Tier.POSSIBLE)
    monkeypatch.setattr(Pictures, "busy", True)
    answer = site.client.get(f"/api/studies/{uid}/explanation")
    assert is_problem(answer, 503)
    assert int(answer.headers["retry-after"]) > 0


def test_the_film_explained_is_the_one_most_likely_ill_that_is_still_kept(site: Site) -> None:
    uid = site.receive(1)
    site.receive(1, image=2)
    site.analyse(Tier.LIKELY)
    site.analyse(Tier.UNLIKELY)
    reading = Reading(site.store)
    with site.engine.begin() as connection:
        connection.execute(text("UPDATE findings SET p_pneumonia = 0.1 * instance_id"))
    assert reading.film_to_explain(uid) == f"{1:032d}{2:032d}"
    Queue(site.store, POLICY).forget_file(2)
    assert reading.film_to_explain(uid) == f"{1:032d}{1:032d}"


def test_the_interface_is_described_with_pictures_too(explaining_site: Site) -> None:
    page = explaining_site.client.get("/api/docs")
    assert page.status_code == 200
    assert "explanation" in page.text
