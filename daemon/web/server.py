"""The reading worklist over HTTP: a JSON interface under /api, and a page that works without a script.

Nobody is asked for a password: the server belongs on loopback, or behind a proxy that asks who it is (and passes the
Host header on). Against pages of other sites in the same browser it defends itself: only known host names are served
(DNS rebinding), and nothing is changed at a foreign page's request (`daemon/web/shield.py`).
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from secrets import token_hex
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, quote, unquote

import uvicorn
from fastapi import APIRouter, Body, Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.middleware.trustedhost import TrustedHostMiddleware

from daemon.telemetry import describe, log
from daemon.web import page
from daemon.web.drawing import Drawing
from daemon.web.schemas import (
    BUSY,
    NOT_READY,
    READER_MAX,
    DescribedApp,
    Limit,
    Liveness,
    MaybeReaderName,
    ReaderName,
    Readiness,
    Study,
    Uid,
    Worklist,
    failures,
)
from daemon.web.shield import Shield, explain_failures
from daemon.web.stepping import StepError, Steps, failed
from triage.errors import ConflictError, TriageError
from triage.policy import Policy
from triage.records.queue import Queue
from triage.records.reading import Reading
from triage.records.store import DatabaseError
from triage.study import Status

STATIC = Path(__file__).resolve().parent / "static"
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
PAGE_ROWS = 200
_CONNECTIONS_MAX = 256
_GRACE_SECONDS = 5
# Subscribers of workitems are told things and say nothing.
_WORD_BYTES_MAX = 1024
_READER_COOKIE = "triage_reader"
_DATABASE_MISSING = "The database does not answer."
_DESCRIPTION = """For prioritisation only, not for diagnosis.

Times are UTC (RFC 3339). Poll the worklist, every 5 s like the page: each answer is the whole of it; there is no
ETag because waiting times run on. A body is JSON in UTF-8, sent as application/json. Failures are problem details (RFC
9457).

