"""The JSON interface to the worklist and its studies."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from sites import UNKNOWN, Site, is_problem
from triage.study import (
    ClinicalPriority,
    WorklistEntry,
)


def test_the_worklist_has_every_column_of_the_view_and_says_what_it_is(site: Site) -> None:
    site.receive(1, patient_name="Doe^Jane", age_years=4.0)
    answer = site.client.get("/api/worklist").json()
    names = {"generated_at", "policy_version", "waiting_limit_minutes", "version", "count", "total"}
    names |= {"entries", "next_cursor"}
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
