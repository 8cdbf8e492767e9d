"""The door of the web server: who asks, may they, and what is noted of it. Everything but the shield lies behind it.

Where nobody has a password (no users, no identity provider) the door stands open, as on a laptop; accesses are noted
all the same, with the name that the reader has given.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from daemon.trail import Trail
from daemon.web.acting import admit, again, read_body, reader_in, resized, said_reader, with_reader
from daemon.web.keys import Caller, Keys
from daemon.web.lasting import run_while
from daemon.web.roles import INTERFACES, VERBS, Rule, find_rule, methods_of
from daemon.web.shield import busy, database_down, failure
from daemon.web.who import is_refresh
from triage.errors import BusyError
from triage.records.store import DatabaseError
from triage.user import Access, Outcome, User

# RFC 6455, 7.4.1
_POLICY_VIOLATION = 1008
_UID = re.compile(r"[0-9.]{1,64}")


class Door:
    """An ASGI application around the pages and the interface."""

    def __init__(self, app: ASGIApp, keys: Keys, trail: Trail) -> None:
        self._app = app
        self._keys = keys
        self._trail = trail

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._open_channel(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._keys.peers.is_secure(scope):
            scope = {**scope, "scheme": "https"}  # answers name addresses
        rule, named = find_rule(scope["method"], scope["path"])
        try:
            await self._pass(scope, receive, send, rule, named)
        except DatabaseError as error:
            await (await database_down(Request(scope), error))(scope, receive, send)
        except BusyError as error:  # it cannot be told yet who asks
            await (await busy(Request(scope), error))(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send, rule: Rule | None, named: dict[str, str]) -> None:
        if rule is not None and rule.role is None:
            await self._app(scope, receive, send)
            return
        shown = scope  # with the key that what lies behind the door never sees
        caller, needs_key = await run_in_threadpool(self._ask, scope)
        user = caller.user if caller else None
        answer: ASGIApp | None = _refusal(scope, rule, caller) if needs_key else None
        said = None
        if answer is None and scope["method"] not in {"GET", "HEAD"}:
            body = await read_body(receive)
            said = reader_in(body)
            if user is not None and rule is not None and rule.speaks and said is None:
                body = with_reader(body, user.name)
                scope = resized(scope, body)
            receive = again(body, receive)
        if answer is None and user is not None:
            answer = _contradiction(scope, said, user)
            scope = admit(scope, user)
        who = user.name if user else "" if needs_key else said or said_reader(scope)
        access = _access(rule, named, who, self._keys.peers.address(scope))
        # A page that is left open looks at its study as it does at the list: once in some minutes.
        goes_on = rule is not None and rule.path == "/studies/{uid}" and is_refresh(Headers(scope=scope))
        noted = _Noted(self._trail, access, send, goes_on=goes_on)
        running = noted.run(answer or self._app, scope, receive)
        if rule is None or not rule.lasts:
            await running
        elif not await run_while(lambda: self._may(shown, rule), running) and noted.has_begun:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _open_channel(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A channel is looked after by a rule as a request is; nobody can be led to a page from it."""
        rule, named = find_rule("GET", scope["path"])
        caller, needs_key = await run_in_threadpool(self._ask, scope)
        user = caller.user if caller else None
        is_refused = needs_key and (rule is None or user is None or not (rule.role and user.role.covers(rule.role)))
        access = _access(rule, named, user.name if user else "", self._keys.peers.address(scope))
        if access:
            self._trail.note_once(replace(access, outcome=Outcome.REFUSED if is_refused else Outcome.SUCCESS))
        if is_refused:
            await receive()
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
            return
        running = self._app(admit(scope, user) if user else scope, receive, send)
        if rule is None:
            await running
        elif not await run_while(lambda: self._may(scope, rule), running):
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})

    def _may(self, scope: Scope, rule: Rule) -> bool:
        """Still, or also now that keys are needed."""
        if not self._keys.are_needed():
            return True
        caller = self._keys.caller(scope, is_use=False)
        return caller is not None and rule.role is not None and caller.user.role.covers(rule.role)

    def _ask(self, scope: Scope) -> tuple[Caller | None, bool]:
        if not self._keys.are_needed():
            return None, False
        return self._keys.caller(scope), True


