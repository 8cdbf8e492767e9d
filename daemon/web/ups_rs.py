"""UPS-RS under /dicom-web (PS3.18 section 11): the worklist's workitems over HTTP, in the DICOM JSON model.

Workitems are made by films that arrive: none is created here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, WebSocket
from fastapi.responses import JSONResponse, Response
from pydicom import Dataset

from daemon.dicom.finding import Finding, Found
from daemon.dicom.workitem import PROGRESS_CHARACTERS_MAX, progress
from daemon.web.accepted import JSON as DICOM_JSON
from daemon.web.accepted import need
from daemon.web.acting import acting
from daemon.web.channel import Channels
from daemon.web.schemas import PROBLEM_TYPE, READER_MAX, Uid
from daemon.web.ups_query import asked
from triage.records.subscriptions import ALL_WORKITEMS, FILTERED_WORKITEMS, Subscriptions
from triage.records.workitems import Workitems
from triage.workitem import StepState, Verdict, Workitem

PREFIX = "/dicom-web"
_READ = (DICOM_JSON, "application/json")

AeTitle = Annotated[str, Path(pattern=r"^[!-\[\]-~]{1,16}$")]

# PS3.18 tables 11.6.3-1, 11.7.3-1, 11.8.3-1: status, and what the Warning header says.
_INCONSISTENT = "The submitted request is inconsistent with the current state of the UPS Instance."
_ANSWERS: dict[Verdict, tuple[int, str]] = {
    Verdict.DONE: (200, ""),
    Verdict.ALREADY_CANCELED: (200, "The UPS is already in the requested state of CANCELED."),
    Verdict.ALREADY_COMPLETED: (200, "The UPS is already in the requested state of COMPLETED."),
    Verdict.ENDED: (409, _INCONSISTENT),
    Verdict.WRONG_TRANSACTION: (409, "The Transaction UID is incorrect."),
    Verdict.ALREADY_IN_PROGRESS: (409, _INCONSISTENT),
    Verdict.NEVER_SCHEDULED_AGAIN: (400, "A workitem never becomes SCHEDULED again."),
    Verdict.NOT_FINISHED: (409, "New images have come: update the progress, then complete."),
    Verdict.NOT_HELD: (404, ""),
    Verdict.NOT_IN_PROGRESS: (409, _INCONSISTENT),
    Verdict.COMPLETED_BEFORE_CANCEL: (409, "The UPS is already COMPLETED."),
    Verdict.UNHEARD: (409, "The performer cannot be contacted."),
    Verdict.KEEPS_ON: (409, "The study has to be read: the workitem is not canceled."),
}


class StepError(Exception):
    """A refusal: its status, and what the Warning header says."""

    def __init__(self, status: int, words: str = "") -> None:
        super().__init__(words)
        self.status, self.words = status, words


@dataclass(frozen=True, kw_only=True)
class Body:
    """The one data set that came with a request."""

    data_set: Dataset = field(repr=False)

    def text(self, keyword: str) -> str:
        return str(self.data_set.get(keyword, "") or "").strip()


async def _body(request: Request) -> Body:
    """Raise StepError 415 for another media type, 400 for what is no data set."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _READ:
        raise StepError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
    try:
        said = json.loads(await request.body())
        (one,) = said if isinstance(said, list) else [said]
        return Body(data_set=Dataset.from_json(one))
    except Exception:  # noqa: BLE001 - whatever was sent, pydicom may stumble over it in its own way
        raise StepError(HTTPStatus.BAD_REQUEST, "The body is no data set in the DICOM JSON model.") from None


async def _reason(request: Request) -> str:
    """The body may be left out (PS3.18 11.8.1). Raise StepError as above."""
    return (await _body(request)).text("ReasonForCancellation") if await request.body() else ""


def _acceptable(request: Request) -> None:
    """Raise RefusalError 406."""
    need(request.headers.get("accept"), DICOM_JSON, "application/json")


def failed(request: Request, error: Exception) -> Response:
    del request
    status, words = (error.status, error.words) if isinstance(error, StepError) else (500, "")
    problem = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": words}
    answer = JSONResponse(problem, status, media_type=PROBLEM_TYPE)
    if status == HTTPStatus.METHOD_NOT_ALLOWED:  # of all workitems together: they are searched (RFC 9110, 15.5.6)
        answer.headers["allow"] = "GET"
    return _warned(answer, words)


