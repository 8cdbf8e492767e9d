"""What stands between the web server and the world: security headers, foreign pages, large bodies, failures.

No answer to a failed request repeats any of it, or tells how the failure came about.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPMethod, HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from daemon import metrics
from daemon.telemetry import describe, log
from daemon.web import page
from daemon.web.filters import Filters
from daemon.web.roles import INTERFACES
from daemon.web.schemas import BODY_BYTES_MAX, PROBLEM_TYPE, WORKITEM_BYTES_MAX, Problem
from triage.errors import BusyError, ConflictError, CursorError, StudyNotFoundError
from triage.records.store import DatabaseError

_RETRY_SECONDS = 5
# Parameters and fields of this interface.
_FIELDS = {"uid", "verb", "reader", "body", "kind", "opinion", "clinical_priority", "window", "size", "number", "form"}
_FIELDS |= {"anyway", "who", "study", "outcome", "since", "before"}
_OURS = {*Filters.model_fields} | _FIELDS
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # Not "no-referrer": browsers would then send "Origin: null" with our own forms.
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
# A year: browsers then ask for this name over TLS alone (RFC 6797).
_HEADERS_OF_TLS = {"strict-transport-security": "max-age=31536000"}


class RefusalError(HTTPException):
    """An answer with a status of its own, in words of ours."""


def explain_failures(app: FastAPI) -> None:
    app.add_exception_handler(StudyNotFoundError, _not_found)
    app.add_exception_handler(ConflictError, _conflict)
    app.add_exception_handler(BusyError, busy)
    app.add_exception_handler(CursorError, _no_cursor)
    app.add_exception_handler(DatabaseError, database_down)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _refused)


async def _not_found(request: Request, error: Exception) -> Response:
    return failure(request.url.path, 404, str(error))


async def _conflict(request: Request, error: Exception) -> Response:
    return failure(request.url.path, 409, str(error))


async def _no_cursor(request: Request, error: Exception) -> Response:
    return failure(request.url.path, 422, f"cursor: {error}.")


async def busy(request: Request, error: Exception) -> Response:
    answer = failure(request.url.path, 503, f"{error}. Try again in a moment.")
    answer.headers["retry-after"] = str(_RETRY_SECONDS)
    return answer


async def database_down(request: Request, error: Exception) -> Response:
    log().error("database_unavailable", **describe(error))
    answer = failure(request.url.path, 503, "The database does not answer: the worklist cannot be shown or changed.")
    answer.headers["retry-after"] = str(_RETRY_SECONDS)
    return answer


async def _not_valid(request: Request, error: Exception) -> Response:
    """Only the names that this interface gives to its parameters are repeated."""
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    names = sorted({str(part) for problem in problems for part in problem["loc"]} & _OURS)
    return failure(request.url.path, 422, f"Not valid: {', '.join(names) or 'the request'}. See /api/docs.")


async def _refused(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    answer = failure(request.url.path, status, error.detail if isinstance(error, RefusalError) else "")
    allow = (error.headers or {}).get("Allow") if isinstance(error, HTTPException) else None
    if allow:
        answer.headers["allow"] = allow
    return answer


def failure(path: str, status: int, detail: str = "") -> Response:
    """Problem details (RFC 9457) for programs, a page for people."""
    title = HTTPStatus(status).phrase
    if not path.startswith(INTERFACES):
        return HTMLResponse(page.render("failure.html", title=title, status=status, detail=detail), status)
    problem = Problem(type="about:blank", title=title, status=status, detail=detail)
    return JSONResponse(problem.model_dump(exclude_defaults=True), status, media_type=PROBLEM_TYPE)


class Shield:
    """Around everything: what must not come in, the headers of every answer, and no word of an unexpected error."""

    def __init__(
        self, app: ASGIApp, is_secure: Callable[[Scope], bool] = lambda scope: scope["scheme"] == "https"
    ) -> None:
        """``is_secure``: whether the browser speaks TLS, to us or to a proxy."""
        self._app = app
        self._is_secure = is_secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, began = False, time.monotonic()

        async def send_with_headers(event: Message) -> None:
            nonlocal started
            if event["type"] == "http.response.start":
                started = True
                _count(scope["method"], event["status"], time.monotonic() - began)
                headers = _HEADERS | (_HEADERS_OF_TLS if self._is_secure(scope) else {})
                ours = [(name.encode(), value.encode()) for name, value in headers.items()]
                event = {**event, "headers": [*event.get("headers", []), *ours]}
            await send(event)

        try:
            answer = _refusal(scope["method"], scope["path"], Headers(scope=scope)) or self._app
            await answer(scope, receive, send_with_headers)
        except Exception as error:
            log().error("http_request_failed", **describe(error))
            if started:
                raise
            await failure(scope["path"], 500)(scope, receive, send_with_headers)


def _count(method: str, status: int, seconds: float) -> None:
    known = method if method in HTTPMethod.__members__ else "other"
    metrics.HTTP_REQUESTS.labels(known, str(status)).inc()
    metrics.HTTP_SECONDS.labels(known).observe(seconds)


def _refusal(method: str, path: str, headers: Headers) -> Response | None:
    # No page can make a browser send a token without having asked us first, and we allow none to (Fetch, 4.9).
    has_token = headers.get("authorization", "").lower().startswith("bearer ")
    if method not in {"GET", "HEAD"} and not has_token and is_foreign(headers):
        return failure(path, 403, "Changes are accepted from pages of this server only.")
    if "transfer-encoding" in headers:
        return failure(path, 411)
    length = headers.get("content-length", "0")  # the parser of the protocol holds the body to it
    most = WORKITEM_BYTES_MAX if path.startswith("/dicom-web/workitems/") else BODY_BYTES_MAX
    if not length.isdecimal() or int(length) > most:
        return failure(path, 413)
    return None


def is_foreign(headers: Headers) -> bool:
    """Browsers say where a request comes from, and no page can change that; other programs say nothing."""
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return True
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower()
