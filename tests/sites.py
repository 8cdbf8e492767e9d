"""A site for the tests: the worklist over HTTP, by a real server on a free port, with a real SQLite database."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import Engine

from daemon.folder import Folder
from daemon.web.drawing import Drawing
from daemon.web.server import Wings, build_app
from ports import free_port, served
from templates import sqlite_engine
from triage.errors import BusyError, Reason
from triage.policy import Policy, not_analysed
from triage.records.intake import Intake
from triage.records.queue import Queue, Result
from triage.records.reading import Reading
from triage.records.store import Store
from triage.study import (
    Analysis,
    Etiology,
    Explanation,
    Finding,
    Header,
    Priority,
    ReceivedInstance,
    Tier,
)

POLICY = Policy(version="site-7", waiting_limit_minutes=240)
UNKNOWN = "1.2.3.999999"
HOST = "triage.example"


class Pictures(Drawing):
    """Draws the words of what it was asked for, or is busy."""

    busy = False

    def draw(self, study_instance_uid: str, kind: Explanation) -> bytes:
        self.reading.film_to_explain(study_instance_uid)
        if Pictures.busy:
            raise BusyError("other explanations are being drawn")
        return f"{kind} of {study_instance_uid}".encode()


@dataclass
class Site:
    """A server and what is behind it."""

    url: str
    client: httpx.Client
    engine: Engine
    state: dict[str, Any] = field(default_factory=lambda: {"ready": True, "missing": []})
    state_error: Exception | None = None

    def ready(self) -> dict[str, Any]:
        if self.state_error:
            raise self.state_error
        return self.state

    @property
    def store(self) -> Store:
        return Store(self.engine)

    def receive(self, number: int, image: int = 1, **header: Any) -> str:
        uid = f"1.2.3.{number}"
        received = ReceivedInstance(
            header=Header(sop_class_uid="1.2", sop_instance_uid=f"{uid}.{image}", study_instance_uid=uid, **header),
            sha256=f"{number:032d}{image:032d}",
            size_bytes=1,
        )
        Intake(self.store, POLICY).receive(received)
        return uid

    def analyse(self, tier: Tier | None) -> None:
        """Finish the oldest job; None: without a finding."""
        queue = Queue(self.store, POLICY)
        (job,) = queue.claim("test", 60)
        if tier is None:
            shown = not_analysed(Reason.AGE_UNKNOWN, POLICY)
            queue.finish([Result(job=job, finding=Finding(reason=Reason.AGE_UNKNOWN), priority=shown)])
            return
        flagged = tier is not Tier.UNLIKELY
        priority = Priority(
            analysis=Analysis.ANALYSED,
            flagged=flagged,
            tier=tier,
            etiology=Etiology.BACTERIAL if flagged else None,
            p_pneumonia=0.9,
            words=f"flagged: pneumonia {tier}" if flagged else "analysed, not flagged",
            policy_version=POLICY.version,
        )
        found = Finding(weights_sha256="0" * 64, p_normal=0.1, p_bacterial=0.6, p_viral=0.3)
        queue.finish([Result(job=job, finding=found, priority=priority)])

    def uids(self) -> list[str]:
        return [entry["study_instance_uid"] for entry in self.client.get("/api/worklist").json()["entries"]]

    def shown_uids(self) -> list[str]:
        return re.findall(r'id="(?:start|release)-([0-9.]+)"', self.client.get("/").text)


@contextmanager
def opened(
    tmp_path: Path, *, explains: bool, beside: Callable[[Store], dict[str, Any]] = lambda _: {}
) -> Iterator[Site]:
    """``beside``: what else the pages are built with."""
    engine = sqlite_engine(tmp_path / "triage.db")
    store = Store(engine)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url, timeout=30, verify=False) as client:
        site = Site(url, client, engine)
        drawing = Pictures(reading=Reading(store), kept=Folder(tmp_path)) if explains else None
        app = build_app(
            Reading(store),
            Queue(store, POLICY),
            [HOST],
            site.ready,
            **{"wings": Wings(drawing=drawing), **beside(store)},
        )
        with served(app, port):
            # pytest gives loggers handlers while a test runs; a connection from before has none, as in a daemon.
            assert client.get("/api/health/live").status_code == HTTPStatus.OK
            yield site
    engine.dispose()


def is_problem(answer: httpx.Response, status: int) -> bool:
    content = answer.json()
    return (
        answer.status_code == status == content["status"]
        and answer.headers["content-type"] == "application/problem+json"
        and bool(content["title"])
    )
