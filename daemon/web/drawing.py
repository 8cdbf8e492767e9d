"""Explanations for the page, drawn by a program of its own: the web server loads no network and decodes no film."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response

from daemon.kept import Kept, verify
from daemon.telemetry import log
from daemon.web import page
from daemon.web.places import Places
from daemon.web.schemas import Kind, Uid, failures
from triage.errors import BusyError, NotAnalysed
from triage.records.reading import Reading
from triage.study import Explanation

# Loading the network takes most of a picture's time; on a machine that is busy with films, longer.
_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One picture at a time: readers must not take the processor from the films that wait."""

    reading: Reading
    kept: Kept
    turn: Places = field(default_factory=lambda: Places("other explanations are being drawn"), repr=False)

    def draw(self, study_instance_uid: str, kind: Explanation) -> bytes:
        """PNG. Raise StudyNotFoundError if no film of it can be explained, BusyError if it could not be drawn now."""
        sha256 = self.reading.film_to_explain(study_instance_uid)
        with self.turn.taken():
            return self._drawn(sha256, kind)

    def _drawn(self, sha256: str, kind: Explanation) -> bytes:
        try:
            with self.kept.reading(sha256) as path:
                verify(path, sha256)
                # The file's name says nothing of a patient, so that a list of processes tells nothing.
                command = [sys.executable, "-P", "-m", "daemon.cli", "explain", str(path), "--kind", kind, "--out", "-"]
                found = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=True)  # noqa: S603 - no shell, our own words
        except (NotAnalysed, subprocess.SubprocessError, OSError) as error:
            log().warning("explanation_failed", error=type(error).__name__)
            raise BusyError("the explanation could not be drawn") from None
        return found.stdout

    def router(self) -> APIRouter:
        """The pictures and their page: only where a site has chosen to show them."""
        router = APIRouter()
        picture: dict[str, Any] = {
            "response_class": Response,
            "responses": {
                200: {
                    "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
                    "description": "PNG.",
                },
                **failures(404, 422, 503),
            },
        }
        router.add_api_route("/api/studies/{uid}/explanation", self.picture, **picture)
        router.add_api_route("/studies/{uid}/explanation", self.sheet, include_in_schema=False)
        return router

    def picture(self, uid: Uid, kind: Kind = Explanation.SUPERPIXELS) -> Response:
        """What moved the network, over the study's film with the highest P(pneumonia). Takes seconds; 503 when busy.

        For prioritisation only, not for diagnosis. 404 unless a film of the study was analysed and is still kept, and
        where the site has not switched explanations on.
        """
        return Response(self.draw(uid, kind), media_type="image/png")

    def sheet(self, uid: Uid, kind: Kind = Explanation.SUPERPIXELS) -> HTMLResponse:
        return HTMLResponse(page.render("explanation.html", uid=uid, kind=kind, kinds=list(Explanation)))
