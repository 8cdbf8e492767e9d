"""What stands in a query has to be known: a filter that is passed over shows more than was asked for."""

from __future__ import annotations

import re
from collections.abc import Collection
from difflib import get_close_matches
from http import HTTPStatus

from fastapi.requests import HTTPConnection

from daemon.web.description import DescribedApp
from daemon.web.shield import RefusalError

# A key of any other form is not repeated: what is no name may be somebody's.
_NAME = re.compile(r"[a-z][a-z_-]{0,31}", re.IGNORECASE)
# Whatever probes add, it must not take a healthy server from their list.
_PROBES = "/api/health"


def only_known_keys(request: HTTPConnection) -> None:
    """Raise RefusalError (400) for a query with a key that the operation is not described with."""
    app, path = request.app, request.scope["route"].path
    if not isinstance(app, DescribedApp) or path.startswith(_PROBES):
        return
    method = request.scope.get("method", "GET")
    known = app.query_keys("GET" if method == "HEAD" else method, path)
    unknown = None if known is None else next((key for key in request.query_params if key not in known), None)
    if unknown is not None:
        raise RefusalError(HTTPStatus.BAD_REQUEST, _words(unknown, known or ()))


def _words(unknown: str, known: Collection[str]) -> str:
    named = f"`{unknown}`" if _NAME.fullmatch(unknown) else "one that is no name"
    if not known:
        return f"There are no query parameters here, and {named} was given. See /api/docs."
    nearest = get_close_matches(unknown.lower(), known, n=1, cutoff=0.0)
    return f"There is no query parameter {named}; the nearest is `{nearest[0]}`. See /api/docs."
