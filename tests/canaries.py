"""Words that could not occur by chance, for everything that names a patient, and a search for where they have got to.

Whoever writes a new output of the daemon adds it to the search in one line: ``search.text("metrics", body)`` or
``search.files("support bundle", folder)``; see `test_silence.py`.
"""

from __future__ import annotations

import gzip
import tarfile
import zipfile
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

_LONG = 12


@dataclass
class Search:
    """``found``: where which of the needles stands. Case does not matter."""

    needles: Iterable[str]
    found: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        words = sorted({needle for needle in self.needles if needle})
        self._sought = [(word, form) for word in words for form in _forms(word)]

    def text(self, where: str, text: str | bytes) -> None:
        """In what somebody may read: a log, an answer, a page of metrics."""
        raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        folded = raw.lower()
        self.found += sorted({f"{where}: {word}" for word, form in self._sought if form.lower() in folded})

    def names(self, where: str, *folders: Path) -> None:
        """In the names of files and folders."""
        for folder in folders:
            self.text(f"{where}: a name", "\n".join(str(path.relative_to(folder)) for path in folder.rglob("*")))

    def files(self, where: str, *paths: Path) -> None:
        """In what files and folders hold, their names included, and in archives among them."""
        for path in paths:
            self.text(f"{where}: a name", path.name)
            for each in [path] if path.is_file() else sorted(path.rglob("*")):
                self.text(f"{where}: a name", each.name)
                if each.is_file():
                    self._file(f"{where} {each.name}", each)

    def _file(self, where: str, path: Path) -> None:
        self.text(where, path.read_bytes())
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    self.text(f"{where}!{name}", name.encode() + b"\n" + archive.read(name))
        elif tarfile.is_tarfile(path):
            with tarfile.open(path) as archive:
                for member in archive.getmembers():
                    content = archive.extractfile(member)
                    self.text(f"{where}!{member.name}", member.name.encode() + (content.read() if content else b""))
        elif path.suffix == ".gz":
            self.text(where, gzip.decompress(path.read_bytes()))


def _forms(word: str) -> set[bytes]:
    """As it is written, in UTF-16, and in base64 at each place of three if it is long."""
    plain = word.encode()
    forms = {plain, word.encode("utf-16-le")}
    if len(plain) >= _LONG:
        forms |= {b64encode(bytes(shift) + plain)[4 if shift else 0 : -4].lower() for shift in range(3)}
    return forms
