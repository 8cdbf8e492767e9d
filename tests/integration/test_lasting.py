"""What goes on ends with the right to hear it: streams of changes, channels of subscribers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from listening import stays_false, wait_for
from sqlalchemy import Engine, select, update
from sqlalchemy.exc import OperationalError
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from daemon.web.keys import Keys
from daemon.web.lasting import run_while
from doors import PASSWORD, House, open_house
from triage.records.account_tables import sessions
from triage.user import Role


@pytest.fixture
def house(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """Which asks often whether those who listen still may."""
    monkeypatch.setattr("daemon.web.lasting._ASK_SECONDS", 0.2)
    with open_house(engine, tmp_path) as house:
        house.users.add("Boss", Role.ADMIN, PASSWORD)
        house.users.add("Dr Adler", Role.RADIOLOGIST, PASSWORD)
        yield house


class Listener(threading.Thread):
    """Of changes, until the stream ends: ``end`` tells how."""

    def __init__(self, client: httpx.Client) -> None:
        super().__init__(daemon=True)
        self.client, self.heard, self.end = client, 0, ""
        self.start()

    def run(self) -> None:
        try:
            with self.client.stream("GET", "/api/changes") as answer:
                for line in answer.iter_lines():
                    self.heard += line.startswith("data:")
            self.end = "whole"
        except httpx.HTTPError as error:
            self.end = str(error)


def ends_with(listener: Listener) -> str:
    listener.join(10)
    return listener.end


def channel(house: House, secret: str) -> ClientConnection:
    where = house.url.replace("http", "ws") + "/dicom-web/subscribers/VIEWER"
    return connect(where, additional_headers={"authorization": f"Bearer {secret}"})


def test_a_stream_ends_when_the_token_is_revoked_and_others_go_on(house: House) -> None:
    token_id, secret = house.tokens.add("Dr Adler", "first", 1.0)
    first, second = Listener(house.program(secret)), Listener(house.program_of("Dr Adler"))
    assert wait_for(lambda: first.heard and second.heard, 10)
    house.tokens.revoke(token_id)
    assert ends_with(first) == "whole"
    assert stays_false(lambda: not second.is_alive(), 1)
    house.users.disable("Dr Adler")
    assert ends_with(second) == "whole"


def test_a_stream_is_no_use_of_a_session_and_ends_with_it(house: House) -> None:
    browser = house.signed_in("Dr Adler")
    listener = Listener(browser)
    assert wait_for(lambda: listener.heard, 10)
    last_used = update(sessions).values(seen_at=house.store.after(-600))  # so long ago that a use would be noted
    with house.store.writing() as connection:
        connection.execute(last_used)
        before = connection.execute(select(sessions.c.seen_at)).scalar_one()
    assert stays_false(lambda: not listener.is_alive(), 1)
    with house.store.reading() as connection:
        assert connection.execute(select(sessions.c.seen_at)).scalar_one() == before
    assert browser.post("/logout").status_code == 303
    assert ends_with(listener) == "whole"


def test_what_ends_while_its_right_is_asked_for_has_ended_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.web.lasting._ASK_SECONDS", 0.05)
    asked = threading.Event()

    def may() -> bool:
        asked.set()
        time.sleep(0.3)
        return False

    async def running() -> None:
        await asyncio.to_thread(asked.wait, 10)
        raise KeyError

    with pytest.raises(KeyError):
        asyncio.run(run_while(may, running()))


def test_a_channel_is_closed_when_its_user_may_no_longer_have_it(house: House) -> None:
    with channel(house, house.tokens.add("Dr Adler", "viewer", 1.0)[1]) as opened:
        with pytest.raises(TimeoutError):
            opened.recv(1)
        house.users.set_role("Dr Adler", Role.VIEWER)
        with pytest.raises(ConnectionClosed) as closed:
            opened.recv(10)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008


def test_who_listens_where_nobody_had_a_key_hears_no_more_once_keys_are_needed(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.web.lasting._ASK_SECONDS", 0.2)
    with open_house(engine, tmp_path) as house:
        listener = Listener(house.browser())
        assert wait_for(lambda: listener.heard, 10)
        house.users.add("Boss", Role.ADMIN, PASSWORD)
        assert ends_with(listener) == "whole"


def test_while_the_database_is_away_nobody_loses_a_right(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener(house.program_of("Dr Adler"))
    assert wait_for(lambda: listener.heard, 10)
    asked = threading.Event()

    def away(*_: object, **__: object) -> None:
        asked.set()
        raise OperationalError("SELECT", {}, Exception("away"))

    monkeypatch.setattr(Keys, "caller", away)
    assert asked.wait(10)
    time.sleep(0.5)
    assert listener.is_alive()
    monkeypatch.undo()