def _refusal(scope: Scope, rule: Rule | None, caller: Caller | None) -> Response | None:
    """Whoever asks for what is not in the table learns no more of it than that."""
    path = scope["path"]
    if caller is None:
        return _ask_for_key(scope, rule)
    if rule is None or rule.role is None:
        return _not_served(path)
    if not caller.user.role.covers(rule.role):
        return failure(path, 403, f"This needs the role {rule.role}.")
    if caller.by_cookie and scope["method"] not in {"GET", "HEAD"} and not _says_where_from(scope):
        return failure(path, 403, "A session changes something only from its own pages; programs use a token.")
    return None


def _ask_for_key(scope: Scope, rule: Rule | None) -> Response:
    is_page = rule.is_page if rule else not scope["path"].startswith(INTERFACES)
    has_key = "authorization" in Headers(scope=scope)
    if is_page and not has_key:
        return RedirectResponse("/login", HTTPStatus.SEE_OTHER)
    words = "This token opens nothing." if has_key else "Show a token: Authorization: Bearer ..."
    answer = failure(scope["path"], 401, words)
    answer.headers["www-authenticate"] = 'Bearer realm="triage"' + (', error="invalid_token"' if has_key else "")
    return answer


def _not_served(path: str) -> Response:
    methods = methods_of(path)
    answer = failure(path, 405 if methods else 404)
    if methods:
        answer.headers["allow"] = ", ".join(methods)
    return answer


def _says_where_from(scope: Scope) -> bool:
    """Browsers do, and the shield has looked at what they say."""
    headers = Headers(scope=scope)
    return "origin" in headers or "sec-fetch-site" in headers


def _contradiction(scope: Scope, said: str | None, user: User) -> Response | None:
    if said is not None and said != user.name:
        words = "The reader is who has signed in: leave `reader` out, or say the same name."
        return failure(scope["path"], 403, words)
    if scope["path"] == "/reader":
        return RedirectResponse("/account", HTTPStatus.SEE_OTHER)
    return None


# -- what is noted -------------------------------------------------------------------------------------------------


def _access(rule: Rule | None, named: dict[str, str], who: str, address: str) -> Access | None:
    verb = (rule.verb if rule else "") or named.get("verb", "")
    if not verb:
        return None
    uid = named.get("uid", "")
    return Access(
        at=datetime.now(UTC),
        who=who,
        verb=verb if verb in VERBS else "unknown",
        study_instance_uid=uid if _UID.fullmatch(uid) else "",
        address=address,
    )


class _Noted:
    """Notes an access when its answer begins, before anything of it leaves."""

    def __init__(self, trail: Trail, access: Access | None, send: Send, *, goes_on: bool) -> None:
        self._trail = trail
        self._goes_on = goes_on
        self._access = access
        self._send = send
        self.has_begun = False

    async def run(self, app: ASGIApp, scope: Scope, receive: Receive) -> None:
        try:
            await app(scope, receive, self._watch)
        except Exception:
            self._note(HTTPStatus.INTERNAL_SERVER_ERROR)
            raise

    async def _watch(self, event: Message) -> None:
        if event["type"] == "http.response.start":
            self.has_begun = True
            self._note(event["status"])
        await self._send(event)

    def _note(self, status: int) -> None:
        access, self._access = self._access, None
        if access is None:
            return
        ended = replace(access, outcome=_outcome(status, access.who))
        if not ended.who and ended.outcome is Outcome.REFUSED:
            # Who has no key may not fill the disk with lines.
            self._trail.note_once(replace(ended, study_instance_uid=""))
        elif ended.verb == "list" or self._goes_on:
            self._trail.note_once(ended)
        else:
            self._trail.note(ended)


def _outcome(status: int, who: str) -> Outcome:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Outcome.FAILED
    if status >= HTTPStatus.BAD_REQUEST or (status == HTTPStatus.SEE_OTHER and not who):
        return Outcome.REFUSED
    return Outcome.SUCCESS
