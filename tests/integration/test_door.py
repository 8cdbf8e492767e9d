"""Who may do what: every route has a role, every session and token its end, and nobody acts for another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, text
from starlette.routing import Mount, WebSocketRoute

from daemon.web.attempts import ADDRESS_MAX, PAIR_MAX, WINDOW_SECONDS
from daemon.web.roles import RULES, find_rule
from doors import PASSWORD, House, open_house
from triage import passwords
from triage.errors import ConflictError, TriageError
from triage.user import Role

READER, OTHER, LOOKER, BOSS = "Dr Adler", "Dr Brandt", "Looker", "Boss"


@pytest.fixture
def house(engine: Engine, tmp_path: Path) -> Iterator[House]:
    with open_house(engine, tmp_path) as house:
        for name, role in (
            (READER, Role.RADIOLOGIST),
            (OTHER, Role.RADIOLOGIST),
            (LOOKER, Role.VIEWER),
            (BOSS, Role.ADMIN),
        ):
            house.users.add(name, role, PASSWORD)
        yield house


@pytest.fixture
def open_door(engine: Engine, tmp_path: Path) -> Iterator[House]:
    with open_house(engine, tmp_path) as house:
        yield house


def is_problem(answer: httpx.Response, status: int) -> bool:
    return answer.status_code == status and answer.headers["content-type"] == "application/problem+json"


# -- roles ---------------------------------------------------------------------------------------------------------


def routes(app: FastAPI) -> list[tuple[str, str]]:
    """(method, path) of everything that is served, however deep it was included."""
    found: list[tuple[str, str]] = []

    def walk(parts: Any, prefix: str = "") -> None:
        for part in parts:
            inner = getattr(part, "original_router", None) or getattr(part, "router", None)
            if isinstance(part, Mount):
                found.append(("GET", prefix + part.path + "/{path:path}"))
            elif isinstance(part, WebSocketRoute):
                found.append(("GET", prefix + part.path))
            elif getattr(part, "methods", None):
                found.extend((method, prefix + part.path) for method in part.methods if method != "HEAD")
            elif inner is not None:
                walk(inner.routes, prefix)
            else:
                pytest.fail(f"what is {type(part).__name__}?")

    walk(app.routes)
    return found


def undeclared(app: FastAPI) -> list[tuple[str, str]]:
    declared = {(rule.method, rule.path) for rule in RULES}
    return [route for route in routes(app) if route not in declared]


def test_every_route_has_a_role(house: House) -> None:
    assert len(routes(house.app)) > 15
    assert undeclared(house.app) == []


def test_a_new_route_without_a_role_is_noticed_and_served_to_nobody(house: House) -> None:
    house.app.add_api_route("/api/new", lambda: "secret")
    assert undeclared(house.app) == [("GET", "/api/new")]
    assert is_problem(house.program_of(BOSS).get("/api/new"), 404)
    assert is_problem(house.program_of(BOSS).post("/api/worklist"), 405)


def test_the_address_of_each_rule_finds_that_rule() -> None:
    for rule in RULES:
        path = rule.path.replace("{uid}", "1.2.3").replace("{verb}", "start").replace("{path:path}", "style.css")
        assert find_rule(rule.method, path)[0] is rule


NEEDING = [rule for rule in RULES if rule.role is not None]


@pytest.mark.fault(125)
def test_each_role_may_what_it_should_and_nothing_more(house: House) -> None:
    people = ((Role.VIEWER, LOOKER), (Role.RADIOLOGIST, READER), (Role.ADMIN, BOSS))
    programs = {role: house.program_of(name) for role, name in people}
    for rule in NEEDING:
        path = rule.path.replace("{uid}", "1.2.3").replace("{verb}", "start")
        for role, program in programs.items():
            with program.stream(rule.method, path) as answer:  # one of them never ends
                status = answer.status_code
            assert (status not in {401, 403}) is role.covers(rule.role or Role.VIEWER), (rule, role, status)


def test_without_a_key_pages_lead_to_the_sign_in_and_programs_are_told_what_to_show(house: House) -> None:
    for rule in NEEDING:
        path = rule.path.replace("{uid}", "1.2.3").replace("{verb}", "start")
        refused = httpx.request(rule.method, house.url + path)
        if rule.is_page:
            assert (refused.status_code, refused.headers["location"]) == (303, "/login"), rule
        else:
            assert is_problem(refused, 401), rule
            assert refused.headers["www-authenticate"].startswith("Bearer")


def test_the_matrix_as_people_know_it(house: House) -> None:
    uid = house.receive(1)
    with house.signed_in(LOOKER) as looker, house.signed_in(READER) as reader, house.signed_in(BOSS) as boss:
        assert looker.get("/").status_code == looker.get(f"/api/studies/{uid}").status_code == 200
        assert looker.post(f"/studies/{uid}/start").status_code == 403
        assert is_problem(looker.post(f"/api/studies/{uid}/start"), 403)
        assert is_problem(reader.get("/api/audit"), 403)
        assert boss.get("/api/audit").status_code == 200
        assert reader.post(f"/studies/{uid}/start").status_code == 303


def test_who_may_only_look_is_offered_nothing_else(house: House) -> None:
    uid = house.receive(1)
    with house.signed_in(LOOKER) as looker, house.signed_in(READER) as reader:
        for path in ("/", f"/studies/{uid}"):
            assert "data-verb" not in looker.get(path).text
            assert f"signed in as <bdi>{LOOKER}</bdi>" in looker.get(path).text
            assert 'data-verb="start"' in reader.get(path).text
        assert "change nothing" in looker.get("/account").text


def test_without_users_the_door_stands_open_and_closes_with_the_first(open_door: House) -> None:
    uid = open_door.receive(1)
    with open_door.browser() as browser:
        assert browser.get("/").status_code == 200
        assert browser.post(f"/api/studies/{uid}/start", json={"reader": "anybody"}).status_code == 204
        open_door.users.add(LOOKER, Role.VIEWER, PASSWORD)
        assert browser.get("/").headers["location"] == "/login"
        open_door.users.disable(LOOKER)
        assert is_problem(browser.get("/api/worklist"), 401)


def test_what_can_be_had_without_a_key_shows_nothing_of_a_study(house: House) -> None:
    with house.browser() as browser:
        for path in ("/login", "/static/style.css", "/api/health/live"):
            assert browser.get(path).status_code == 200
        for path in ("/api/health/ready", "/api/openapi.json", "/api/docs", "/api/audit", "/api/nowhere"):
            assert browser.get(path).status_code == 401


# -- who acts ------------------------------------------------------------------------------------------------------


def test_the_reader_is_who_has_signed_in_whatever_the_cookie_says(house: House) -> None:
    uid = house.receive(1)
    with house.signed_in(READER) as browser:
        browser.cookies.set("triage_reader", "Dr%20Evil")
        browser.post(f"/studies/{uid}/start")
        shown = browser.get("/").text
    assert reader_of(house, uid) == READER
    assert f"<bdi>{READER}</bdi>" in shown
    assert "Evil" not in shown


def reader_of(house: House, uid: str) -> str | None:
    with house.engine.connect() as connection:
        found = connection.execute(text("SELECT reader FROM studies WHERE study_instance_uid = :uid"), {"uid": uid})
        return found.scalar_one()


@pytest.mark.parametrize("verb", ["start", "read", "release"])
def test_nobody_acts_for_another(house: House, verb: str) -> None:
    uid = house.receive(1)
    with house.program_of(READER) as program:
        refused = program.post(f"/api/studies/{uid}/{verb}", json={"reader": OTHER})
        assert is_problem(refused, 403)
        assert OTHER not in refused.text
        assert program.post(f"/api/studies/{uid}/{verb}", json={"reader": READER}).status_code == 204


@pytest.mark.parametrize(("verb", "holder"), [("read", READER), ("release", None)])
def test_what_another_holds_is_read_or_released_only_by_who_insists(
    house: House, verb: str, holder: str | None
) -> None:
    uid = house.receive(1)
    address = f"/api/studies/{uid}/{verb}"
    with house.program_of(READER) as reader, house.program_of(OTHER) as archive:
        assert reader.post(f"/api/studies/{uid}/start").status_code == 204
        for body in (None, {}, {"reader": OTHER}, {"anyway": False}):
            assert is_problem(archive.post(address, json=body), 409)
        assert is_problem(archive.post(address, json={"anyway": "yes"}), 422)
        assert is_problem(archive.post(address, json={"anyway": True, "reader": READER}), 403)
        assert archive.post(address, json={"anyway": True}).status_code == 204
        assert reader_of(house, uid) == holder
        last = reader.get(f"/api/studies/{uid}/events").json()["events"][-1]
        assert (last["kind"], last["who"]) == ({"read": "read", "release": "released"}[verb], holder or OTHER)
    assert (OTHER, "success") in [(each.who, each.outcome) for each in house.accesses(verb=verb)]


def test_new_images_are_not_read_unseen_even_by_who_insists(house: House) -> None:
    uid = house.receive(1)
    with house.program_of(READER) as reader, house.program_of(OTHER) as archive:
        assert reader.post(f"/api/studies/{uid}/start").status_code == 204
        house.change("UPDATE studies SET changed_while_reading = :yes", yes=True)
        refused = archive.post(f"/api/studies/{uid}/read", json={"anyway": True})
        assert is_problem(refused, 409)
        assert "new images" in refused.json()["detail"]


@pytest.mark.parametrize("noun", ["opinion", "clinical-priority"])
def test_nobody_speaks_for_another(house: House, noun: str) -> None:
    with house.program_of(READER) as program:
        refused = program.put(f"/api/studies/1.2.3/{noun}", json={"reader": OTHER})
        assert is_problem(refused, 403)
        assert "signed in" in refused.json()["detail"]


def test_who_starts_a_study_need_not_say_who_it_is(house: House) -> None:
    uid = house.receive(1)
    with house.program_of(READER) as program:
        assert program.post(f"/api/studies/{uid}/start").status_code == 204
        assert reader_of(house, uid) == READER
        assert program.post(f"/api/studies/{uid}/start", json={"reader": None}).status_code == 204
        assert is_problem(program.post(f"/api/studies/{uid}/start", json=[1]), 422)
        assert is_problem(program.post(f"/api/studies/{uid}/start", json={"SECRET": 1}), 422)


def test_two_browsers_are_two_readers(house: House) -> None:
    uid = house.receive(1)
    with house.signed_in(READER) as first, house.signed_in(OTHER) as second:
        first.post(f"/studies/{uid}/start")
        assert second.post(f"/studies/{uid}/start").status_code == 409
        assert second.post(f"/studies/{uid}/read").status_code == 409
        assert reader_of(house, uid) == READER
        first.post("/logout")
        assert first.get("/").headers["location"] == "/login"
        assert second.get("/").status_code == 200


def test_who_is_signed_in_sees_so_and_can_sign_out(house: House) -> None:
    with house.signed_in(READER) as browser:
        assert browser.get("/reader").headers["location"] == "/account"
        assert READER in browser.get("/account").text
        assert browser.post("/logout").headers["location"] == "/login"
        assert browser.get("/account").headers["location"] == "/login"


# -- sessions ------------------------------------------------------------------------------------------------------


def session_of(browser: httpx.Client) -> str:
    return str(browser.cookies["triage_session"])


def test_the_session_is_kept_from_scripts_and_other_sites(house: House) -> None:
    with house.browser() as browser:
        cookie = browser.post("/login", data={"name": READER, "password": PASSWORD}).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Secure" not in cookie


@pytest.mark.parametrize("peers", [{"public_url": "https://triage.example"}, {"proxies": "loopback"}])
def test_behind_tls_the_session_never_travels_without(engine: Engine, tmp_path: Path, peers: dict[str, Any]) -> None:
    from ipaddress import ip_network  # noqa: PLC0415 - only here

    given = {"proxies": (ip_network("127.0.0.1"),)} if "proxies" in peers else peers
    with open_house(engine, tmp_path, **given) as house, house.browser(**{"x-forwarded-proto": "https"}) as browser:
        house.users.add(READER, Role.RADIOLOGIST, PASSWORD)
        signed = browser.post("/login", data={"name": READER, "password": PASSWORD})
        (cookie,) = [value for value in signed.headers.get_list("set-cookie") if "Max-Age=0" not in value]
        assert cookie.startswith("__Host-triage_session=")
        assert "Secure" in cookie
        plain = {"cookie": cookie.partition(";")[0].removeprefix("__Host-")}
        assert browser.get("/", headers=plain).headers["location"] == "/login"


def test_a_session_that_was_planted_is_worth_nothing(house: House) -> None:
    """Session fixation: whoever planted it knows it."""
    with house.signed_in(LOOKER) as attacker, house.browser() as victim:
        planted = session_of(attacker)
        victim.cookies.set("triage_session", planted)
        victim.post("/login", data={"name": BOSS, "password": PASSWORD})
        assert planted not in [cookie.value for cookie in victim.cookies.jar if cookie.domain != ""]
        assert is_problem(attacker.get("/api/audit"), 401)
        for unknown in ("chosen-by-me", "", "x" * 5000, planted):
            assert house.browser(cookie=f"triage_session={unknown}").get("/").headers["location"] == "/login"


def test_the_database_holds_no_session_token_or_password(house: House) -> None:
    with house.signed_in(READER) as browser:
        secrets = [session_of(browser), PASSWORD, house.tokens.add(READER, "x", 1)[1]]
    with house.engine.connect() as connection:
        held = "".join(
            str(connection.execute(text(f"SELECT * FROM {table}")).all())
            for table in ("users", "sessions", "tokens", "accesses")
        )
    assert [secret for secret in secrets if secret in held] == []


@pytest.mark.parametrize("column", ["seen_at", "expires_at"])
def test_a_session_ends_when_idle_and_when_old(house: House, column: str) -> None:
    with house.signed_in(READER) as browser:
        assert browser.get("/").status_code == 200
        house.change(f"UPDATE sessions SET {column} = '2020-01-01 00:00:00'")
        assert browser.get("/").headers["location"] == "/login"


def test_what_is_changed_about_a_user_counts_at_once(house: House) -> None:
    with house.signed_in(READER) as browser, house.program_of(READER) as program:
        house.users.set_role(READER, Role.VIEWER)
        assert browser.post("/studies/1.2/start").status_code == 403
        assert program.post("/api/studies/1.2/start").status_code == 403
        house.users.set_password(READER, PASSWORD + "2")
        assert browser.get("/").headers["location"] == "/login"
        house.users.disable(READER)
        assert program.get("/api/worklist").status_code == 401
        refused = browser.post("/login", data={"name": READER, "password": PASSWORD + "2"})
        assert refused.status_code == 403


# -- pages of other sites ------------------------------------------------------------------------------------------

FOREIGN = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
]


@pytest.mark.parametrize("headers", [*FOREIGN, {}])
def test_a_session_changes_nothing_unless_its_own_page_asks(house: House, headers: dict[str, str]) -> None:
    uid = house.receive(1)
    with house.signed_in(READER) as browser:
        cookie = {"cookie": f"triage_session={session_of(browser)}", **headers}
        for path in (f"/api/studies/{uid}/start", f"/studies/{uid}/start", f"/studies/{uid}/read"):
            assert httpx.post(house.url + path, headers=cookie).status_code == 403
    assert reader_of(house, uid) is None


@pytest.mark.parametrize("headers", FOREIGN)
def test_a_token_counts_wherever_the_request_comes_from(house: House, headers: dict[str, str]) -> None:
    uid = house.receive(1)
    with house.program_of(READER) as program:
        assert program.post(f"/api/studies/{uid}/start", headers=headers).status_code == 204


def test_no_foreign_page_is_allowed_to_send_a_token(house: House) -> None:
    headers = {
        "origin": "https://evil.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    asked = httpx.options(f"{house.url}/api/studies/1.2/start", headers=headers)
    assert asked.status_code == 403
    assert not [name for name in asked.headers if name.startswith("access-control")]


def test_a_bad_token_is_not_made_good_by_a_session(house: House) -> None:
    with house.signed_in(READER) as browser:
        assert is_problem(browser.get("/api/worklist", headers={"authorization": "Bearer triage_forged"}), 401)
        assert browser.get("/", headers={"authorization": "Basic Ym9zczpib3Nz"}).status_code == 401


def test_nobody_is_signed_in_by_a_foreign_page(house: House) -> None:
    for headers in FOREIGN:
        given = {"name": READER, "password": PASSWORD}
        assert httpx.post(f"{house.url}/login", data=given, headers=headers).status_code == 403


# -- tokens --------------------------------------------------------------------------------------------------------


def test_a_token_has_at_most_the_role_it_was_given(house: House) -> None:
    with house.program_of(BOSS, Role.VIEWER) as program:
        assert program.get("/api/worklist").status_code == 200
        assert is_problem(program.get("/api/audit"), 403)
    with pytest.raises(TriageError, match="higher role"):
        house.tokens.add(LOOKER, "", 1, Role.ADMIN)
    owned = house.program_of(BOSS, Role.RADIOLOGIST)
    house.users.set_role(BOSS, Role.VIEWER)
    assert owned.post("/api/studies/1.2/start").status_code == 403


@pytest.mark.fault(125)
def test_a_token_that_was_revoked_ran_out_or_was_altered_opens_nothing(house: House) -> None:
    token_id, secret = house.tokens.add(READER, "archive", 1)
    assert house.program(secret).get("/api/worklist").status_code == 200
    for forged in (secret[:-1], secret + "x", secret.swapcase(), "triage_", "triage_" + "A" * 43):
        refused = house.program(forged).get("/api/worklist")
        assert is_problem(refused, 401)
        assert "invalid_token" in refused.headers["www-authenticate"]
        assert forged not in refused.text
    house.tokens.revoke(token_id)
    assert house.program(secret).get("/api/worklist").status_code == 401
    other = house.tokens.add(READER, "archive", 1)[1]
    house.change("UPDATE tokens SET expires_at = '2020-01-01 00:00:00'")
    assert house.program(other).get("/api/worklist").status_code == 401
    with pytest.raises(TriageError, match="no token"):
        house.tokens.revoke("nothing")


# -- signing in ----------------------------------------------------------------------------------------------------


def attempt(house: House, name: str, password: str = "wrong", **headers: str) -> httpx.Response:
    with house.browser(**headers) as browser:
        return browser.post("/login", data={"name": name, "password": password})


def test_the_answer_is_the_same_whether_or_not_there_is_such_a_user(house: House) -> None:
    house.users.disable(OTHER)
    answers = {attempt(house, name).text for name in (READER, OTHER, "nobody", "x" * 500, "")}
    assert len(answers) == 1
    assert attempt(house, READER).status_code == 403


def test_for_a_name_that_nobody_has_a_password_is_checked_as_well(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By count, not by the clock."""
    checked: list[str] = []
    whole = passwords._HASHER

    class Counting:
        def verify(self, hashed: str, password: str) -> bool:
            checked.append(hashed)
            return whole.verify(hashed, password)

    monkeypatch.setattr(passwords, "_HASHER", Counting())
    attempt(house, "nobody")
    attempt(house, READER)
    parameters = {hashed.split("$")[3] for hashed in checked}
    assert len(checked) == 2
    assert parameters == {"m=65536,t=3,p=4"}


