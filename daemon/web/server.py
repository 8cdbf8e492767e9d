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
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from secrets import token_hex
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode

import uvicorn
from fastapi import APIRouter, Body, Depends, FastAPI, Query, Request
from fastapi import Path as InPath
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from daemon.telemetry import describe, log
from daemon.web import page
from daemon.web.shield import Shield, explain_failures
from triage.errors import ConflictError, StudyNotFoundError, TriageError
from triage.policy import Policy
from triage.records.queue import Queue
from triage.records.reading import Reading
from triage.records.store import DatabaseError
from triage.study import WorklistEntry

STATIC = Path(__file__).resolve().parent / "static"
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
PAGE_ROWS = 200
_CONNECTIONS_MAX = 256
_GRACE_SECONDS = 5
_READER_COOKIE = "triage_reader"
_READER_MAX = 64
_NOTICES = {
    "conflict": "Nothing was changed: another reader holds that study, or it has been read.",
    "unknown": "Nothing was changed: that study is not held here.",
}
_PROBLEM: dict[str, Any] = {"content": {"application/problem+json": {}}}
_WORDS = {
    404: "no such study",
    409: "another reader holds the study, or it has been read",
    422: "the request is not valid",
    503: "the database does not answer",
}

Ready = Callable[[], dict[str, Any]]
Limit = Annotated[int | None, Query(ge=1, le=10_000, description="how many of the first studies; all without it")]
Name = Annotated[str, Field(min_length=1, max_length=_READER_MAX, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
Uid = Annotated[str, InPath(pattern=r"^[0-9.]{1,64}$", description="Study Instance UID")]


class ReaderName(BaseModel):
    """Who reads."""

    model_config = ConfigDict(extra="forbid")

    reader: Name


class MaybeReaderName(BaseModel):
    """Who has read, if that is to be noted."""

    model_config = ConfigDict(extra="forbid")

    reader: Name | None = None


@dataclass(frozen=True, kw_only=True)
class Worklist:
    """The reading worklist, or its beginning, first to be read first. ``count`` is that of ``entries``."""

    generated_at: datetime
    policy_version: str
    waiting_limit_minutes: int
    count: int
    entries: list[WorklistEntry]


def build_app(reading: Reading, queue: Queue, policy: Policy, allowed_hosts: Sequence[str], ready: Ready) -> FastAPI:
    """``allowed_hosts`` are served beside the names of loopback.

    ``ready`` returns {"ready": bool, "missing": [sentence, ...]}, and whatever else /api/health/ready should tell; the
    page shows the sentences. It may raise: then the state is said to be unknown.
    """
    app = FastAPI(
        title="Worklist triage",
        description="For prioritisation only, not for diagnosis.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        redirect_slashes=False,
    )
    app.include_router(_Api(reading, queue, policy, ready).router())
    app.include_router(_Pages(reading, policy, ready).router())
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
        router = APIRouter(prefix="/api", responses=_problems(422, 503))
        study = "/studies/{uid}"
        router.add_api_route("/worklist", self.worklist)
        router.add_api_route(study, self.study, responses=_problems(404))
        changes: dict[str, Any] = {"status_code": 204, "methods": ["POST"], "responses": _problems(404, 409)}
        router.add_api_route(f"{study}/start", self.start, **changes)
        router.add_api_route(f"{study}/read", self.read, **changes)
        router.add_api_route(f"{study}/release", self.release, **changes)
        router.add_api_route("/health/live", self.live)
        router.add_api_route("/health/ready", self.ready, responses={503: {"description": "what is missing"}})
        return router

    def worklist(self, limit: Limit = None) -> Worklist:
        """The reading worklist in its order."""
        entries = self._reading.worklist(limit)
        return Worklist(
            generated_at=datetime.now(UTC),
            policy_version=self._policy.version,
            waiting_limit_minutes=self._policy.waiting_limit_minutes,
            count=len(entries),
            entries=entries,
        )

    def study(self, uid: Uid) -> dict[str, Any]:
        """One study, read or not."""
        return self._reading.study(uid)

    def start(self, uid: Uid, body: ReaderName) -> None:
        """The reader takes the study; it stays on the worklist."""
        self._reading.start_reading(uid, body.reader)

    def read(self, uid: Uid, body: Annotated[MaybeReaderName | None, Body()] = None) -> None:
        """The study has been read and leaves the worklist. Again: nothing changes."""
        self._reading.close(uid, body.reader if body else None)

    def release(self, uid: Uid) -> None:
        """Nobody reads the study any more; it goes back to its place."""
        self._reading.release(uid)

    def live(self) -> dict[str, bool]:
        """The server answers."""
        return {"live": True}

    def ready(self, response: Response) -> dict[str, Any]:
        """Whether films are received, analysed and shown, what is missing if not, and the jobs that wait."""
        state = _state(self._ready)
        try:
            state["jobs"] = self._queue.depth()
        except DatabaseError:
            state |= {"ready": False, "missing": state["missing"] or ["The database does not answer."]}
        if not state["ready"]:
            response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
        return state


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {**_PROBLEM, "description": _WORDS[status]} for status in statuses}


def _state(ready: Ready) -> dict[str, Any]:
    try:
        state = ready()
        return {**state, "ready": bool(state["ready"]), "missing": list(state["missing"])}
    except Exception as error:  # noqa: BLE001 - whatever ails the daemon, the worklist is still shown
        log().error("readiness_unknown", **describe(error))
        return {"ready": False, "missing": ["The state of the daemon is not known."]}


async def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode("utf-8", "replace")))


