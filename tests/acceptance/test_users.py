"""Users as a site makes them: by the command line, on the real web process, which is killed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from running import Daemon, running, wait_for

PASSWORD = "correct horse battery"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path, http_url="") as daemon:
        yield daemon


def command(daemon: Daemon, *words: str, given: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "daemon.cli", *words],
        env=daemon.environment,
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


def web(daemon: Daemon) -> None:
    daemon.start("web")
    wait_for(lambda: daemon.ended() or daemon.live())
    assert not daemon.ended(), daemon.log()


def moment(row: dict[str, str]) -> str:
    """When it was; what a dead process left may be entered after what came later."""
    return row["at"]


def url(daemon: Daemon) -> str:
    return f"http://127.0.0.1:{daemon.http_port}"


@pytest.mark.fault(125)
def test_the_web_does_not_open_to_everybody_and_says_how_to_make_a_user(tmp_path: Path) -> None:
    with running(tmp_path, http_host="0.0.0.0") as daemon:
        refused = command(daemon, "web", code=2)
        assert "triage users add NAME" in refused.stderr
        assert "nobody has a password" in refused.stderr
        command(daemon, "users", "add", "Boss", "--role", "admin", given=PASSWORD + "\n")
        web(daemon)
        assert daemon.get("/api/worklist").status_code == 401
        assert daemon.lines("web_without_tls")


def test_sessions_and_accesses_outlive_a_web_process_that_is_killed(daemon: Daemon) -> None:
    command(daemon, "users", "add", "Dr Adler", "--role", "radiologist", given=PASSWORD + "\n")
    web(daemon)
    with httpx.Client(base_url=url(daemon), headers={"sec-fetch-site": "same-origin"}) as browser:
        assert browser.post("/login", data={"name": "Dr Adler", "password": PASSWORD}).status_code == 303
        assert browser.get("/").status_code == 200
        assert browser.get("/api/studies/1.2.3").status_code == 404
        daemon.kill("web")
        web(daemon)
        assert browser.get("/").status_code == 200
    wait_for(lambda: "1.2.3" in command(daemon, "audit").stdout)
    noted = json.loads(command(daemon, "audit", "--json").stdout)
    noted = [row for row in noted if not row["verb"].startswith("application_")]
    assert noted[-1]["verb"] == "user_add"
    assert [(row["who"], row["verb"], row["study_instance_uid"]) for row in sorted(noted, key=moment)][1:4] == [
        ("Dr Adler", "sign_in", ""),
        ("Dr Adler", "list", ""),
        ("Dr Adler", "look", "1.2.3"),
    ]
    shown = command(daemon, "audit", "--who", "Dr Adler", "--verb", "look", "--outcome", "refused").stdout
    assert "1.2.3" in shown
    assert daemon.terminate() == {"web": 0}


def test_a_token_is_shown_once_works_and_can_be_revoked_while_the_web_runs(daemon: Daemon) -> None:
    command(daemon, "users", "add", "archive", "--role", "radiologist", given=PASSWORD)
    secret = command(daemon, "users", "token", "add", "archive", "--label", "PACS", "--role", "viewer").stdout.strip()
    web(daemon)

    def asks() -> int:
        return httpx.get(f"{url(daemon)}/api/worklist", headers={"authorization": f"Bearer {secret}"}).status_code

    assert asks() == 200
    (token,) = json.loads(command(daemon, "users", "token", "list", "--json").stdout)
    assert (token["owner"], token["label"], token["role"]) == ("archive", "PACS", "viewer")
    command(daemon, "users", "token", "revoke", token["token_id"])
    assert asks() == 401
    assert "revoked" in command(daemon, "users", "token", "list", "archive").stdout


def test_no_password_or_token_stands_in_a_log_an_error_or_the_settings(daemon: Daemon, tmp_path: Path) -> None:
    short = "tooshort"
    said = command(daemon, "users", "add", "Boss", "--role", "admin", given=short, code=2)
    said_again = command(daemon, "users", "add", "Boss", "--role", "admin", given=PASSWORD)
    twice = command(daemon, "users", "add", "boss", given=PASSWORD, code=2)
    secret = command(daemon, "users", "token", "add", "Boss").stdout.strip()
    daemon.settings["log_level"] = "debug"
    web(daemon)
    key = tmp_path / "oidc-secret"
    key.write_text("client-secret-of-ours", encoding="utf-8")
    with httpx.Client(base_url=url(daemon)) as browser:
        answers = [
            browser.post("/login", data={"name": "Boss", "password": PASSWORD + "x"}).text,
            browser.post("/login", data={"name": PASSWORD, "password": "x"}).text,
            browser.post("/login", data={"name": "Boss", "password": PASSWORD}).text,
            browser.get(f"/api/{secret}", headers={"authorization": f"Bearer {secret}x"}).text,
        ]
    daemon.settings["oidc_client_secret_file"] = str(key)
    outputs = [said, said_again, twice, command(daemon, "settings"), command(daemon, "settings", "--json")]
    outputs += [command(daemon, "users", "list"), command(daemon, "users", "token", "list"), command(daemon, "audit")]
    everything = "".join([*answers, daemon.log(), *(done.stdout + done.stderr for done in outputs)])
    assert "Boss" in everything
    assert [word for word in (short, PASSWORD, secret, "client-secret-of-ours") if word in everything] == []


def test_users_are_looked_after_while_the_web_runs(daemon: Daemon) -> None:
    command(daemon, "users", "add", "Dr Adler", given=PASSWORD)
    web(daemon)
    with httpx.Client(base_url=url(daemon), headers={"sec-fetch-site": "same-origin"}) as browser:
        browser.post("/login", data={"name": "Dr Adler", "password": PASSWORD})
        assert browser.post("/studies/1.2/start").status_code == 403
        command(daemon, "users", "role", "Dr Adler", "radiologist")
        assert browser.post("/studies/1.2/start").status_code == 404
        command(daemon, "users", "password", "Dr Adler", given=PASSWORD + "!")
        assert browser.get("/").headers["location"] == "/login"
        assert browser.post("/login", data={"name": "Dr Adler", "password": PASSWORD + "!"}).status_code == 303
        command(daemon, "users", "disable", "Dr Adler")
        assert browser.get("/").headers["location"] == "/login"
        command(daemon, "users", "disable", "Dr Adler", "--undo")
    command(daemon, "users", "role", "nobody", "admin", code=2)
    assert "Dr Adler" in command(daemon, "users", "list").stdout


def test_the_command_line_is_noted_too(daemon: Daemon) -> None:
    command(daemon, "users", "add", "Dr Adler", given=PASSWORD)
    command(daemon, "worklist")
    command(daemon, "close", "1.2.3", code=2)
    rows = json.loads(command(daemon, "audit", "--json").stdout)
    told = [(row["verb"], row["study_instance_uid"], row["outcome"], row["address"]) for row in rows]
    assert told == [
        ("read", "1.2.3", "refused", ""),
        ("list", "", "success", ""),
        ("user_add", "", "success", ""),
    ]
    assert all(" on " in row["who"] for row in rows)