@pytest.mark.fault(125)
def test_guessing_is_stopped_also_for_names_that_nobody_has(house: House) -> None:
    for name in (READER, "nobody"):
        for _ in range(PAIR_MAX):
            assert attempt(house, name).status_code == 403
        stopped = attempt(house, name, PASSWORD)
        assert stopped.status_code == 429
        assert 0 < int(stopped.headers["retry-after"]) <= WINDOW_SECONDS
    house.clock.now += WINDOW_SECONDS
    assert attempt(house, READER, PASSWORD).status_code == 303


def test_guessing_many_names_from_one_address_is_stopped(house: House) -> None:
    for number in range(ADDRESS_MAX):
        assert attempt(house, f"nobody{number}").status_code == 403
    assert attempt(house, READER, PASSWORD).status_code == 429


def test_who_claims_to_be_a_proxy_gets_no_more_attempts(house: House) -> None:
    answers = [attempt(house, READER, **{"x-forwarded-for": f"10.0.0.{n}"}).status_code for n in range(PAIR_MAX + 1)]
    assert answers[-1] == 429


def test_success_takes_the_failures_of_the_name_back(house: House) -> None:
    for _ in range(3):
        for _ in range(PAIR_MAX - 1):
            attempt(house, READER)
        assert attempt(house, READER, PASSWORD).status_code == 303


# -- users ---------------------------------------------------------------------------------------------------------


def test_two_users_cannot_be_taken_for_each_other(house: House) -> None:
    with pytest.raises(ConflictError):
        house.users.add(READER.upper(), Role.VIEWER, PASSWORD)
    for name in ("", " x", "x ", "a\u202eb", "a\nb", "x" * 65):
        with pytest.raises(TriageError, match="a name has"):
            house.users.add(name, Role.VIEWER, PASSWORD)
    with pytest.raises(TriageError, match="a password has 12"):
        house.users.add("New", Role.VIEWER, "short")


def test_the_database_away_is_told_as_that(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy.exc import OperationalError  # noqa: PLC0415 - only here

    def away(*_: object) -> None:
        raise OperationalError("SELECT SECRET", {}, Exception("SECRET"))

    with house.program_of(READER) as program:
        monkeypatch.setattr(house.entrance.keys.tokens, "find", away)
        answer = program.get("/api/worklist")
    assert is_problem(answer, 503)
    assert "SECRET" not in answer.text
