"""Who acts, for what lies behind the door. Handlers learn it as they do where nobody signs in: from the reader's cookie
and from `reader` in the body. The door sees to it that both say who has signed in, and nobody else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from urllib.parse import quote, unquote

from starlette.requests import Request, cookie_parser
from starlette.types import Message, Receive, Scope

from daemon.web.who import COOKIE, plain
from triage.user import Role, User


def acting(request: Request) -> User | None:
    """Who has signed in; None where nobody has to."""
    user: User | None = getattr(request.state, "user", None)
    return user


def may_read(request: Request) -> bool:
    """Whether who looks may start, close and judge readings, too: where nobody has to sign in, anybody."""
    user = acting(request)
    return user is None or user.role.covers(Role.RADIOLOGIST)


def cookies(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """As sent; of two with the same name the last."""
    sent = b"; ".join(value for name, value in headers if name == b"cookie")
    return cookie_parser(sent.decode("latin-1"))


def said_reader(scope: Scope) -> str:
    """What the browser calls its reader where nobody signs in."""
    return plain(unquote(cookies(scope["headers"]).get(COOKIE, "")))


def admit(scope: Scope, user: User) -> Scope:
    """The request of ``user``: its cookies are the reader's name alone."""
    kept = [(name, value) for name, value in scope["headers"] if name not in {b"cookie", b"authorization"}]
    kept.append((b"cookie", f"{COOKIE}={quote(user.name, safe='')}".encode()))
    return {**scope, "headers": kept, "state": {**scope.get("state", {}), "user": user}}


async def read_body(receive: Receive) -> bytes:
    """All of it; the shield has seen to its size."""
    parts = []
    while True:
        event = await receive()
        parts.append(event.get("body", b""))
        if not event.get("more_body"):
            return b"".join(parts)


def reader_in(body: bytes) -> str | None:
    """As the handler will find it: None where it finds none."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return None
    reader = said.get("reader") if isinstance(said, dict) else None
    return reader if isinstance(reader, str) else None


def with_reader(body: bytes, name: str) -> bytes:
    """The same body, and who says it. What is no JSON object stays as it is, for the handler to refuse."""
    try:
        said = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        return body
    return json.dumps({**said, "reader": name}).encode() if isinstance(said, dict) else body


def again(body: bytes, receive: Receive) -> Receive:
    """Give ``body`` once more, then whatever comes after it."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


def resized(scope: Scope, body: bytes) -> Scope:
    """With headers that fit ``body``, which is JSON."""
    about = {b"content-length", b"content-type"}
    kept = [(name, value) for name, value in scope["headers"] if name not in about]
    ours = [(b"content-length", str(len(body)).encode()), (b"content-type", b"application/json")]
    return {**scope, "headers": kept + ours}
