"""A site that holds real files: received as films are, served over HTTP by a real server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from pydicom import Dataset
from sqlalchemy import Engine, update

from daemon.arrival import Arrivals
from daemon.decoder import Decoder
from daemon.folder import Folder
from daemon.kept import StoredFile
from daemon.spool import Spool, part10_header
from daemon.web.dicomweb import dicomweb
from daemon.web.server import Wings, build_app
from making import CR, POLICY, data_set, encoded
from ports import free_port, served
from triage.records.archive import Archive
from triage.records.intake import Intake
from triage.records.queue import Queue
from triage.records.reading import Reading
from triage.records.store import Store
from triage.records.tables import instances

EXPLICIT = "1.2.840.10008.1.2.1"
SIDE = 64


def film(**changes: Any) -> Dataset:
    """A small film that can be decoded: a wedge with a disc in it."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    pixels = (rows * 40 + ((rows - 32) ** 2 + (columns - 32) ** 2 < 300) * 1200).astype("<u2")
    values = {
        "Rows": SIDE,
        "Columns": SIDE,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "SeriesInstanceUID": "1.2.1.1",
        "StudyDate": "20260105",
        "PatientID": "P1",
        "AccessionNumber": "A1",
        **changes,
    }
    made = data_set(**values)
    made.PixelData = pixels.tobytes()
    made["PixelData"].VR = "OW"
    return made


@dataclass
class Held:
    """A database and a folder with films in it."""

    engine: Engine
    folder: Path
    base: str = ""
    client: httpx.Client = field(default_factory=lambda: httpx.Client(verify=False))

    def __post_init__(self) -> None:
        self.store = Store(self.engine)
        self.archive = Archive(self.store)
        self.kept = Folder(self.folder)
        self.spool = Spool(self.folder, self.kept)
        self.spool.prepare()
        self.arrivals = Arrivals(kept=self.kept, intake=Intake(self.store, POLICY))

    def keep(self, made: Dataset | None = None, syntax: str = EXPLICIT, **changes: Any) -> StoredFile:
        """As if it had come over the network."""
        sent = film(**changes) if made is None else made
        return self.keep_bytes(encoded(sent), sent.SOPInstanceUID, sent.SOPClassUID, syntax)

    def keep_bytes(self, content: bytes, instance: str, sop_class: str = CR, syntax: str = EXPLICIT) -> StoredFile:
        stored = self.spool.write(part10_header(sop_class, instance, syntax), content)
        self.arrivals.admit(stored)
        return stored

    def forget_bytes(self, stored: StoredFile) -> None:
        """As retention does."""
        with self.engine.begin() as connection:
            own = instances.c.sha256 == stored.sha256
            connection.execute(update(instances).where(own).values(pixels_deleted_at=self.store.now()))
        self.kept.delete(stored.sha256)

    def get(self, path: str, accept: str = "*/*", **parameters: Any) -> httpx.Response:
        return self.client.get(f"{self.base}/dicom-web{path}", params=parameters or None, headers={"accept": accept})

    def uids(self, path: str = "/studies", keyword: str = "0020000D", **parameters: Any) -> list[str]:
        """What a search finds, in its order."""
        answer = self.get(path, **parameters)
        assert answer.status_code in (200, 204), answer.text
        return [each[keyword]["Value"][0] for each in (answer.json() if answer.content else [])]


@contextmanager
def serving(held: Held) -> Iterator[Held]:
    state: dict[str, Any] = {"ready": True, "missing": []}
    decoder = Decoder()
    routes = dicomweb(held.archive, held.kept, decoder)
    app = build_app(Reading(held.store), Queue(held.store, POLICY), [], lambda: state, wings=Wings(dicomweb=routes))
    with served(app, free_port()) as held.base, httpx.Client(timeout=60, verify=False) as held.client:
        yield held
    decoder.close()
