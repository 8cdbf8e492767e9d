"""QIDO-RS (PS3.18 10.6): studies, series and instances that match, as DICOM JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from daemon.web.accepted import JSON, need
from daemon.web.attributes import as_json
from daemon.web.parameters import Search, address, read_search
from daemon.web.shield import RefusalError
from triage.query import UNIQUE, Level, QueryError
from triage.records.archive import Archive, Found

_MORE = "The number of results exceeded the maximum supported by the server. Additional results can be requested."
_OLDER = "Only the newest studies have been searched. Name a patient, an accession number or dates."
_PLACES = {Level.STUDY: "studies", Level.SERIES: "series", Level.IMAGE: "instances"}


@dataclass(frozen=True, kw_only=True)
class Searching:
    """``prefix``: of the addresses that answers name."""

    archive: Archive
    prefix: str

    def at(self, level: Level) -> Callable[[Request], Response]:
        def search(request: Request) -> Response:
            need(request.headers.get("accept"), JSON, "application/json")
            try:
                asked = read_search(request.query_params.multi_items(), level, address(request.path_params))
            except QueryError as error:
                raise RefusalError(400, f"{error}.") from None
            return self._answer(asked, str(request.base_url).rstrip("/") + self.prefix)

        return search

    def _answer(self, asked: Search, root: str) -> Response:
        page = self.archive.find(asked.query)
        above = self._above(asked, page.found)
        told = []
        for each in page.found:
            whole = {**above.get(each["StudyInstanceUID"], {}), **each}
            shown = {keyword: value for keyword, value in whole.items() if keyword in asked.shown}
            told.append(as_json(shown, asked.query.level, _url(root, each, asked.query.level)))
        warnings = [*asked.warnings, *([_MORE] if page.more else []), *([_OLDER] if page.older else [])]
        return _response(told, warnings, root)

    def _above(self, asked: Search, found: Sequence[Found]) -> Mapping[str, Found]:
        """Of the studies of what was found below them, where it was asked for."""
        own = {keyword for each in found for keyword in each}
        if asked.query.level is Level.STUDY or not found or asked.shown <= own:
            return {}
        return self.archive.described({each["StudyInstanceUID"] for each in found})


def _url(root: str, found: Found, level: Level) -> str:
    parts = (f"{_PLACES[each]}/{found[UNIQUE[each]]}" for each in Level if each <= level)
    return "/".join((root, *parts))


def _response(told: list[dict[str, Any]], warnings: Sequence[str], root: str) -> Response:
    """204 where nothing matches (PS3.18 10.6.3.1)."""
    headers = {"warning": ", ".join(f'299 {root} "{words}"' for words in warnings)} if warnings else None
    if not told:
        return Response(status_code=204, headers=headers)
    return Response(json.dumps(told, ensure_ascii=False), media_type=JSON, headers=headers)
