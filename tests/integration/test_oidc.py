"""Signing in at an identity provider: a real one as a process of its own, and tokens that do not do."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from sqlalchemy import Engine

from daemon.web.oidc import BACK, Client
from doors import PASSWORD, House, open_house
from identity_provider import AUDIENCE, CLIENT, Identity, identity_provider
from triage.user import Role

ADLER = {"sub": "7", "preferred_username": "adler", "realm_access": {"roles": ["staff", "xray-readers"]}}
FAULTS = ["expired", "audience", "issuer", "none", "forged", "shared-secret", "no-subject"]


@pytest.fixture(scope="module")
def identity() -> Iterator[Identity]:
    with identity_provider() as identity:
        yield identity


@pytest.fixture
def house(engine: Engine, tmp_path: Path, identity: Identity) -> Iterator[House]:
    client = Client(
        issuer=identity.issuer,
        client_id=CLIENT,
        redirect_uri=BACK,
        audience=AUDIENCE,
        roles_claim="realm_access.roles",
        roles=((Role.VIEWER, "staff"), (Role.RADIOLOGIST, "xray-readers"), (Role.ADMIN, "xray-admins")),
    )
    with open_house(engine, tmp_path, client) as house:
        yield house


def come_back(house: House, browser: httpx.Client) -> httpx.Response:
    """Away and back, as a browser does."""
    away = browser.get("/login/oidc")
    assert away.status_code == 303, away.text
    back = httpx.get(away.headers["location"])
    assert back.headers["location"].startswith(house.url + BACK)
    return browser.get(back.headers["location"])


def is_in(browser: httpx.Client) -> bool:
    return browser.get("/").status_code == 200


def test_who_signs_in_there_is_in_here_with_the_highest_role_of_the_groups(house: House, identity: Identity) -> None:
    identity.say(**ADLER)
    browser = house.browser()
    assert browser.get("/").headers["location"] == "/login"
    assert "/login/oidc" in browser.get("/login").text
    welcome = come_back(house, browser)
    assert welcome.status_code == 200
    assert 'content="0;url=/"' in welcome.text
    assert is_in(browser)
    uid = house.receive(1)
    assert browser.post(f"/studies/{uid}/start").status_code == 303
    assert browser.get(f"/api/studies/{uid}").json()["reader"] == "adler"
    assert browser.get("/api/audit").status_code == 403


@pytest.mark.parametrize("fault", [*FAULTS, "nonce"])
def test_a_sign_in_that_does_not_do_lets_nobody_in(house: House, identity: Identity, fault: str) -> None:
    identity.say(**ADLER, fault=fault)
    browser = house.browser()
    refused = come_back(house, browser)
    assert refused.status_code == 403
    assert "identity provider" in refused.text
    assert not is_in(browser)
    assert house.users.all() == []


@pytest.mark.fault(125)
@pytest.mark.parametrize("fault", FAULTS)
def test_an_access_token_that_does_not_do_opens_nothing(house: House, identity: Identity, fault: str) -> None:
    bad = house.program(identity.mint(**ADLER, fault=fault)).get("/api/worklist")
    assert (bad.status_code, bad.headers["content-type"]) == (401, "application/problem+json")
    assert house.program(identity.mint(**ADLER)).get("/api/worklist").status_code == 200


@pytest.mark.fault(125)
def test_an_access_token_that_was_altered_opens_nothing(house: House, identity: Identity) -> None:
    head, claims, signature = identity.mint(**ADLER).split(".")
    told = json.loads(base64.urlsafe_b64decode(claims + "=="))
    told["realm_access"] = {"roles": ["xray-admins"]}
    altered = base64.urlsafe_b64encode(json.dumps(told).encode()).rstrip(b"=").decode()
    for forged in (
        f"{head}.{altered}.{signature}",
        f"{head}.{claims}.",
        f"{head}.{claims}.{signature[:-8]}",
        "a.b.c",
        "..",
    ):
        assert house.program(forged).get("/api/worklist").status_code == 401


def test_what_tells_of_a_sign_in_is_no_key(house: House, identity: Identity) -> None:
    """An ID token is for us to read, and programs must not use one as a token."""
    identity.say(**ADLER)
    seen: list[str] = []
    provider = house.entrance.keys.provider
    assert provider is not None
    fetch = provider._id_token
    provider._id_token = lambda code, secret: seen.append(fetch(code, secret)) or seen[-1]  # type: ignore[method-assign,func-returns-value]
    assert come_back(house, house.browser()).status_code == 200
    assert house.program(seen[0]).get("/api/worklist").status_code == 401


def test_an_answer_counts_only_in_the_browser_that_asked_and_only_once(house: House, identity: Identity) -> None:
    identity.say(**ADLER)
    mine, other = house.browser(), house.browser()
    back = httpx.get(mine.get("/login/oidc").headers["location"]).headers["location"]
    other.get("/login/oidc")
    assert other.get(back).status_code == 403
    assert house.browser().get(back).status_code == 403
    assert not is_in(other)
    assert mine.get(back).status_code == 200
    assert mine.get(back).status_code == 403


def test_an_answer_to_another_question_is_refused_though_its_code_is_good(house: House, identity: Identity) -> None:
    identity.say(**ADLER)
    for wrong in ({"state": "0" * 64}, {"state": ""}, {"iss": "https://elsewhere.example"}):
        mine = house.browser()
        back = httpx.URL(httpx.get(mine.get("/login/oidc").headers["location"]).headers["location"])
        assert mine.get(back.copy_merge_params(wrong)).status_code == 403
        assert mine.get(back).status_code == 403  # the cookie went with the refusal
        assert not is_in(mine)


def test_a_code_is_worth_nothing_without_the_verifier(house: House, identity: Identity) -> None:
    identity.say(**ADLER)
    mine, thief = house.browser(), house.browser()
    stolen = httpx.get(mine.get("/login/oidc").headers["location"]).headers["location"]
    own = httpx.get(thief.get("/login/oidc").headers["location"]).headers["location"]
    code = httpx.URL(stolen).params["code"]
    assert thief.get(httpx.URL(own).copy_set_param("code", code)).status_code == 403
    assert not is_in(thief)


def test_who_has_none_of_the_groups_gets_no_role(house: House, identity: Identity) -> None:
    for roles in ({"roles": ["cleaners"]}, {"roles": "staffroom"}, {"roles": [7]}, [], "staff"):
        identity.say(sub="8", preferred_username="brandt", realm_access=roles)
        refused = come_back(house, house.browser())
        assert refused.status_code == 403
        assert "no role" in refused.text


def test_the_role_is_that_of_the_last_sign_in_and_the_disabled_stay_out(house: House, identity: Identity) -> None:
    identity.say(**ADLER)
    browser = house.browser()
    come_back(house, browser)
    identity.say(**{**ADLER, "realm_access": {"roles": ["staff"]}})
    come_back(house, browser)
    assert browser.post("/studies/1.2/start").status_code == 403
    house.users.disable("adler")
    assert not is_in(browser)
    assert come_back(house, browser).status_code == 403
    assert house.program(identity.mint(**ADLER)).get("/api/worklist").status_code == 401


def test_nobody_becomes_another_by_taking_his_name(house: House, identity: Identity) -> None:
    house.users.add("adler", Role.ADMIN, PASSWORD)
    identity.say(**ADLER)
    browser = house.browser()
    refused = come_back(house, browser)
    assert refused.status_code == 403
    assert "Another user has this name" in refused.text
    identity.say(**{**ADLER, "preferred_username": "ADLER"})
    assert come_back(house, browser).status_code == 403


def test_who_is_renamed_there_stays_the_same_here(house: House, identity: Identity) -> None:
    identity.say(**ADLER)
    come_back(house, house.browser())
    identity.say(**{**ADLER, "preferred_username": "eagle"})
    browser = house.browser()
    come_back(house, browser)
    assert "adler" in browser.get("/account").text
    assert [user.name for user in house.users.all()] == ["adler"]


def test_the_provider_may_change_its_keys(house: House, identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.web.oidc._KEYS_AGAIN_SECONDS", 0.0)
    assert house.program(identity.mint(**ADLER)).get("/api/worklist").status_code == 200
    assert house.program(identity.mint(**ADLER, fault="new-key")).get("/api/worklist").status_code == 200


class Slow:
    """In the place of the provider's answers: none comes before ``go``, and then none that helps."""

    def __init__(self) -> None:
        self.go, self.asked = threading.Event(), threading.Semaphore(0)
        self.count = 0

    def get(self, url: str, **_: object) -> httpx2.Response:
        self.count += 1
        self.asked.release()
        assert self.go.wait(30)
        raise httpx2.ReadTimeout(url)


