"""Signing in and out, and what is shown to those who have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from secrets import token_urlsafe
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import Scope

from daemon.trail import Trail
from daemon.web import page
from daemon.web.acting import acting, cookies
from daemon.web.attempts import WINDOW_SECONDS, Attempts
from daemon.web.audit import Auditing
from daemon.web.door import Door
from daemon.web.forms import Form
from daemon.web.keys import Keys
from daemon.web.oidc import BACK, SignInError
from daemon.web.waiting import Waiting
from triage.passwords import PASSWORD_MAX
from triage.records.audit import Audit
from triage.records.orders import Orders
from triage.user import NAME_MAX, Access, Outcome, User

_AWAY_SECONDS = 600
_WRONG = "Name or password is wrong."


@dataclass
class Entrance:
    """The door, and the pages before it."""

    keys: Keys
    trail: Trail
    audit: Audit
    orders: Orders
    attempts: Attempts = field(default_factory=Attempts)

    def attach(self, app: FastAPI) -> None:
        """Before the shield is: it stays outermost."""
        app.include_router(self.router())
        app.include_router(Auditing(self.audit).router())
        app.include_router(Waiting(self.orders).router())
        app.add_middleware(Door, keys=self.keys, trail=self.trail)

    def router(self) -> APIRouter:
        router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
        router.add_api_route("/login", self.ask)
        router.add_api_route("/login", self.sign_in, methods=["POST"])
        router.add_api_route("/logout", self.sign_out, methods=["POST"])
        router.add_api_route("/account", self.account)
        if self.keys.provider:
            router.add_api_route("/login/oidc", self.send_away)
            router.add_api_route(BACK, self.come_back)
        return router

    # -- with a password -------------------------------------------------------------------------------------------

    def ask(self) -> Response:
        return self._page()

    def sign_in(self, request: Request, form: Form) -> Response:
        """The same words and the same time, whether or not there is such a user."""
        name, password = form.get("name", "").strip(), form.get("password", "")
        address = self.keys.peers.address(request.scope)
        wait = self.attempts.begin(name, address)
        if wait and self._was_unlocked(name):
            wait = self.attempts.begin(name, address)
        if wait:
            return self._refuse(request, "", f"Too many attempts. Try again in {wait // 60 + 1} min.", wait)
        user = self.keys.users.with_password(name, password)
        if user is None:
            known = self.keys.users.find(name)  # a name that nobody has may be a password in the wrong place
            return self._refuse(request, known.name if known else "", _WRONG)
        self.attempts.succeed(name, address)
        self._note(request, "sign_in", user.name)
        answer = RedirectResponse("/", HTTPStatus.SEE_OTHER)
        self.keys.hand_over(request.scope, answer, user)
        return answer

    def _was_unlocked(self, name: str) -> bool:
        """By the command line, which cannot reach what we remember."""
        seconds_ago = self.keys.users.unlocked_seconds_ago(name)
        if seconds_ago is None or seconds_ago > WINDOW_SECONDS:
            return False
        self.attempts.forgive(name, seconds_ago)
        return True

    def sign_out(self, request: Request) -> Response:
        secret = self.keys.session_secret(request.scope)
        user = self.keys.sessions.find(secret) if secret else None
        answer = RedirectResponse("/login", HTTPStatus.SEE_OTHER)
        self.keys.take_back(request.scope, answer)
        if user:
            self._note(request, "sign_out", user.name)
        return answer

    def account(self, request: Request) -> Response:
        """Who one is. Where nobody signs in, the page that asks for a name."""
        user = acting(request)
        if user is None:
            return RedirectResponse("/reader", HTTPStatus.SEE_OTHER)
        return HTMLResponse(page.render("account.html", user=user))

    # -- at the identity provider ----------------------------------------------------------------------------------

    def send_away(self, request: Request) -> Response:
        if self.keys.provider is None:
            return self._page(HTTPStatus.NOT_FOUND)
        secret = token_urlsafe(32)
        try:
            where = self.keys.provider.address(secret)
        except SignInError as error:
            return self._refuse(request, "", str(error))
        answer = RedirectResponse(where, HTTPStatus.SEE_OTHER)
        # Lax: the browser comes back from another site. The session's own cookie stays strict.
        answer.set_cookie(
            self._away(request.scope), secret, max_age=_AWAY_SECONDS, samesite="lax", **self._kept(request.scope)
        )
        return answer

    def come_back(self, request: Request) -> Response:
        """A page that goes on by itself: a redirect would still count as the other site's, and bring no session."""
        secret = cookies(request.scope["headers"]).get(self._away(request.scope), "")
        try:
            user = self._user_back(secret, request.query_params)
        except SignInError as error:
            answer = self._refuse(request, "", str(error))
        else:
            self._note(request, "sign_in", user.name)
            answer = HTMLResponse(page.render("welcome.html", user=user))
            self.keys.hand_over(request.scope, answer, user)
        answer.delete_cookie(self._away(request.scope), samesite="lax", **self._kept(request.scope))
        return answer

    def _user_back(self, secret: str, query: Mapping[str, str]) -> User:
        if self.keys.provider is None:
            raise SignInError("There is no identity provider here.")
        return self.keys.provider.user_back(secret, query)

    def _away(self, scope: Scope) -> str:
        return "__Host-triage_away" if self.keys.peers.is_secure(scope) else "triage_away"

    def _kept(self, scope: Scope) -> dict[str, Any]:
        return {"path": "/", "httponly": True, "secure": self.keys.peers.is_secure(scope)}

    # -- both ------------------------------------------------------------------------------------------------------

    def _refuse(self, request: Request, who: str, words: str, wait: int = 0) -> Response:
        status = HTTPStatus.TOO_MANY_REQUESTS if wait else HTTPStatus.FORBIDDEN
        self._note(request, "sign_in", who, Outcome.REFUSED)
        answer = self._page(status, words)
        if wait:
            answer.headers["retry-after"] = str(wait)
        return answer

    def _page(self, status: int = HTTPStatus.OK, words: str = "") -> Response:
        values = {"words": words, "has_provider": self.keys.provider is not None, "password_max": PASSWORD_MAX}
        return HTMLResponse(page.render("login.html", name_max=NAME_MAX, **values), status)

    def _note(self, request: Request, verb: str, who: str, outcome: Outcome = Outcome.SUCCESS) -> None:
        address = self.keys.peers.address(request.scope)
        access = Access(at=datetime.now(UTC), who=who, verb=verb, outcome=outcome, address=address)
        if outcome is Outcome.REFUSED and not who:
            self.trail.note_once(access)
        else:
            self.trail.note(access)
