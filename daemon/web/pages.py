"""The pages that people read, and the forms on them: everything works without a script."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from secrets import token_hex
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import ValidationError

from daemon.web import page
from daemon.web.acting import may_read
from daemon.web.bodies import Opinions
from daemon.web.filters import Filters
from daemon.web.forms import Form
from daemon.web.health import Health
from daemon.web.schemas import READER_MAX, Uid
from daemon.web.who import is_refresh, plain, remember, who
from triage.errors import ConflictError
from triage.records.queue import Queue
from triage.records.reading import Reading
from triage.study import ClinicalPriority, Event, EventKind, Opinion, Status

PAGE_ROWS = 200
Verb = Literal[
    "start", "read", "release", "reopen", "agree", "disagree", "unsure", "stat", "urgent", "routine", "reanalyse"
]
_OPINIONS = {opinion.value: opinion for opinion in Opinion}
_PRIORITIES = {priority.name.lower(): priority for priority in ClinicalPriority}


@dataclass(frozen=True, kw_only=True)
class Pages:
    """The worklist, a study, and what their buttons do. ``ring`` wakes the workers."""

    reading: Reading
    queue: Queue
    health: Health
    ring: Callable[[], None]
    explains: bool
    shows_films: bool

    def router(self) -> APIRouter:
        router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
        router.add_api_route("/", self.worklist)
        router.add_api_route("/studies/{uid}", self.study)
        router.add_api_route("/studies/{uid}/{verb}", self.change, methods=["POST"])
        router.add_api_route("/opinions", self.opinions)
        router.add_api_route("/reader", self.ask_reader)
        router.add_api_route("/reader", self.note_reader, methods=["POST"])
        return router

    def worklist(self, request: Request, filters: Annotated[Filters, Query()]) -> Response:
        """A page of it, and the counts of all."""
        version = self.reading.history.version()
        asked = filters.asked(PAGE_ROWS)
        shown = self.reading.listing.page(asked)
        totals = self.reading.listing.totals()
        return html(
            "worklist.html",
            entries=shown.entries,
            first_page=filters.query(cursor=None),
            next_page=filters.query(cursor=shown.cursor) if shown.cursor else None,
            counts=page.counts(totals),
            modalities=[
                (name, page.visible(name)) for name in sorted({*totals.modalities, asked.modality or ""} - {""})
            ],
            asked=asked,
            given=filters.given(),
            here=filters.query(),
            version=version,
            policy=self.queue.policy,
            missing=self.health.state()["missing"],
            reader=who(request),
            may_read=may_read(request),
            now=datetime.now(UTC),
            explains=self.explains,
        )

    def study(self, request: Request, uid: Uid) -> Response:
        """All that is known of one study, and its film. Who opens it stands in its history."""
        reader, history = who(request), self.reading.history
        if not (is_refresh(request.headers) and _has_looked(reader, history.of_study(uid))):
            history.note_opened(uid, reader)
        version = history.version()
        return html(
            "study.html",
            study=self.reading.study(uid),
            entry=self.reading.listing.entry(uid),
            events=history.of_study(uid),
            films=len(self.reading.films(uid)) if self.shows_films else 0,
            version=version,
            policy=self.queue.policy,
            priorities=list(ClinicalPriority),
            missing=self.health.state()["missing"],
            reader=reader,
            may_read=may_read(request),
            opinion=self.reading.opinion_of(uid, reader),
            now=datetime.now(UTC),
            explains=self.explains,
        )

    def change(self, request: Request, uid: Uid, verb: Verb, form: Form) -> Response:
        """Back to where the button was, or a page that says why nothing was changed.

        Who has no name yet is given one.
        """
        reader = who(request) or f"reader {token_hex(2)}"
        try:
            self._apply(verb, uid, reader, insists=form.get("anyway") == "yes")
        except ConflictError as error:
            return remember(self._explain(verb, uid, reader, str(error), form), reader)
        return remember(RedirectResponse(_back(uid, verb, form), HTTPStatus.SEE_OTHER), reader)

    def _apply(self, verb: Verb, uid: str, reader: str, *, insists: bool) -> None:
        if verb == "start":
            self.reading.start_reading(uid, reader)
        elif verb == "read":
            self.reading.close(uid, reader)
        elif verb == "release":
            self.reading.release(uid, reader, insists=insists)
        elif verb == "reopen":
            self.reading.reopen(uid, reader)
        elif verb == "reanalyse":
            self.queue.look_again(uid, reader)
            self.ring()
        elif verb in _OPINIONS:
            self.reading.opine(uid, reader, _OPINIONS[verb])
        else:
            self.reading.prioritise(uid, _PRIORITIES[verb], reader, "the page")

    def _explain(self, verb: Verb, uid: str, reader: str, words: str, form: dict[str, str]) -> Response:
        """What can be done about a conflict: see the new images, or free a study whose reader has gone."""
        study = self.reading.study(uid)
        is_open = study["status"] == Status.READING
        return html(
            "conflict.html",
            HTTPStatus.CONFLICT,
            words=words,
            uid=uid,
            given=_kept(form),
            back=_back(uid, verb, form),
            holder=study["reader"] if is_open else None,
            can_start_again=is_open and study["reader"] == reader and verb == "read",
            can_release=is_open and study["reader"] != reader and verb == "release",
        )

    def opinions(self) -> Response:
        """How often readers agreed with the flags of this site."""
        return html("opinions.html", said=Opinions.of(self.reading.opinions()), policy=self.queue.policy)

    def ask_reader(self, request: Request) -> Response:
        return html("reader.html", reader=who(request), reader_max=READER_MAX)

    def note_reader(self, form: Form) -> Response:
        return remember(RedirectResponse("/", HTTPStatus.SEE_OTHER), plain(form.get("reader", "")))


def html(template: str, status: int = HTTPStatus.OK, **values: Any) -> HTMLResponse:  # noqa: ANN401 - each template has its own names
    return HTMLResponse(page.render(template, **values), status)


def _has_looked(reader: str, events: list[Event]) -> bool:
    return any(event.kind is EventKind.OPENED and event.who == reader for event in events)


def _kept(form: dict[str, str]) -> dict[str, Any]:
    """What a form carries along: how the list was asked for, as far as it takes that, and where to go back to."""
    try:
        given = Filters.model_validate({name: form[name] for name in Filters.model_fields if name in form}).given()
    except ValidationError:
        given = {}
    return given | ({"to": "study"} if form.get("to") == "study" else {})


def _back(uid: str, verb: Verb, form: dict[str, str]) -> str:
    """To the study whose button it was, unless it has been read: then to the list."""
    kept = _kept(form)
    if kept.pop("to", "") and verb != "read":
        return f"/studies/{uid}"
    return "/" + Filters.model_validate(kept).query()
