"""The page in a real browser: a study comes and moves up, is looked at, is claimed by one of two, and is read."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chests
import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, Route, expect, sync_playwright
from running import Daemon, running, wait_for
from sending import send

from absent import missing
from daemon.web.server import STATIC
from triage.phantom.film import phantom

PASSWORD = "correct horse battery"
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's; none is downloaded."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        missing("Chromium (apt-get install chromium)")
    with sync_playwright() as playwright:
        # Its own sandbox does not run as root.
        launched = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One for all tests here, which leave it as they found it."""
    with running(tmp_path_factory.mktemp("daemon"), explanations=True) as shared:
        yield shared.serve()


@pytest.fixture
def seat(browser: Browser, daemon: Daemon) -> Iterator[Callable[..., Page]]:
    """A browser of its own for each reader; what a script complains about fails the test."""
    contexts = []
    complaints: list[str] = []

    def sit(reader: str, *, viewport: dict[str, int] = WIDE, scripted: bool = True) -> Page:
        context = browser.new_context(
            viewport=viewport,  # type: ignore[arg-type]
            java_script_enabled=scripted,
            base_url=f"http://127.0.0.1:{daemon.http_port}",
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
        page.goto("/reader")
        page.fill("#reader", reader)
        page.click("button.primary")
        page.wait_for_load_state()
        return page

    yield sit
    for context in contexts:
        context.close()
    assert complaints == []


def serious(page: Page) -> list[str]:
    """What axe-core finds that keeps people out."""
    found: list[dict[str, Any]] = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['html']}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def arrive(daemon: Daemon, folder: Path, name: str) -> str:
    """A film is sent; its study, once it was looked at."""
    film = chests.chest(folder, PatientName=name, AccessionNumber=name[:12])
    assert send(daemon, film.dataset) == [0]
    daemon.settled(film.study)
    return film.study


def arrive_ill(daemon: Daemon, folder: Path, name: str) -> str:
    """As above, with a pneumonia drawn on the film."""
    pixels = np.rint(phantom(5, "bacterial").pixels[::2, ::2] * 4095).astype(np.uint16)
    film = chests.filed(folder, chests.dataset(pixels, PatientName=name, AccessionNumber=name[:12]))
    assert send(daemon, film.dataset) == [0]
    assert daemon.settled(film.study)["flagged"] is True
    return film.study


def row(page: Page, study: str) -> Locator:
    return page.locator(f"#row-{study}".replace(".", "\\."))


def ids(page: Page) -> list[str]:
    return [
        str(row).removeprefix("row-")
        for row in page.locator("#live tbody tr").evaluate_all("rows => rows.map(r => r.id)")
    ]


def prioritise(daemon: Daemon, study: str, priority: str) -> None:
    address = f"http://127.0.0.1:{daemon.http_port}/api/studies/{study}/clinical-priority"
    httpx.put(address, json={"clinical_priority": priority}, timeout=20).raise_for_status()


def read(daemon: Daemon, *studies: str) -> None:
    for study in studies:
        httpx.post(f"http://127.0.0.1:{daemon.http_port}/api/studies/{study}/read", timeout=20).raise_for_status()


def test_a_study_comes_moves_up_is_windowed_claimed_by_one_of_two_and_read(
    daemon: Daemon, seat: Callable[..., Page], tmp_path: Path
) -> None:
    adler, braun = seat("Dr Adler"), seat("Dr Braun", scripted=False)
    expect(adler.locator(".empty")).to_be_visible()
    adler.evaluate("window.neverReloaded = true")
    first = arrive(daemon, tmp_path, "Invented^First")
    second = arrive(daemon, tmp_path, "Invented^Second")
    expect(adler.locator("#live tbody tr")).to_have_count(2)
    assert ids(adler) == [first, second]
    ill = arrive_ill(daemon, tmp_path, "Invented^Ill")
    expect(adler.locator("#live tbody tr").first).to_have_id(f"row-{ill}")
    expect(row(adler, ill).locator(".why")).to_contain_text("Routine order; flagged: pneumonia")
    read(daemon, ill)
    expect(row(adler, ill)).to_have_count(0)

    adler.keyboard.press("j")
    adler.keyboard.press("j")
    expect(adler.locator(f"#open-{second}".replace(".", "\\."))).to_be_focused()
    prioritise(daemon, second, "STAT")
    expect(adler.locator("#live tbody tr").first).to_have_id(f"row-{second}")
    expect(adler.locator(f"#open-{second}".replace(".", "\\."))).to_be_focused()
    expect(adler.locator("#news")).to_have_text("Invented, Second moved from place 2 to 1")
    assert adler.evaluate("window.neverReloaded") is True

    braun.goto(f"/studies/{second}")
    adler.keyboard.press("Enter")
    canvas = adler.locator("#film")
    expect(canvas).to_be_visible()
    expect(adler.locator(".why").first).to_contain_text("STAT order; ")
    whole = adler.locator("#window").inner_text()
    drag(adler)
    assert adler.locator("#window").inner_text() != whole
    canvas.focus()
    adler.keyboard.press("i")
    expect(adler.locator('[data-tool="invert"]')).to_have_attribute("aria-pressed", "true")
    adler.keyboard.press("0")
    adler.keyboard.press("+")
    expect(adler.locator("#window")).to_have_text("level 0.50, window 1.00, 125 %")

    adler.click("#start")
    expect(adler.locator("aside .who")).to_have_text("you are reading")
    braun.click("#start")
    expect(braun.locator("main")).to_contain_text("Another reader holds the study. It is being read by Dr Adler.")
    adler.click("#read")
    expect(adler.locator("#live tbody tr")).to_have_count(1)
    assert ids(adler) == [first]
    adler.goto("/?view=read")
    expect(row(adler, second).locator(".who")).to_contain_text("read by Dr Adler")
    read(daemon, first)


