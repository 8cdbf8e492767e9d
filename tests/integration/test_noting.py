"""What peers ask for is noted as far as somebody reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from daemon.dicom.command import C_FIND_RQ, N_ACTION_RQ, N_GET_RQ
from daemon.dicom.exchange import SUCCESS, Question, Reply
from daemon.noting import Noting
from daemon.trail import Trail
from triage.records.account_tables import accesses
from triage.records.audit import Audit
from triage.records.store import Store


@pytest.fixture
def trail(engine: Engine, tmp_path: Path) -> Trail:
    return Trail(Audit(Store(engine)), tmp_path / "noting")


def ask(noting: Noting, kind: int, uid: str = "", encoded: bytes | None = None) -> None:
    def answered(_: Question) -> Iterator[Reply]:
        yield Reply(status=SUCCESS)

    question = Question(
        calling_ae="PACS",
        called_ae="TRIAGE",
        address="127.0.0.1",
        abstract_syntax="1.2.840.10008.5.1.4.34.6.3",
        kind=kind,
        sop_class_uid="1.2.840.10008.5.1.4.34.6.1",
        sop_instance_uid=uid,
        action=1,
        attributes=(),
        encoded=encoded,
        transfer_syntax="1.2.840.10008.1.2.1",
    )
    (handler,) = noting.handlers({(question.abstract_syntax, kind): answered}).values()
    list(handler(question))


def noted(trail: Trail, engine: Engine) -> list[tuple[str, str, dict[str, Any]]]:
    """(verb, UID, details)"""
    trail.enter()
    query = select(accesses.c.verb, accesses.c.study_instance_uid, accesses.c.details).order_by(accesses.c.access_id)
    with engine.connect() as connection:
        return [(verb, uid, json.loads(details)) for verb, uid, details in connection.execute(query)]


@pytest.mark.parametrize("tells", [True, False])
def test_what_was_asked_is_noted_for_a_repository_alone(trail: Trail, engine: Engine, tells: bool) -> None:  # noqa: FBT001 - a parameter
    ask(Noting(trail, tells_queries=tells), C_FIND_RQ, encoded=b"PatientID")
    ((verb, _, details),) = noted(trail, engine)
    assert (verb, "query" in details) == ("find", tells)


def test_a_viewer_that_looks_again_and_again_is_noted_once_and_each_action_each_time(
    trail: Trail, engine: Engine
) -> None:
    noting = Noting(trail, tells_queries=True)
    for kind, uid in ((N_GET_RQ, "1.2.1"), (N_GET_RQ, "1.2.2"), (N_GET_RQ, "1.2.1"), *[(N_ACTION_RQ, "1.2.1")] * 2):
        ask(noting, kind, uid)
    told = [(verb, uid) for verb, uid, _ in noted(trail, engine)]
    assert told == [("look", "1.2.1"), ("look", "1.2.2"), ("workitem", "1.2.1"), ("workitem", "1.2.1")]
