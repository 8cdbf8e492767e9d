"""Pictures that explain, where a site has chosen to show them."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import text

from sites import POLICY, UNKNOWN, Pictures, Site, is_problem
from triage.records.queue import Queue
from triage.records.reading import Reading
from triage.study import (
    Tier,
)


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