@pytest.mark.fault(125)
def test_forged_tokens_do_not_wait_behind_one_another_for_a_slow_provider(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow()
    monkeypatch.setattr("daemon.web.oidc.httpx2.get", slow.get)
    program = house.program("a.b.c")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(program.get, "/api/worklist")
        try:
            assert slow.asked.acquire(timeout=20)
            for _ in range(3):
                refused = program.get("/api/worklist", timeout=5)
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
                assert house.browser().get("/login/oidc", timeout=5).status_code == 503
        finally:
            slow.go.set()
        assert first.result().status_code == 401
    assert program.get("/api/worklist").status_code == 401
    assert slow.count == 1, "one that does not answer is not asked again at once"


def test_while_the_keys_are_asked_for_again_those_that_are_known_open(
    house: House, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = house.program(identity.mint(**ADLER))
    assert good.get("/api/worklist").status_code == 200
    slow = Slow()
    monkeypatch.setattr("daemon.web.oidc.httpx2.get", slow.get)
    monkeypatch.setattr("daemon.web.oidc._KEYS_SECONDS", -1.0)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(good.get, "/api/worklist")
        try:
            assert slow.asked.acquire(timeout=20)
            assert good.get("/api/worklist", timeout=5).status_code == 200
        finally:
            slow.go.set()
        assert first.result().status_code == 401


def test_a_program_signs_in_under_its_own_name(house: House, identity: Identity) -> None:
    token = identity.mint(sub="service-1", client_id="archive", realm_access={"roles": ["staff"]})
    assert house.program(token).get("/api/worklist").status_code == 200
    assert [(user.name, user.role) for user in house.users.all()] == [("archive", Role.VIEWER)]


def test_the_provider_away_is_told_as_that(engine: Engine, tmp_path: Path) -> None:
    absent: dict[str, Any] = {"issuer": "http://127.0.0.1:9", "client_id": CLIENT, "redirect_uri": BACK}
    with open_house(engine, tmp_path, Client(**absent, audience=AUDIENCE)) as house:
        refused = house.browser().get("/login/oidc")
        assert refused.status_code == 403
        assert "does not answer" in refused.text
        assert house.program("a.b.c").get("/api/worklist").status_code == 401
        assert house.browser().get("/").headers["location"] == "/login"
