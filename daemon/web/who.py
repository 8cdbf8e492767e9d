"""Who asks? The one place that answers. Where people sign in, the door has seen to it that they say who they are."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, unquote

from fastapi import Request
from fastapi.responses import Response

from daemon.web.schemas import READER_MAX

COOKIE = "triage_reader"


def who(request: Request, said: str | None = None) -> str:
    """The name under which a request acts: as it says, else as its browser says; "" if neither does."""
    return said or plain(unquote(request.cookies.get(COOKIE, "")))


def plain(name: str) -> str:
    """A name as it may be kept: one line, not too long."""
    return "".join(character for character in name if character.isprintable()).strip()[:READER_MAX]


def remember(response: Response, name: str) -> Response:
    """Until the browser is closed: workstations are shared."""
    response.set_cookie(COOKIE, quote(name, safe=""), httponly=True, samesite="strict")
    return response


def is_refresh(headers: Mapping[str, str]) -> bool:
    """Whether a page that is open asks for itself again, as it says. Believe it of nobody who was not seen before."""
    return "x-refresh" in headers
