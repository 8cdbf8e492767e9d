"""DICOMweb under /dicom-web, read-only: QIDO-RS and WADO-RS (PS3.18 section 10) of what is held.

Objects are sent as they are stored, in the transfer syntax they came in. What is in quarantine is not served; what
retention has removed is 410, and still found by a search.
"""

from __future__ import annotations

from fastapi import APIRouter

from daemon.decoder import Decoder
from daemon.headers import Headers
from daemon.kept import Kept
from daemon.web.parts import Outlet
from daemon.web.rendering import Rendering
from daemon.web.retrieving import Retrieving
from daemon.web.searching import Searching
from triage.query import Level
from triage.records.archive import Archive

PREFIX = "/dicom-web"
_STUDY = "/studies/{uid}"
_SERIES = f"{_STUDY}/series/{{series}}"
_INSTANCE = f"{_SERIES}/instances/{{instance}}"
_SEARCHES = {
    Level.STUDY: ("/studies",),
    Level.SERIES: ("/series", f"{_STUDY}/series"),
    Level.IMAGE: ("/instances", f"{_STUDY}/instances", f"{_SERIES}/instances"),
}


def dicomweb(archive: Archive, kept: Kept, decoder: Decoder) -> APIRouter:
    """``decoder``: of the films that are drawn. The standard describes the routes; OpenAPI does not."""
    searching = Searching(archive=archive, prefix=PREFIX)
    rendering = Rendering(kept=kept, decoder=decoder)
    retrieving = Retrieving(archive=archive, headers=Headers(kept=kept), outlet=Outlet(kept=kept), rendering=rendering)
    router = APIRouter(prefix=PREFIX, include_in_schema=False)
    for level, paths in _SEARCHES.items():
        for path in paths:
            router.add_api_route(path, searching.at(level))
    for path in (_STUDY, _SERIES, _INSTANCE):
        router.add_api_route(path, retrieving.objects)
        router.add_api_route(f"{path}/metadata", retrieving.metadata)
    router.add_api_route(f"{_INSTANCE}/frames/{{frames}}", retrieving.frames)
    router.add_api_route(f"{_INSTANCE}/rendered", retrieving.rendered)
    return router
