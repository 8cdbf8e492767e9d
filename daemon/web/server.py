"""The reading worklist over HTTP: JSON under /api, DICOMweb, and pages that work without a script.

Who asks is seen to by `daemon/web/door.py`, once the site has users; until then the server belongs on loopback. A proxy
before it must pass the Host header on. Against pages of other sites in the same browser it defends itself: only known
host names are served (DNS rebinding), and nothing is changed at a foreign page's request (`daemon/web/shield.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Depends, FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.middleware.trustedhost import TrustedHostMiddleware

from daemon.web.api import Api
from daemon.web.description import DescribedApp
from daemon.web.drawing import Drawing
from daemon.web.film import Films
from daemon.web.health import Health, Ready
from daemon.web.login import Entrance
from daemon.web.pages import Pages, html
from daemon.web.querying import only_known_keys
from daemon.web.shield import Shield, explain_failures
from daemon.web.stream import Changes
from daemon.web.ups_rs import StepError, Steps, failed
from triage.records.queue import Queue
from triage.records.reading import Reading

STATIC = Path(__file__).resolve().parent / "static"
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
_DESCRIPTION = """For prioritisation only, not for diagnosis.

Times are UTC (RFC 3339). Fetch the worklist whenever /api/changes says that something has happened, and every 15 s
like the page, for waiting times run on; who cannot listen polls every 5 s. There is no ETag for the same reason. A
body is JSON in UTF-8, sent as application/json. Failures are problem details (RFC 9457). A query key that is not
described is refused (400), not passed over.

Once the site has users, programs show a token: `Authorization: Bearer ...` (401 without one that holds, 403 where its
role is too low), and `reader` can only be the token's owner. Until then nobody is asked, and `reader` is a name by
which readers know each other. Who is known by name cannot read or release what another reader holds, unless the body
says `"anyway": true`, as an archive does once the report is signed; where nobody has a token and `reader` is left out,
it is not asked who holds the study.
"""


@dataclass(frozen=True, kw_only=True)
class Wings:
    """What a site may do without.

    ``drawing``: pictures that explain. ``films``: are shown. ``dicomweb``: studies for viewers. ``steps``:
    workitems for them. ``entrance``: asks people who they are.
    """

    drawing: Drawing | None = None
    films: Films | None = None
    dicomweb: APIRouter | None = None
    steps: Steps | None = None
    entrance: Entrance | None = None


def build_app(
    reading: Reading,
    queue: Queue,
    allowed_hosts: Sequence[str],
    ready: Ready,
    *,
    ring: Callable[[], None] = lambda: None,
    wings: Wings | None = None,
) -> FastAPI:
    """``allowed_hosts`` are served beside the names of loopback. ``ring`` wakes the workers.

    ``ready`` returns {"ready": bool, "missing": [sentence, ...]}, and whatever else /api/health/ready should tell; the
    page shows the sentences. It may raise: then the state is said to be unknown.
    """
    wings = wings or Wings()
    app = DescribedApp(
        title="Worklist triage",
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        redirect_slashes=False,
        dependencies=[Depends(only_known_keys)],
    )
    health = Health(queue, ready)
    changes = app.state.changes = Changes(reading.history)
    app.include_router(Api(reading, queue, ring).router())
    app.include_router(changes.router())
    app.include_router(health.router())
    pages = Pages(
        reading=reading,
        queue=queue,
        health=health,
        ring=ring,
        explains=wings.drawing is not None,
        shows_films=wings.films is not None,
    )
    app.include_router(pages.router())
    _add(wings, app)
    app.add_api_route("/api/docs", lambda: html("docs.html", schema=app.openapi()), include_in_schema=False)
    app.mount("/static", StaticFiles(directory=STATIC))
    _defend(app, [*LOCAL_HOSTS, *allowed_hosts], wings.entrance)
    return app


def _add(wings: Wings, app: FastAPI) -> None:
    if wings.films:
        app.include_router(wings.films.router())
    if wings.drawing:
        app.include_router(wings.drawing.router())
    if wings.dicomweb:
        app.include_router(wings.dicomweb)
    if wings.steps:
        app.include_router(wings.steps.router())
        app.add_exception_handler(StepError, failed)


def _defend(app: FastAPI, hosts: Sequence[str], entrance: Entrance | None) -> None:
    if entrance:
        entrance.attach(app)
    explain_failures(app)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    # Added last: outermost.
    if entrance:
        app.add_middleware(Shield, is_secure=entrance.keys.peers.is_secure)
    else:
        app.add_middleware(Shield)