def _warned(answer: Response, words: str) -> Response:
    if words:
        answer.headers.append("warning", f'299 triage: "{words}"')
    return answer


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The service's transactions."""

    workitems: Workitems
    subscriptions: Subscriptions
    finding: Finding
    channels: Channels

    def router(self) -> APIRouter:
        """The standard describes the routes; OpenAPI does not."""
        router = APIRouter(prefix=PREFIX, include_in_schema=False)
        one, subscriber = "/workitems/{uid}", "/workitems/{uid}/subscribers/{ae_title}"
        router.add_api_route("/workitems", self.search, dependencies=[Depends(_acceptable)])
        router.add_api_route("/workitems", self.create, methods=["POST"])
        router.add_api_route(one, self.retrieve, dependencies=[Depends(_acceptable)])
        router.add_api_route(one, self.update, methods=["POST"])
        router.add_api_route(f"{one}/state", self.change, methods=["PUT"])
        router.add_api_route(f"{one}/cancelrequest", self.cancel, methods=["POST"])
        router.add_api_route(f"{subscriber}/suspend", self.suspend, methods=["POST"])
        router.add_api_route(subscriber, self.subscribe, methods=["POST"])
        router.add_api_route(subscriber, self.unsubscribe, methods=["DELETE"])
        router.add_api_websocket_route("/subscribers/{ae_title}", self.open)
        return router

    def search(self, request: Request) -> Response:
        """204 where nothing matches. What was not told, or not understood, is said in Warning headers."""
        try:
            query = asked(request.query_params.multi_items())
        except ValueError as error:
            raise StepError(HTTPStatus.BAD_REQUEST, str(error)) from None
        found = self.finding.find(query.keys, query.limit, query.offset)
        told = [self._data_set(workitem, found) for workitem in found.items]
        answer = _shown(told) if told else Response(status_code=HTTPStatus.NO_CONTENT)
        if found.ignored or query.ignored:
            _warned(answer, "Some attributes were not understood and have been ignored.")
        return _warned(answer, "There are additional results that can be requested." if found.is_cut else "")

    def create(self) -> Response:
        raise StepError(HTTPStatus.METHOD_NOT_ALLOWED, "Workitems are made by films that arrive: none is created here.")

    def retrieve(self, uid: Uid) -> Response:
        workitem = self._held(uid)
        return _shown([self._data_set(workitem, Found.of_one(workitem, self.workitems))])

    def update(self, request: Request, uid: Uid, body: Annotated[Body, Depends(_body)]) -> Response:
        """By the performer, of its progress. The Transaction UID stands in the query, by itself or named."""
        named = request.query_params.get("transaction-uid") or request.query_params.get("transaction")
        bare = "" if "=" in request.url.query else request.url.query.strip()
        transaction_uid = named or bare or body.text("TransactionUID")
        try:
            said = progress(body.data_set)
        except ValueError as error:
            raise StepError(HTTPStatus.BAD_REQUEST, "A value does not fit its representation.") from error
        if len(said) > PROGRESS_CHARACTERS_MAX:
            raise StepError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return _answer(self.workitems.update(uid, transaction_uid, said))

    def change(self, request: Request, uid: Uid, body: Annotated[Body, Depends(_body)]) -> Response:
        state, transaction_uid = body.text("ProcedureStepState"), body.text("TransactionUID")
        if state not in list(StepState):
            raise StepError(HTTPStatus.BAD_REQUEST, "There is no such Procedure Step State.")
        if not transaction_uid:
            self._held(uid)
            raise StepError(HTTPStatus.BAD_REQUEST, "The Transaction UID is missing.")
        return _answer(self.workitems.change(uid, state, transaction_uid, _who(request)))

    def cancel(self, request: Request, uid: Uid, reason: Annotated[str, Depends(_reason)]) -> Response:
        """202: who performs it is told, and may go on."""
        found = self.workitems.ask_to_cancel(uid, _who(request), reason)
        return Response(status_code=HTTPStatus.ACCEPTED) if found is Verdict.DONE else _answer(found)

    def subscribe(self, request: Request, uid: Uid, ae_title: AeTitle) -> Response:
        """A deletion lock is never granted: a workitem that has ended stays as long as its study does."""
        if uid == FILTERED_WORKITEMS:
            raise StepError(HTTPStatus.FORBIDDEN, "There are no filtered subscriptions here: subscribe to all.")
        if uid != ALL_WORKITEMS:
            self._held(uid)
        self.subscriptions.subscribe(ae_title, uid)
        scheme = "wss" if request.url.scheme == "https" else "ws"
        where = f"{scheme}://{request.headers.get('host', '')}{PREFIX}/subscribers/{ae_title}"
        answer = Response(status_code=HTTPStatus.CREATED, headers={"content-location": where})
        wants_lock = request.query_params.get("deletionlock", "false").lower() == "true"
        return _warned(answer, "The deletion lock is not granted." if wants_lock else "")

    def unsubscribe(self, uid: Uid, ae_title: AeTitle) -> Response:
        self.subscriptions.unsubscribe(ae_title, uid)
        return Response()

    def suspend(self, uid: Uid, ae_title: AeTitle) -> Response:
        if uid != ALL_WORKITEMS:
            raise StepError(HTTPStatus.NOT_FOUND)
        self.subscriptions.suspend(ae_title)
        return Response()

    async def open(self, websocket: WebSocket, ae_title: AeTitle) -> None:
        await self.channels.serve(websocket, ae_title)

    def _held(self, uid: str) -> Workitem:
        """Raise StepError 404."""
        workitem = self.workitems.get(uid)
        if workitem is None:
            raise StepError(HTTPStatus.NOT_FOUND)
        return workitem

    def _data_set(self, workitem: Workitem, found: Found) -> Mapping[str, Any]:
        return _in_order(self.finding.data_set(workitem, found).to_json_dict())


def _who(request: Request) -> str:
    """Who has signed in, where anybody has to; else the program, by its address."""
    user = acting(request)
    return str(user.name if user else f"UPS-RS {request.client.host if request.client else ''}")[:READER_MAX]


def _answer(found: Verdict) -> Response:
    status, words = _ANSWERS[found]
    if found.is_refusal:
        raise StepError(status, words)
    return _warned(Response(status_code=status), words)


def _in_order(told: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes by their tags, in items as well (PS3.18 F.2.2)."""
    ordered = {tag: dict(told[tag]) for tag in sorted(told)}
    for attribute in ordered.values():
        if attribute["vr"] == "SQ" and "Value" in attribute:
            attribute["Value"] = [_in_order(item) for item in attribute["Value"]]
    return ordered


def _shown(data_sets: list[Mapping[str, Any]]) -> Response:
    return JSONResponse(data_sets, media_type=DICOM_JSON)
