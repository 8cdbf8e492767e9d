"""What a query of the interface may ask for: a key that is not known is refused, and pages say how many match."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from doors import House, open_house
from sites import Site, is_problem
from triage.user import Role


@pytest.fixture
def house(engine: Engine, tmp_path: Path) -> Iterator[House]:
    with open_house(engine, tmp_path) as house:
        yield house


@pytest.mark.parametrize(
    ("address", "named", "nearest"),
    [
        ("/api/worklist?modalty=CR", "`modalty`", "`modality`"),
        ("/api/worklist?limit=1&Status=unread", "`Status`", "`status`"),
        ("/api/worklist?page=2", "`page`", "is `"),
        ("/api/opinions?since=2026", "`since`", "no query parameters"),
        ("/api/studies/1.2.3/events?limt=1", "`limt`", "no query parameters"),
        ("/api/changes?last=1", "`last`", "no query parameters"),
    ],
)
def test_a_key_that_is_not_known_is_refused_with_the_nearest_that_is(
    site: Site, address: str, named: str, nearest: str
) -> None:
    answer = site.client.get(address)
    assert is_problem(answer, 400)
    assert named in answer.json()["detail"]
    assert nearest in answer.json()["detail"]


@pytest.mark.parametrize("key", ["Doe^Jane", "P1001", "%3Cb%3E", "a" * 40, ""])
def test_what_is_no_name_of_a_key_is_not_repeated(site: Site, key: str) -> None:
    answer = site.client.get(f"/api/worklist?{key}=1")
    assert is_problem(answer, 400)
    assert not key or key not in answer.text
    assert "<b>" not in answer.text


def test_the_audit_refuses_unknown_keys_too(house: House) -> None:
    house.users.add("ada", Role.ADMIN, "correct horse battery")
    answer = house.program_of("ada").get("/api/audit?befor=3")
    assert is_problem(answer, 400)
    assert "`before`" in answer.json()["detail"]


@pytest.mark.parametrize("since", ["0.5", "1767225600", "2026-01-01T00:00:00", "2026-01-01"])
def test_the_audit_takes_times_alone_and_none_of_nowhere_in_particular(house: House, since: str) -> None:
    house.users.add("ada", Role.ADMIN, "correct horse battery")
    answer = house.program_of("ada").get("/api/audit", params={"since": since})
    assert is_problem(answer, 422)
    assert "since" in answer.json()["detail"]
    for stated in ("2026-01-01T00:00:00Z", "2026-01-01T01:00:00.5+01:00"):
        assert house.program_of("ada").get("/api/audit", params={"since": stated}).status_code == 200


def test_probes_may_add_what_they_like(site: Site) -> None:
    assert site.client.get("/api/health/live?_=1").status_code == 200
    assert site.client.get("/api/health/ready?_=1").status_code == 200


def test_every_page_says_how_many_studies_match_on_all(site: Site) -> None:
    for number in range(5):
        site.receive(number, modality="DX" if number % 2 else "CR")
    first = site.client.get("/api/worklist?limit=2").json()
    assert (first["count"], first["total"]) == (2, 5)
    second = site.client.get("/api/worklist", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    last = site.client.get("/api/worklist", params={"limit": 2, "cursor": second["next_cursor"]}).json()
    assert [(page["count"], page["total"]) for page in (second, last)] == [(2, 5), (1, 5)]
    assert site.client.get("/api/worklist?limit=1&modality=DX").json()["total"] == 2
    assert site.client.get("/api/worklist").json()["total"] == 5
    site.client.post("/api/studies/1.2.3.1/read")
    assert site.client.get("/api/worklist?limit=1").json()["total"] == 4
    assert site.client.get("/api/worklist?view=read&limit=1").json()["total"] is None
