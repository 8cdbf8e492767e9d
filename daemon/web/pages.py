"""The pages that people read, and the forms on them: everything works without a script."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus
from secrets import token_hex
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from daemon.web import page
from daemon.web.health import Health
from daemon.web.schemas import READER_MAX, Limit, Uid
from daemon.web.who import plain, remember, who
from triage.errors import ConflictError
from triage.policy import Policy
from triage.records.reading import Reading
from triage.study import Status

PAGE_ROWS = 200


async def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode("utf-8", "replace")))


Form = Annotated[dict[str, str], Depends(_form)]


class Pages:
    """The page, and the forms on it."""

    def __init__(self, reading: Reading, policy: Policy, health: Health, *, explains: bool) -> None:
        self._reading = reading
        self._policy = policy
        self._health = health
        self._explains = explains

    def router(self) -> APIRouter:
        router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
        router.add_api_route("/", self.worklist)
        router.add_api_route("/studies/{uid}/{verb}", self.change, methods=["POST"])
        router.add_api_route("/reader", self.ask_reader)
        router.add_api_route("/reader", self.note_reader, methods=["POST"])
        return router

    def worklist(self, request: Request, limit: Limit = None) -> Response:
        """The first rows, and the counts of all."""
        entries = self._reading.worklist()
        return html(
            "worklist.html",
            entries=entries[: limit or PAGE_ROWS],
            counts=page.counts(entries),
            policy=self._policy,
            missing=self._health.state()["missing"],
            reader=who(request),
            now=datetime.now(UTC),
            limit=limit,
            explains=self._explains,
        )

    def change(self, request: Request, uid: Uid, verb: Literal["start", "read", "release"], form: Form) -> Response:
        """Back to the list, or a page that says why nothing was changed. Who has no name yet is given one."""
        reader = who(request) or f"reader {token_hex(2)}"
        limit = form.get("limit", "")
        try:
            self._apply(verb, uid, reader, insists=form.get("anyway") == "yes")
        except ConflictError as error:
            return remember(self._explain(verb, uid, reader, str(error), limit), reader)
        return remember(_back(limit), reader)

    def _apply(self, verb: str, uid: str, reader: str, *, insists: bool) -> None:
        if verb == "start":
            self._reading.start_reading(uid, reader)
        elif verb == "read":
            self._reading.close(uid, reader)
        else:
            self._reading.release(uid, None if insists else reader)

    def _explain(self, verb: str, uid: str, reader: str, words: str, limit: str) -> Response:
        """What can be done about a conflict: see the new images, or free a study whose reader has gone."""
        study = self._reading.study(uid)
        is_open = study["status"] == Status.READING
        return html(
            "conflict.html",
            HTTPStatus.CONFLICT,
            words=words,
            uid=uid,
            limit=_number(limit),
            holder=study["reader"] if is_open else None,
            can_start_again=is_open and study["reader"] == reader and verb == "read",
            can_release=is_open and study["reader"] != reader and verb == "release",
        )

    def ask_reader(self, request: Request) -> Response:
        return html("reader.html", reader=who(request), reader_max=READER_MAX)

    def note_reader(self, form: Form) -> Response:
        return remember(_back(), plain(form.get("reader", "")))


def html(template: str, status: int = HTTPStatus.OK, **values: Any) -> HTMLResponse:  # noqa: ANN401 - each template has its own names
    return HTMLResponse(page.render(template, **values), status)


def _back(limit: str = "") -> Response:
    return RedirectResponse("/" + (f"?limit={_number(limit)}" if _number(limit) else ""), HTTPStatus.SEE_OTHER)


def _number(limit: str) -> str:
    """As the list was asked for, "" if in no way that it takes."""
    return limit if limit.isascii() and limit.isdecimal() else ""
