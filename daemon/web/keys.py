"""What opens the door: the session of a browser, the token of a program, a token of the identity provider."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Scope

from daemon.web.acting import cookies
from daemon.web.oidc import Provider
from daemon.web.peer import Peers
from triage.records.sessions import Sessions
from triage.records.tokens import PREFIX, Tokens
from triage.records.users import Users
from triage.user import User

_BEARER = "bearer "
# Of the session.
COOKIE = "triage_session"


@dataclass(frozen=True)
class Caller:
    """Who asks. ``by_cookie``: a browser may have been made to ask by somebody else."""

    user: User
    by_cookie: bool = False


@dataclass
class Keys:
    """The keys of this site, and who holds them."""

    users: Users
    sessions: Sessions
    tokens: Tokens
    peers: Peers
    provider: Provider | None = None
    has_users: bool = False

    def are_needed(self) -> bool:
        """Once there is a user, or people can sign in elsewhere, nobody comes in without a key."""
        if not self.has_users and self.provider is None:
            self.has_users = self.users.exist()  # never unlearned: users are not deleted
        return self.has_users or self.provider is not None

    def caller(self, scope: Scope, *, is_use: bool = True) -> Caller | None:
        """By the token if one is shown, whatever else comes with it; else by the session. ``is_use``: of that."""
        authorization = Headers(scope=scope).get("authorization")
        if authorization is not None:
            user = self._by_token(authorization)
            return Caller(user) if user else None
        secret = self.session_secret(scope)
        user = self.sessions.find(secret, is_use=is_use) if secret else None
        return Caller(user, by_cookie=True) if user else None

    def _by_token(self, authorization: str) -> User | None:
        if not authorization.lower().startswith(_BEARER):
            return None
        secret = authorization[len(_BEARER) :].strip()
        if secret.startswith(PREFIX):
            return self.tokens.find(secret)
        return self.provider.user_of_token(secret) if self.provider else None

    # -- the session's cookie --------------------------------------------------------------------------------------

    def session_secret(self, scope: Scope) -> str:
        """That the browser holds, "" if none."""
        return cookies(scope["headers"]).get(self._cookie(scope), "")

    def hand_over(self, scope: Scope, answer: Response, user: User) -> None:
        """A new session for the browser; the one it may hold, ours or planted by others, ends."""
        self.take_back(scope, answer)
        secret = self.sessions.open(user.name)
        secure = self.peers.is_secure(scope)
        answer.set_cookie(self._cookie(scope), secret, path="/", httponly=True, samesite="strict", secure=secure)

    def take_back(self, scope: Scope, answer: Response) -> None:
        held = self.session_secret(scope)
        if held:
            self.sessions.close(held)
        secure = self.peers.is_secure(scope)
        answer.delete_cookie(self._cookie(scope), path="/", httponly=True, samesite="strict", secure=secure)

    def _cookie(self, scope: Scope) -> str:
        """With a prefix by which browsers refuse it from neighbouring hosts and without TLS (RFC 6265bis 4.1.3)."""
        return f"__Host-{COOKIE}" if self.peers.is_secure(scope) else COOKIE
