"""Verbs of the interface on single studies, pages of the worklist, films and changes: a real server, real SQLite."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import synthetic
from daemon.decoder import Decoder
from daemon.folder import Folder
from daemon.web.film import Films
from daemon.web.rendering import Rendering
from daemon.web.server import Wings
from sites import POLICY, UNKNOWN, Site, is_problem, opened
from triage.proportion import wilson
from triage.records.intake import Intake
from triage.records.reading import Reading
from triage.records.store import Store
from triage.study import Header, ReceivedInstance, Tier
from triage.vision.header import parse_header

RINGS: list[str] = []


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Decoder() as decoder:

        def beside(store: Store) -> dict[str, Any]:
            films = Films(reading=Reading(store), kept=Folder(tmp_path), decoder=decoder)
            return {"wings": Wings(films=films), "ring": lambda: RINGS.append("ring")}

        with opened(tmp_path, explains=False, beside=beside) as site:
            yield site


def events(site: Site, uid: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = site.client.get(f"/api/studies/{uid}/events").json()["events"]
    return found


def kinds(site: Site, uid: str) -> list[str]:
    return [event["kind"] for event in events(site, uid)]


# -- pages ---------------------------------------------------------------------------------------------------------


def test_pages_of_the_interface_together_are_the_worklist(site: Site) -> None:
    for number in range(5):
        site.receive(number, modality="DX" if number % 2 else "CR")
    shown, cursor = [], ""
    for _ in range(3):
        page = site.client.get("/api/worklist", params={"limit": 2, "cursor": cursor}).json()
        shown += [entry["study_instance_uid"] for entry in page["entries"]]
        cursor = page["next_cursor"]
    assert cursor is None
    assert shown == site.uids()
    assert len(site.client.get("/api/worklist?modality=DX").json()["entries"]) == 2
    assert site.client.get("/api/worklist?view=&sort=&q=&limit=").json()["count"] == 5


@pytest.mark.fault(126)
@pytest.mark.parametrize(
    "query",
    [
        *("sort=SECRET", "sort=rank;DROP", "view=SECRET", "status=x", "tier=x", "analysis=x"),
        *("cursor=SECRET", "cursor=%00", "cursor=ü", "cursor=" + "A" * 300),
        *("q=%00", "q=" + "x" * 65, "modality=%1b"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_and_never_repeated(site: Site, query: str) -> None:
    answer = site.client.get(f"/api/worklist?{query}")
    assert is_problem(answer, 422)
    assert "SECRET" not in answer.text
    assert site.client.get(f"/?{query}").status_code == 422


def test_a_cursor_whose_study_has_moved_is_refused(site: Site) -> None:
    for number in range(3):
        site.receive(number)
    cursor = site.client.get("/api/worklist?limit=1").json()["next_cursor"]
    site.client.put(f"/api/studies/{site.uids()[0]}/clinical-priority", json={"clinical_priority": "STAT"})
    answer = site.client.get("/api/worklist", params={"limit": 1, "cursor": cursor})
    assert is_problem(answer, 422)
    assert "moved" in answer.json()["detail"]


def test_studies_that_were_read_have_a_view_of_their_own(site: Site) -> None:
    uid, _ = site.receive(1), site.receive(2)
    site.client.post(f"/api/studies/{uid}/read", json={"reader": "Dr A"})
    (entry,) = site.client.get("/api/worklist?view=read").json()["entries"]
    assert (entry["study_instance_uid"], entry["status"], entry["reader"], entry["rank"]) == (uid, "read", "Dr A", 0)
    page = site.client.get("/?view=read&sort=age").text  # as the form sends it where an order was chosen before
    assert f'href="/studies/{uid}"' in page
    assert "read by <bdi>Dr A</bdi>" in page
    assert '<form method="post"' not in page


def test_the_page_keeps_its_filters_over_a_button_and_into_the_next_page(site: Site) -> None:
    for number in range(3):
        site.receive(number, modality="CR", patient_name="Doe^Jane")
    page = site.client.get("/", params={"q": "doe", "limit": 2, "tier": "", "view": ""}).text
    assert page.count('name="q" value="doe"') == 3  # the search field, and both buttons
    assert 'href="/?q=doe&amp;limit=2&amp;cursor=' in page
    answer = site.client.post("/studies/1.2.3.0/start", data={"q": "doe", "limit": "2", "view": "evil\r\nX: y"})
    assert answer.headers["location"] == "/"
    answer = site.client.post("/studies/1.2.3.0/start", data={"q": "doe", "limit": "2"})
    assert answer.headers["location"] == "/?q=doe&limit=2"


# -- one study -----------------------------------------------------------------------------------------------------


def test_the_history_tells_each_verb_and_who_did_it(site: Site) -> None:
    uid = site.receive(1)
    site.analyse(Tier.LIKELY)
    for verb in ("start", "release", "start", "read"):
        site.client.post(f"/api/studies/{uid}/{verb}", json={"reader": "Dr A"})
    assert kinds(site, uid) == ["received", "analysed", "started", "released", "started", "read"]
    assert {event["who"] for event in events(site, uid)[2:]} == {"Dr A"}
    assert is_problem(site.client.get(f"/api/studies/{UNKNOWN}/events"), 404)


def test_opening_the_page_of_a_study_is_told_once_of_each_reader(site: Site) -> None:
    uid = site.receive(1)
    for reader in ("Dr A", "Dr B", "Dr A"):
        site.client.post("/reader", data={"reader": reader})
        assert site.client.get(f"/studies/{uid}").status_code == 200
        assert site.client.get(f"/studies/{uid}").status_code == 200
    assert [event["who"] for event in events(site, uid) if event["kind"] == "opened"] == ["Dr A", "Dr B"]
    assert site.client.get(f"/studies/{UNKNOWN}").status_code == 404
    with site.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE events SET at = datetime('now', '-11 minutes')")
    site.client.get(f"/studies/{uid}")
    assert kinds(site, uid).count("opened") == 3


def test_people_change_how_urgent_an_order_is_and_the_study_moves(site: Site) -> None:
    site.receive(1)
    uid = site.receive(2)
    change = {"clinical_priority": "STAT", "reader": "Dr A"}
    assert site.client.put(f"/api/studies/{uid}/clinical-priority", json=change).status_code == 204
    assert site.uids()[0] == uid
    told = events(site, uid)[-1]
    assert (told["kind"], told["who"], told["rank_from"], told["rank_to"]) == ("prioritised", "Dr A", 2, 1)
    assert told["words"] == "ROUTINE to STAT by the interface"
    site.client.post(f"/api/studies/{uid}/read")
    assert is_problem(site.client.put(f"/api/studies/{uid}/clinical-priority", json=change), 409)


@pytest.mark.parametrize(
    ("noun", "body"),
    [
        ("clinical-priority", {"clinical_priority": "SECRET"}),
        ("clinical-priority", {"clinical_priority": 0}),
        ("clinical-priority", {}),
        ("opinion", {"opinion": "SECRET", "reader": "Dr A"}),
        ("opinion", {"opinion": "agree"}),
        ("opinion", {"opinion": "agree", "reader": "SECRET\x1b"}),
        ("opinion", {"opinion": "agree", "reader": "Dr A", "SECRET": 1}),
    ],
)
def test_bodies_that_make_no_sense_are_refused_and_never_repeated(site: Site, noun: str, body: dict[str, Any]) -> None:
    uid = site.receive(1)
    site.analyse(Tier.LIKELY)
    answer = site.client.put(f"/api/studies/{uid}/{noun}", json=body)
    assert is_problem(answer, 422)
    assert "SECRET" not in answer.text


def test_opinions_are_counted_and_come_to_a_share_with_its_interval(site: Site) -> None:
    assert site.client.get("/api/opinions").json() == {"agree": 0, "disagree": 0, "unsure": 0, "ppv": None}
    assert "No reader has agreed or disagreed" in site.client.get("/opinions").text
    for number, opinion in enumerate(["agree", "agree", "agree", "disagree", "unsure"]):
        uid = site.receive(number)
        site.analyse(Tier.LIKELY)
        body = {"opinion": opinion, "reader": "Dr A"}
        assert site.client.put(f"/api/studies/{uid}/opinion", json=body).status_code == 204
    summed = site.client.get("/api/opinions").json()
    assert (summed["agree"], summed["disagree"], summed["unsure"]) == (3, 1, 1)
    assert summed["ppv"]["value"] == 0.75
    assert summed["ppv"]["low"] == pytest.approx(0.3006, abs=1e-4)
    assert summed["ppv"]["high"] == pytest.approx(0.9544, abs=1e-4)
    page = site.client.get("/opinions").text
    assert "<b>3</b> of 4 flagged studies" in page
    assert "<b>75 %</b> (95 % interval 30 to 95 %)" in page
    assert "Of 1 more they were unsure" in page
    assert 'href="/opinions"' in site.client.get("/").text


def test_what_was_read_by_mistake_is_put_back_by_the_interface_or_the_page(site: Site) -> None:
    uid = site.receive(1)
    assert is_problem(site.client.post(f"/api/studies/{uid}/reopen"), 409)
    assert "put it back" not in site.client.get(f"/studies/{uid}").text
    site.client.post(f"/api/studies/{uid}/read", json={"reader": "Dr A"})
    assert "put it back" in site.client.get(f"/studies/{uid}").text
    assert site.client.post(f"/api/studies/{uid}/reopen", json={"reader": "Dr A"}).status_code == 204
    assert site.uids() == [uid]
    site.client.post(f"/api/studies/{uid}/read", json={"reader": "Dr A"})
    answer = site.client.post(f"/studies/{uid}/reopen", data={"to": "study"}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/studies/{uid}")
    assert site.uids() == [uid]


def test_a_readers_own_last_word_is_marked_on_the_page(site: Site) -> None:
    uid = site.receive(1)
    site.analyse(Tier.LIKELY)
    for reader, opinion in (("Dr A", "agree"), ("Dr B", "unsure"), ("Dr A", "disagree")):
        site.client.put(f"/api/studies/{uid}/opinion", json={"opinion": opinion, "reader": reader})
    page = site.client.get(f"/studies/{uid}", headers={"cookie": "triage_reader=Dr%20A"}).text
    assert re.findall(r'<button id="(\w+)"[^>]*aria-pressed="true"', page) == ["disagree"]
    assert 'aria-pressed="true"' not in site.client.get(f"/studies/{uid}", headers={"cookie": "triage_reader=C"}).text


def test_there_is_no_opinion_on_what_was_not_analysed(site: Site) -> None:
    uid = site.receive(1)
    answer = site.client.put(f"/api/studies/{uid}/opinion", json={"opinion": "agree", "reader": "Dr A"})
    assert is_problem(answer, 409)


@pytest.mark.parametrize(("hits", "trials", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)])
def test_the_interval_stays_within_its_bounds(hits: int, trials: int, low: float, high: float) -> None:
    assert wilson(hits, trials) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_a_study_is_looked_at_again_and_the_workers_are_woken(site: Site) -> None:
    uid = site.receive(1)
    site.analyse(Tier.LIKELY)
    RINGS.clear()
    answer = site.client.post(f"/api/studies/{uid}/reanalyse", json={"reader": "Dr A"})
    assert (answer.status_code, answer.json(), RINGS) == (202, {"films": 1}, ["ring"])
    assert events(site, uid)[-1]["kind"] == "requeued"
    assert site.client.get("/api/health/ready").json()["jobs"] == {"queued": 1}
    assert site.client.post(f"/api/studies/{uid}/reanalyse").json() == {"films": 0}
    assert is_problem(site.client.post(f"/api/studies/{UNKNOWN}/reanalyse"), 404)


def test_the_buttons_of_the_study_page_do_the_same_without_a_script(site: Site) -> None:
    uid = site.receive(1)
    site.analyse(Tier.LIKELY)
    site.client.post("/reader", data={"reader": "Dr A"})
    for verb in ("start", "agree", "stat", "reanalyse"):
        page = site.client.get(f"/studies/{uid}").text
        assert f'action="/studies/{uid}/{verb}"' in page
        answer = site.client.post(f"/studies/{uid}/{verb}", data={"to": "study"})
        assert (answer.status_code, answer.headers["location"]) == (303, f"/studies/{uid}")
    assert kinds(site, uid) == ["received", "analysed", "opened", "started", "opinion", "prioritised", "requeued"]
    assert site.client.post(f"/studies/{uid}/read", data={"to": "study"}).headers["location"] == "/"
    page = site.client.get(f"/studies/{uid}").text
    assert "Read by <bdi>Dr A</bdi>" in page
    assert f'action="/studies/{uid}/start"' not in page


@pytest.mark.fault(39)
def test_markup_and_hidden_characters_stay_text_on_the_page_of_a_study(site: Site) -> None:
    attack = '"><img src=x onerror=alert(1)>{{ 7*7 }}\u202e\x1b'
    names = ("patient_name", "patient_id", "patient_sex", "accession_number", "study_description", "modality")
    uid = site.receive(1, **dict.fromkeys(names, attack))
    site.client.post(f"/api/studies/{uid}/start", json={"reader": attack[:-1]})
    for address in (
        f"/studies/{uid}",
        "/?view=reading",
        "/?modality=" + "%22%3E%3Cimg%3E",
        "/?q=%22%3E%3Cimg%3E%E2%80%AE",
    ):
        page = site.client.get(address).text
        assert "<img src=x" not in page
        assert "\u202e" not in page
        assert "\x1b" not in page


# -- films ---------------------------------------------------------------------------------------------------------


def keep(site: Site, tmp_path: Path, made: Any, number: int = 1) -> str:
    """A film as the receiver would keep it; its study."""
    path = synthetic.write(made, tmp_path / f"sent-{number}.dcm")
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    folder = Folder(tmp_path)
    folder.prepare()
    shutil.copy(path, tmp_path / "copy")
    folder.keep(tmp_path / "copy", sha256, len(content))
    header: Header = parse_header(content)
    Intake(site.store, POLICY).receive(ReceivedInstance(header=header, sha256=sha256, size_bytes=len(content)))
    return header.study_instance_uid


def film(rows: int = 300, columns: int = 200) -> Any:
    made = synthetic.data_set(synthetic.film(rows=rows, columns=columns))
    made.StudyInstanceUID, made.SOPInstanceUID, made.PatientName = "1.2.3.1", "1.2.3.1.1", "Secret^Name"
    return made


def picture(site: Site, uid: str, **params: Any) -> Image.Image:
    answer = site.client.get(f"/api/studies/{uid}/film.png", params=params)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert "Secret" not in str(answer.headers)
    return Image.open(io.BytesIO(answer.content))


def test_a_film_is_drawn_with_its_own_sides_and_no_word_beside_it(site: Site, tmp_path: Path) -> None:
    uid = keep(site, tmp_path, film())
    whole = picture(site, uid)
    assert (whole.size, whole.mode, whole.info) == ((200, 300), "L", {})
    assert picture(site, uid, size=150).size == (100, 150)


def test_a_packed_film_holds_more_greys_than_can_be_seen(site: Site, tmp_path: Path) -> None:
    uid = keep(site, tmp_path, film())
    packed = np.asarray(picture(site, uid, form="packed")).astype(int)
    whole = packed[..., 0] * 256 + packed[..., 1]
    assert len(np.unique(whole)) > 256
    assert np.abs(whole / 65535 - np.asarray(picture(site, uid)) / 255).max() < 1 / 255


def test_a_window_makes_black_and_white_of_what_lies_outside(site: Site, tmp_path: Path) -> None:
    uid = keep(site, tmp_path, film())
    plain, narrow = np.asarray(picture(site, uid)), np.asarray(picture(site, uid, window="0.5,0.2"))
    assert set(narrow[plain > 0.62 * 255]) == {255}
    assert set(narrow[plain < 0.38 * 255]) == {0}


@pytest.mark.parametrize(
    "query", ["size=63", "size=2049", "window=2,1", "window=0.5", "window=SECRET", "number=0", "form=x"]
)
def test_pictures_have_bounds(site: Site, query: str) -> None:
    answer = site.client.get(f"/api/studies/{site.receive(1)}/film.png?{query}")
    assert is_problem(answer, 422)
    assert "SECRET" not in answer.text


def test_the_stored_file_comes_whole_under_a_name_that_says_nothing(site: Site, tmp_path: Path) -> None:
    uid = keep(site, tmp_path, film())
    answer = site.client.get(f"/api/studies/{uid}/film.dcm")
    assert answer.content == (tmp_path / "sent-1.dcm").read_bytes()
    assert answer.headers["content-type"] == "application/dicom"
    assert answer.headers["content-disposition"] == 'attachment; filename="film.dcm"'


def test_a_film_that_is_not_kept_or_shows_nothing_is_said_to_be_so(site: Site, tmp_path: Path) -> None:
    gone = site.receive(7)
    blank = film()
    blank.StudyInstanceUID = "1.2.3.2"
    blank.PixelData = bytes(len(blank.PixelData))
    uid = keep(site, tmp_path, blank)
    for address in (
        f"{gone}/film.png",
        f"{gone}/film.dcm",
        f"{uid}/film.png",
        f"{uid}/film.png?number=2",
        f"{UNKNOWN}/film.png",
    ):
        answer = site.client.get(f"/api/studies/{address}")
        assert is_problem(answer, 404), address
        assert answer.json()["detail"]


def test_few_wait_for_films_and_all_others_are_answered(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid, look, go = keep(site, tmp_path, film()), Rendering._look, threading.Event()

    def slowly(*asked: Any) -> Any:
        assert go.wait(30)
        return look(*asked)

    monkeypatch.setattr(Rendering, "_look", slowly)
    with ThreadPoolExecutor(45) as pool:
        asked = [pool.submit(site.client.get, f"/api/studies/{uid}/film.png") for _ in range(45)]
        try:
            answered, waiting = wait(asked, timeout=5)
            assert len(waiting) == 9
            assert site.client.get("/api/worklist", timeout=5).status_code == 200
        finally:
            go.set()
        for answer in (each.result() for each in answered):
            assert is_problem(answer, 503)
            assert int(answer.headers["retry-after"]) > 0
        assert {each.result().status_code for each in waiting} == {200}


# -- changes -------------------------------------------------------------------------------------------------------


class Viewer(threading.Thread):
    """Listens until the stream ends."""

    def __init__(self, url: str, **headers: str) -> None:
        super().__init__(daemon=True)
        self.url, self.headers = url, headers
        self.heard: list[tuple[float, str]] = []
        self.has_ended = False
        self.start()

    def run(self) -> None:
        with httpx.stream("GET", f"{self.url}/api/changes", headers=self.headers, timeout=60) as answer:
            for line in answer.iter_lines():
                if line.startswith("id:"):
                    self.heard.append((time.monotonic(), line.partition(":")[2].strip()))
        self.has_ended = True

    def wait(self, count: int) -> None:
        deadline = time.monotonic() + 20
        while len(self.heard) < count:
            assert time.monotonic() < deadline, f"heard {len(self.heard)} of {count}"
            time.sleep(0.02)


def test_all_viewers_hear_of_a_change_and_of_its_version(site: Site) -> None:
    viewers = [Viewer(site.url) for _ in range(40)]
    for viewer in viewers:
        viewer.wait(1)
    uid = site.receive(1)
    for viewer in viewers:
        viewer.wait(2)
    version = site.client.get("/api/worklist").json()["version"]
    assert {viewer.heard[-1][1] for viewer in viewers} == {version}
    site.client.post(f"/api/studies/{uid}/start", json={"reader": "Dr A"})
    for viewer in viewers:
        viewer.wait(3)
    assert f'data-version="{site.client.get("/api/worklist").json()["version"]}"' in site.client.get("/").text


@pytest.mark.fault(131)
def test_a_burst_of_films_is_told_as_few_changes(site: Site) -> None:
    viewer = Viewer(site.url)
    viewer.wait(1)
    for number in range(60):
        site.receive(number)
    last = site.client.get("/api/worklist").json()["version"]
    deadline = time.monotonic() + 20
    while viewer.heard[-1][1] != last:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    times = [at for at, _ in viewer.heard]
    assert all(after - before > 0.45 for before, after in pairwise(times))
    assert len(times) < 10


def test_who_has_heard_the_last_change_is_not_told_again(site: Site) -> None:
    site.receive(1)
    version = site.client.get("/api/worklist").json()["version"]
    knows, does_not = Viewer(site.url, **{"last-event-id": version}), Viewer(site.url, **{"last-event-id": "0-0"})
    does_not.wait(1)
    time.sleep(1.2)
    assert knows.heard == []
    site.receive(2)
    knows.wait(1)


def test_streams_end_when_the_server_does(tmp_path: Path) -> None:
    with opened(tmp_path, explains=False) as site:
        viewers = [Viewer(site.url) for _ in range(5)]
        for viewer in viewers:
            viewer.wait(1)
        began = time.monotonic()
    assert time.monotonic() - began < 4.5  # not only when the grace for running requests is over
    for viewer in viewers:
        viewer.join(5)
        assert viewer.has_ended


@pytest.mark.fault(131)
def test_nobody_looks_at_the_database_for_changes_while_nobody_listens(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    version = type(Reading(site.store).history).version
    monkeypatch.setattr("triage.records.history.History.version", lambda self: looks.append("look") or version(self))
    time.sleep(1.2)
    assert looks == []
    with httpx.stream("GET", f"{site.url}/api/changes", timeout=20) as answer:
        assert (
            json.loads(next(line for line in answer.iter_lines() if line.startswith("data:"))[5:])["version"] == "0-0"
        )
    time.sleep(2)
    looks.clear()
    time.sleep(1.2)
    assert looks == []