def drag(page: Page) -> None:
    """Across the film, to a narrower and darker window."""
    box = page.locator("#film").bounding_box()
    assert box
    page.mouse.move(box["x"] + 300, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 180, box["y"] + 240, steps=4)
    page.mouse.up()


def brightness(page: Page) -> float:
    """Of the middle of the film as it is drawn, 0 to 255."""
    return float(
        page.evaluate("""() => {
            const film = document.getElementById("film");
            const {data} = film.getContext("2d").getImageData(film.width / 2 - 50, film.height / 2 - 50, 100, 100);
            return data.filter((_, i) => i % 4 === 0).reduce((sum, grey) => sum + grey, 0) / 10000;
        }""")
    )


def test_window_level_and_inversion_change_what_is_drawn(
    daemon: Daemon, seat: Callable[..., Page], tmp_path: Path
) -> None:
    study = arrive(daemon, tmp_path, "Invented^Window")
    page = seat("Dr Adler")
    page.goto(f"/studies/{study}")
    expect(page.locator("#film")).to_be_visible()
    page.wait_for_function("document.getElementById('window').textContent")
    plain = brightness(page)
    page.locator("#film").focus()
    for _ in range(4):
        page.keyboard.press("ArrowDown")
    page.wait_for_timeout(300)
    darker = brightness(page)
    assert darker < plain - 10
    page.keyboard.press("i")
    page.wait_for_timeout(300)
    assert abs(brightness(page) - (255 - darker)) < 3
    read(daemon, study)


def test_s_and_r_start_and_read_the_chosen_study_and_the_page_stays(
    daemon: Daemon, seat: Callable[..., Page], tmp_path: Path
) -> None:
    study, other = arrive(daemon, tmp_path, "Invented^Key"), arrive(daemon, tmp_path, "Invented^Other")
    page = seat("Dr Adler")
    page.evaluate("window.neverReloaded = true")
    page.keyboard.press("j")
    page.keyboard.press("r")
    expect(page.locator("#stale")).to_have_text("Start it first.")
    page.keyboard.press("s")
    expect(page.locator("#live tr.mine")).to_have_id(f"row-{study}")
    page.keyboard.press("s")
    expect(page.locator("#stale")).to_have_text("you are reading")
    page.keyboard.press("r")
    expect(page.locator("#live tbody tr")).to_have_count(1)
    assert page.evaluate("window.neverReloaded") is True
    page.keyboard.press("/")
    page.keyboard.type("sjr")
    expect(page.locator("#filter-q")).to_have_value("sjr")
    page.keyboard.press("Enter")
    expect(page.locator(".empty")).to_contain_text("No study is like that")
    assert page.url.endswith("/?q=sjr")
    read(daemon, other)


@pytest.mark.fault(134)
def test_a_page_whose_server_is_gone_says_how_old_it_is(make_daemon: Callable[..., Daemon], browser: Browser) -> None:
    daemon = make_daemon().serve()
    page = browser.new_page(viewport=WIDE)  # type: ignore[arg-type]
    page.goto(f"http://127.0.0.1:{daemon.http_port}/")
    expect(page.locator("#stale")).to_be_hidden()
    daemon.terminate()
    expect(page.locator("#stale")).to_contain_text("could not be refreshed", timeout=45_000)
    page.close()


