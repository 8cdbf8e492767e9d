"""A web server with users, over a real database, for the tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import httpx
from fastapi import FastAPI
from sqlalchemy import Engine, text

from daemon.decoder import Decoder
from daemon.folder import Folder
from daemon.settings import Settings
from daemon.stepping import Stepping
from daemon.trail import Trail
from daemon.web.attempts import Attempts
from daemon.web.channel import Channels
from daemon.web.dicomweb import dicomweb
from daemon.web.drawing import Drawing
from daemon.web.film import Films
from daemon.web.keys import Keys
from daemon.web.login import Entrance
from daemon.web.oidc import Client, Provider
from daemon.web.peer import Peers
from daemon.web.server import Wings, build_app
from daemon.web.ups_rs import Steps
from making import received
from ports import free_port, served
from triage.passwords import hash_password
from triage.policy import Policy
from triage.records.archive import Archive
from triage.records.audit import Audit
from triage.records.intake import Intake
from triage.records.orders import Orders
from triage.records.queue import Queue
from triage.records.reading import Reading
from triage.records.sessions import Sessions
from triage.records.store import Store
from triage.records.tokens import Tokens
from triage.records.users import Users
from triage.user import Access, Role

PASSWORD = "correct horse battery"
# A hash takes 64 MiB and a tenth of a second by design; each password of the tests gets one.
hashed_once = cache(hash_password)
POLICY = Policy()
OWN_PAGE = {"sec-fetch-site": "same-origin"}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Browser(httpx.Client):
    """Also one that has been used may be put into a `with`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class House:
    """A server with a door, and what is behind it."""

    url: str
    engine: Engine
    entrance: Entrance
    app: FastAPI
    clock: Clock
    clients: list[Browser] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return Store(self.engine)

    @property
    def users(self) -> Users:
        return self.entrance.keys.users

    @property
    def tokens(self) -> Tokens:
        return self.entrance.keys.tokens

    def receive(self, number: int) -> str:
        made = received(number)
        Intake(self.store, POLICY).receive(made)
        return made.header.study_instance_uid

    def browser(self, **headers: str) -> httpx.Client:
        return self._client({**OWN_PAGE, **headers})

    def program(self, secret: str) -> httpx.Client:
        return self._client({"authorization": f"Bearer {secret}"})

    def _client(self, headers: dict[str, str]) -> Browser:
        """Closed at the end, if not before."""
        self.clients.append(Browser(base_url=self.url, headers=headers, timeout=30, verify=False))
        return self.clients[-1]

    def signed_in(self, name: str, password: str = PASSWORD) -> httpx.Client:
        browser = self.browser()
        answer = browser.post("/login", data={"name": name, "password": password})
        assert answer.status_code == 303, answer.text
        return browser

    def program_of(self, name: str, role: Role | None = None) -> httpx.Client:
        return self.program(self.tokens.add(name, "test", 1.0, role)[1])

    def accesses(self, **same: str) -> list[Access]:
        self.entrance.trail.enter()
        return self.entrance.audit.list(1000, same=same)

    def change(self, statement: str, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(statement), values)


def all_wings(store: Store, folder: Path, entrance: Entrance, decoder: Decoder) -> Wings:
    """Whatever a site can have: each route must be known to the door."""
    kept, reading, parts = Folder(folder), Reading(store), Stepping(Settings(), store, Reading(store))
    return Wings(
        drawing=Drawing(reading=reading, kept=kept),
        films=Films(reading=reading, kept=kept, decoder=decoder),
        dicomweb=dicomweb(Archive(store), kept, decoder),
        steps=Steps(
            workitems=parts.workitems,
            subscriptions=parts.subscriptions,
            finding=parts.finding,
            channels=Channels(subscriptions=parts.subscriptions),
        ),
        entrance=entrance,
    )


@contextmanager
def open_house(engine: Engine, folder: Path, client: Client | None = None, **peers: Any) -> Iterator[House]:
    """Without users yet."""
    store, port = Store(engine), free_port()
    users, clock = Users(store), Clock()
    if client is not None:
        url = f"http://127.0.0.1:{port}"
        client = Client(**{**client.__dict__, "redirect_uri": url + client.redirect_uri})
    keys = Keys(
        users=users,
        sessions=Sessions(store=store),
        tokens=Tokens(store),
        peers=Peers(**peers),
        provider=Provider(client, users) if client else None,
    )
    trail, decoder = Trail(Audit(store), folder), Decoder()
    entrance = Entrance(keys=keys, trail=trail, audit=Audit(store), orders=Orders(store), attempts=Attempts(clock))
    ready = dict.fromkeys(["ready"], True) | {"missing": []}
    app = build_app(
        Reading(store),
        Queue(store, POLICY),
        ["triage.example"],
        lambda: ready,
        wings=all_wings(store, folder, entrance, decoder),
    )
    house = House(f"http://127.0.0.1:{port}", engine, entrance, app, clock)
    with decoder, served(app, port), patch("triage.records.users.hash_password", hashed_once):
        try:
            yield house
        finally:
            for each in house.clients:
                each.close()
