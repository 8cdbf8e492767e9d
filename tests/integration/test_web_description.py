"""The interface is what its description says."""

from __future__ import annotations

import html
import json
import re
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from daemon.web.schemas import BODY_BYTES_MAX, ENTRY_EXAMPLE, WORKLIST_EXAMPLE, Entry, Study, Worklist
from sites import UNKNOWN, Site
from triage.errors import Reason
from triage.records.tables import studies
from triage.study import (
    Analysis,
    ClinicalPriority,
    Tier,
    WorklistEntry,
)


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
    bodies = {"ReaderName", "MaybeReaderName", "ClosingBody", "OpinionBody", "PriorityBody"}
    answers = {"Worklist", "Study", "StudyEvents", "Opinions", "Requeued", "Problem", "Liveness", "Readiness"}
    assert targets == bodies | answers
    assert targets <= set(re.findall(r'<section id="(\w+)"', page))