def test_a_place_that_has_moved_costs_no_filter(seat: Callable[..., Page]) -> None:
    page = seat("Dr Adler")
    page.goto("/?q=nobody")
    page.evaluate("history.replaceState(null, '', '/?q=nobody&cursor=AAAA')")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page).to_have_url(re.compile(r"/\?q=nobody$"))
    expect(page.locator(".empty")).to_contain_text("No study is like that")


@pytest.mark.parametrize("answer", ["none", "503"])
def test_what_may_have_been_done_is_not_sent_twice(
    daemon: Daemon, seat: Callable[..., Page], tmp_path: Path, answer: str
) -> None:
    study = arrive(daemon, tmp_path, "Invented^Again")
    page, sent = seat("Dr Adler"), []

    def lose(route: Route) -> None:
        sent.append(route.request.url)
        route.abort() if answer == "none" else route.fulfill(status=503, body="")

    page.route("**/reanalyse", lose)
    page.goto(f"/studies/{study}")
    page.click("#reanalyse")
    expect(page.locator("#stale")).to_contain_text("whether that was done is not known")
    page.wait_for_timeout(2500)
    expect(page.locator("#stale")).to_be_visible()
    assert len(sent) == 1
    assert page.url.endswith(f"/studies/{study}")
    read(daemon, study)


def test_the_overlay_is_of_the_first_film_and_hides_with_it(
    daemon: Daemon, seat: Callable[..., Page], tmp_path: Path
) -> None:
    study = arrive(daemon, tmp_path, "Invented^Pair")
    second = chests.chest(tmp_path, PatientName="Invented^Pair", StudyInstanceUID=study)
    assert send(daemon, second.dataset) == [0]
    page = seat("Dr Adler")
    page.route("**/explanation*", lambda route: route.fulfill(path=STATIC / "icon.svg"))
    page.goto(f"/studies/{study}")
    film, overlay, kind = (page.locator(name) for name in ("#film", "#overlay", "#kind"))
    expect(film).to_be_visible()
    expect(page.locator('label[for="kind"]')).to_have_text("Overlay of film 1")
    kind.select_option("heat")
    expect(overlay).to_be_visible()
    expect(film).to_be_hidden()
    page.locator("#number").select_option("2")
    expect(film).to_be_visible()
    expect(overlay).to_be_hidden()
    expect(kind).to_be_disabled()
    expect(kind).to_have_value("")
    page.locator("#number").select_option("1")
    expect(kind).to_be_enabled()
    read(daemon, study)


def test_nothing_serious_keeps_anybody_from_signing_in_or_from_what_is_missing(
    make_daemon: Callable[..., Daemon], browser: Browser
) -> None:
    daemon = make_daemon()
    adding = [sys.executable, "-m", "daemon.cli", "users", "add", "Dr Adler", "--role", "radiologist"]
    subprocess.run(adding, env=daemon.environment, input=f"{PASSWORD}\n", text=True, check=True, timeout=120)
    daemon.start("web")
    wait_for(lambda: daemon.ended() or daemon.live())
    with browser.new_context(base_url=f"http://127.0.0.1:{daemon.http_port}") as context:
        page = context.new_page()
        page.goto("/login")
        assert serious(page) == []
        page.fill("#name", "Dr Adler")
        page.fill("#password", PASSWORD)
        page.click("button.primary")
        expect(page.locator("#live .banner")).to_contain_text("No receiver runs")
        expect(page.locator("#live .banner")).to_contain_text("first come, first served")
        assert serious(page) == []
        page.goto("/account")
        expect(page.locator("h1")).to_have_text("Dr Adler")
        assert serious(page) == []
        page.goto("/")
        expect(page.locator("#live")).to_be_visible()
        assert daemon.run("users", "disable", "Dr Adler").returncode == 0
        expect(page).to_have_url(re.compile("/login$"), timeout=45_000)  # no name stays on the screen


@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_nothing_serious_keeps_anybody_out_and_nothing_runs_over_the_edge(
    daemon: Daemon, seat: Callable[..., Page], tmp_path: Path, viewport: dict[str, int]
) -> None:
    study, other = (arrive(daemon, tmp_path, name) for name in ("Invented^" + "Long" * 12, "Invented^Other"))
    prioritise(daemon, other, "STAT")
    page = seat("Dr Adler", viewport=viewport)
    for address in ("/", f"/studies/{study}", "/?view=read", "/?q=nobody", "/reader", "/api/docs", "/nothing"):
        page.goto(address)
        if address.startswith("/studies"):
            expect(page.locator("#film")).to_be_visible()
        assert serious(page) == [], address
        if not address.startswith("/api"):
            assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"], address
    read(daemon, study, other)