Form = Annotated[dict[str, str], Depends(_form)]


class _Pages:
    """The page, and the forms on it."""

    def __init__(self, reading: Reading, policy: Policy, ready: Ready) -> None:
        self._reading = reading
        self._policy = policy
        self._ready = ready

    def router(self) -> APIRouter:
        router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
        router.add_api_route("/", self.worklist)
        router.add_api_route("/studies/{uid}/{verb}", self.change, methods=["POST"])
        router.add_api_route("/reader", self.ask_reader)
        router.add_api_route("/reader", self.note_reader, methods=["POST"])
        return router

    def worklist(self, request: Request, limit: Limit = None, notice: str = "") -> Response:
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
            notice=_NOTICES.get(notice, ""),
        )

    def change(self, request: Request, uid: Uid, verb: Literal["start", "read", "release"], form: Form) -> Response:
        """Back to the list, with a notice if nothing was changed. Who has no name yet is given one."""
        reader = _reader(request) or f"reader {token_hex(2)}"
        notice = ""
        try:
            self._apply(verb, uid, reader)
        except StudyNotFoundError:
            notice = "unknown"
        except ConflictError:
            notice = "conflict"
        return _remember(_back(form.get("limit", ""), notice), reader)

    def _apply(self, verb: str, uid: str, reader: str) -> None:
        if verb == "start":
            self._reading.start_reading(uid, reader)
        elif verb == "read":
            self._reading.close(uid, reader)
        else:
            self._reading.release(uid)

    def ask_reader(self, request: Request) -> Response:
        return _html("reader.html", reader=_reader(request), reader_max=_READER_MAX)

    def note_reader(self, form: Form) -> Response:
        return _remember(_back(), _plain(form.get("reader", "")))


def _html(template: str, **values: Any) -> HTMLResponse:  # noqa: ANN401 - each template has its own names
    return HTMLResponse(page.render(template, **values))


def _plain(name: str) -> str:
    return "".join(character for character in name if character.isprintable()).strip()[:_READER_MAX]


def _reader(request: Request) -> str:
    """Who sits before this browser, "" if it has not been said."""
    return _plain(unquote(request.cookies.get(_READER_COOKIE, "")))


def _remember(response: Response, reader: str) -> Response:
    """Until the browser is closed: workstations are shared."""
    response.set_cookie(_READER_COOKIE, quote(reader, safe=""), httponly=True, samesite="strict")
    return response


def _back(limit: str = "", notice: str = "") -> Response:
    query = {"limit": limit if limit.isdecimal() else "", "notice": notice}
    text = urlencode({name: value for name, value in query.items() if value})
    return RedirectResponse("/" + (f"?{text}" if text else ""), status_code=HTTPStatus.SEE_OTHER)


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
            ws="none",
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
