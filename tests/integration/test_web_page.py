"""The page that people read: it works without a script."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from html.parser import HTMLParser

import httpx
import pytest

from daemon.web.page import badge
from sites import UNKNOWN, Site
from triage.records.reading import Reading
from triage.study import (
    Analysis,
    ClinicalPriority,
    Tier,
)


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
