"""OHIF, the usual web viewer, before our DICOMweb: ``python -m tests.viewers.ohif DIST PICTURE``, by hand.

DIST is the viewer as npm has it built (50 MB, hence no part of the tests): ``npm pack @ohif/app@3.13.2`` and, unpacked,
package/dist. A browser finds a study in the list, opens it, and takes a PICTURE of it.
"""

from __future__ import annotations

import http.client
import json
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from playwright.sync_api import ConsoleMessage, Page, expect, sync_playwright

from archiving import Held, film, serving
from triage.records import schema
from triage.records.store import open_engine

_ROOTS = dict.fromkeys(("wadoUriRoot", "qidoRoot", "wadoRoot"), "/dicom-web")
_SOURCE = {
    **_ROOTS,
    "friendlyName": "Worklist triage",
    "name": "triage",
    "qidoSupportsIncludeField": False,
    "imageRendering": "wadors",
    "thumbnailRendering": "wadors",
    "enableStudyLazyLoad": True,
    "supportsFuzzyMatching": False,
    "supportsWildcard": True,
    "singlepart": "",
}
_CONFIGURATION = {
    "routerBasename": "/",
    "extensions": [],
    "modes": [],
    "showStudyList": True,
    "maxNumberOfWebWorkers": 2,
    "defaultDataSourceName": "dicomweb",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "dicomweb",
            "configuration": _SOURCE,
        }
    ],
}


# Without a graphics card.
_BROWSER = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


class Front(SimpleHTTPRequestHandler):
    """The viewer's files, and behind the same address our DICOMweb, as a site's proxy would have it."""

    behind = ""
    asked: list[tuple[str, int]] = []  # noqa: RUF012 - of the one server

    def log_message(self, *_: object) -> None:
        """Nowhere."""

    def do_GET(self) -> None:
        if self.path.startswith("/dicom-web"):
            self._pass_on()
        elif self.path == "/app-config.js":
            self._answer(HTTPStatus.OK, "text/javascript", f"window.config = {json.dumps(_CONFIGURATION)};".encode())
        else:
            if not Path(self.translate_path(self.path)).is_file():
                self.path = "/index.html"  # the viewer's own addresses
            super().do_GET()

    def _pass_on(self) -> None:
        connection = http.client.HTTPConnection(Front.behind, timeout=60)
        kept = {name: value for name, value in self.headers.items() if name.lower() in {"accept", "accept-encoding"}}
        connection.request("GET", self.path, headers=kept)
        answer = connection.getresponse()
        Front.asked.append((self.path, answer.status))
        self._answer(answer.status, answer.getheader("content-type", ""), answer.read())
        connection.close()

    def _answer(self, status: int, media_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", media_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def front(folder: Path, behind: str) -> Iterator[str]:
    Front.behind = urlsplit(behind).netloc
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Front, directory=str(folder)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def look(page: Page, address: str, picture: Path) -> None:
    """Raise AssertionError if the study cannot be found, opened or drawn."""
    page.goto(address)
    row = page.get_by_text("Invented, Viewer").first
    expect(row).to_be_visible(timeout=120_000)
    page.screenshot(path=picture.with_stem(picture.stem + "-list"))
    row.dblclick()
    page.wait_for_url("**/viewer**", timeout=120_000)
    expect(page.locator("canvas").first).to_be_visible(timeout=120_000)
    page.wait_for_timeout(15_000)
    page.screenshot(path=picture)


def main(folder: Path, picture: Path) -> int:
    with tempfile.TemporaryDirectory() as home:
        engine = open_engine(f"sqlite:///{home}/triage.db")
        schema.upgrade(engine)
        held = Held(engine, Path(home))
        held.keep(film(StudyInstanceUID="1.2.1", PatientName="Invented^Viewer", PatientID="INV1001"))
        with serving(held), front(folder, held.base) as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=_BROWSER)
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            page.on("console", _complain)
            try:
                look(page, address, picture)
            except AssertionError:
                page.screenshot(path=picture)
                raise
            finally:
                for path, status in Front.asked:
                    print(status, path)  # noqa: T201
                browser.close()
        engine.dispose()
    frames = [status for path, status in Front.asked if "/frames/" in path]
    return 0 if frames and set(frames) == {HTTPStatus.OK} else 1


def _complain(message: ConsoleMessage) -> None:
    if message.type == "error":
        print("console:", message.text[:300])  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