Nobody is asked for a password. `reader` is a name by which readers know each other: whoever gives it cannot read or
release what another reader holds; whoever leaves it out can, as an archive does once the report is signed.
"""

Ready = Callable[[], dict[str, Any]]


def build_app(
    reading: Reading,
    queue: Queue,
    policy: Policy,
    allowed_hosts: Sequence[str],
    ready: Ready,
    *,
    drawing: Drawing | None = None,
    steps: Steps | None = None,
) -> FastAPI:
    """``allowed_hosts`` are served beside the names of loopback. Without ``drawing`` nothing is explained in pictures.

    ``ready`` returns {"ready": bool, "missing": [sentence, ...]}, and whatever else /api/health/ready should tell; the
    page shows the sentences. It may raise: then the state is said to be unknown.
    """
    app = DescribedApp(
        title="Worklist triage",
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        redirect_slashes=False,
    )
    app.include_router(_Api(reading, queue, policy, ready).router())
    app.include_router(_Pages(reading, policy, ready, explains=drawing is not None).router())
    if drawing:
        app.include_router(drawing.router())
    if steps:
        app.include_router(steps.router())
        app.add_exception_handler(StepError, failed)
    app.add_api_route("/api/docs", lambda: _html("docs.html", schema=app.openapi()), include_in_schema=False)
    app.mount("/static", StaticFiles(directory=STATIC))
    explain_failures(app)
    hosts = [*LOCAL_HOSTS, *allowed_hosts]
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    app.add_middleware(Shield)  # added last: outermost
    return app


class _Api:
    """The JSON interface."""

    def __init__(self, reading: Reading, queue: Queue, policy: Policy, ready: Ready) -> None:
        self._reading = reading
        self._queue = queue
        self._policy = policy
        self._ready = ready

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api", responses=failures(400, 500))
        study = "/studies/{uid}"
        shown: dict[str, Any] = {"response_model": Worklist, "response_description": "First to be read first."}
        router.add_api_route("/worklist", self.worklist, **shown, responses=failures(422, 503))
        one: dict[str, Any] = {
            "response_model": Study,
            "response_description": "Some fields are null once it was read.",
        }
        router.add_api_route(study, self.study, **one, responses=failures(404, 422, 503))
        failing = failures(403, 404, 409, 411, 413, 422, 503)
        changes: dict[str, Any] = {
            "status_code": 204,
            "methods": ["POST"],
            "responses": failing,
            "response_description": "Changed, or so already.",
        }
        router.add_api_route(f"{study}/start", self.start, **changes)
        router.add_api_route(f"{study}/read", self.read, **changes)
        router.add_api_route(f"{study}/release", self.release, **changes)
        router.add_api_route("/health/live", self.live, response_description="It does.", responses=BUSY)
        ready: dict[str, Any] = {"response_model": Readiness, "response_description": "Nothing is missing."}
        router.add_api_route("/health/ready", self.ready, **ready, responses=NOT_READY)
        return router

    def worklist(self, limit: Limit = None) -> dict[str, Any]:
        """The reading worklist in its order. Show the entries as they come; `why` says why each stands there."""
        entries = self._reading.worklist(limit)
        return {
            "generated_at": datetime.now(UTC),
            "policy_version": self._policy.version,
            "waiting_limit_minutes": self._policy.waiting_limit_minutes,
            "count": len(entries),
            "entries": [asdict(entry) for entry in entries],
        }

    def study(self, uid: Uid) -> dict[str, Any]:
        """One study, read or not. While it is open, with its place on the worklist."""
        study = self._reading.study(uid)
        if study["status"] != Status.READ:
            place = next((entry for entry in self._reading.worklist() if entry.study_instance_uid == uid), None)
            if place:
                return {**study, **asdict(place)}
            study = self._reading.study(uid)  # it was read just now
        return {"rank": None, "waiting_seconds": None, "overdue": None, "why": None, **study}

    def start(self, uid: Uid, body: ReaderName) -> None:
        """The reader takes the study; it stays on the worklist.

        Again by the same reader: says that images which came in the meantime are seen. 409 if another reader holds it,
        or it has been read.
        """
        self._reading.start_reading(uid, body.reader)

    def read(self, uid: Uid, body: Annotated[MaybeReaderName | None, Body()] = None) -> None:
        """The study has been read and leaves the worklist. Again: nothing changes.

        409 if new images have arrived since the reading was started (start it again, then it can be read), or `reader`
        is given and another reader holds it. Without `reader`, who started the study is noted as its reader.
        """
        self._reading.close(uid, _name(body))

    def release(self, uid: Uid, body: Annotated[MaybeReaderName | None, Body()] = None) -> None:
        """Nobody reads the study any more; it goes back to its place.

        409 if it has been read, or `reader` is given and another reader holds it.
        """
        self._reading.release(uid, _name(body))

    def live(self) -> Liveness:
        """Whether the server answers; nothing else is asked."""
        return Liveness(live=True)

    def ready(self, response: Response) -> dict[str, Any]:
        """Whether films are received, analysed and shown, what is missing if not, and the jobs that wait."""
        state = _state(self._ready)
        try:
            state["jobs"] = self._queue.depth()
        except DatabaseError:
            state |= {"ready": False, "missing": state["missing"] or [_DATABASE_MISSING]}
        if not state["ready"]:
            response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
        return state


def _name(body: MaybeReaderName | None) -> str | None:
    return body.reader if body else None


def _state(ready: Ready) -> dict[str, Any]:
    try:
        state = ready()
        return {**state, "ready": bool(state["ready"]), "missing": list(state["missing"])}
    except DatabaseError as error:
        log().error("database_unavailable", **describe(error))
        return {"ready": False, "missing": [_DATABASE_MISSING]}
    except Exception as error:  # noqa: BLE001 - whatever ails the daemon, the worklist is still shown
        log().error("readiness_unknown", **describe(error))
        return {"ready": False, "missing": ["The state of the daemon is not known."]}


async def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode("utf-8", "replace")))


Form = Annotated[dict[str, str], Depends(_form)]


class _Pages:
    """The page, and the forms on it."""

    def __init__(self, reading: Reading, policy: Policy, ready: Ready, *, explains: bool) -> None:
        self._reading = reading
        self._policy = policy
        self._ready = ready
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
        return _html(
            "worklist.html",
            entries=entries[: limit or PAGE_ROWS],
            counts=page.counts(entries),
            policy=self._policy,
            missing=_state(self._ready)["missing"],
            reader=_reader(request),
            now=datetime.now(UTC),
            limit=limit,
            explains=self._explains,
        )

    def change(self, request: Request, uid: Uid, verb: Literal["start", "read", "release"], form: Form) -> Response:
        """Back to the list, or a page that says why nothing was changed. Who has no name yet is given one."""
        reader = _reader(request) or f"reader {token_hex(2)}"
        limit = form.get("limit", "")
        try:
            self._apply(verb, uid, reader, insists=form.get("anyway") == "yes")
        except ConflictError as error:
            return _remember(self._explain(verb, uid, reader, str(error), limit), reader)
        return _remember(_back(limit), reader)

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
        return _html(
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
        return _html("reader.html", reader=_reader(request), reader_max=READER_MAX)

    def note_reader(self, form: Form) -> Response:
        return _remember(_back(), _plain(form.get("reader", "")))


def _html(template: str, status: int = HTTPStatus.OK, **values: Any) -> HTMLResponse:  # noqa: ANN401 - each template has its own names
    return HTMLResponse(page.render(template, **values), status)


def _plain(name: str) -> str:
    return "".join(character for character in name if character.isprintable()).strip()[:READER_MAX]


def _reader(request: Request) -> str:
    """Who sits before this browser, "" if it has not been said."""
    return _plain(unquote(request.cookies.get(_READER_COOKIE, "")))


def _remember(response: Response, reader: str) -> Response:
    """Until the browser is closed: workstations are shared."""
    response.set_cookie(_READER_COOKIE, quote(reader, safe=""), httponly=True, samesite="strict")
    return response


def _back(limit: str = "") -> Response:
    return RedirectResponse("/" + (f"?limit={_number(limit)}" if _number(limit) else ""), HTTPStatus.SEE_OTHER)


def _number(limit: str) -> str:
    """As the list was asked for, "" if in no way that it takes."""
    return limit if limit.isascii() and limit.isdecimal() else ""


# -- the server ----------------------------------------------------------------------------------------------------


def serve(app: FastAPI, host: str, port: int, stop: threading.Event) -> None:
    """Serve until ``stop`` is set, then let running requests end. Raise TriageError if the port cannot be had."""
    listening = _listen(host, port)
    _silence()
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            loop="asyncio",
            http="h11",
            ws="wsproto",
            ws_max_size=_WORD_BYTES_MAX,
            lifespan="off",
            log_config=None,
            access_log=False,  # addresses hold Study Instance UIDs
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS_MAX,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )
    # In a thread of its own it leaves the signals to the process.
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="web", daemon=True)
    thread.start()
    log().info("web_listening", host=host, port=listening.getsockname()[1])
    while thread.is_alive() and not stop.wait(0.2):
        pass
    server.should_exit = True
    thread.join(2 * _GRACE_SECONDS)
    if not stop.is_set():
        raise TriageError("the web server ended by itself")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise TriageError(f"the web server cannot listen on {host} port {port}: {error.strerror}") from error


def _silence() -> None:
    """Its lines could hold addresses; what matters, we log ourselves."""
    logger = logging.getLogger("uvicorn")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
