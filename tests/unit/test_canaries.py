"""The search for canaries finds them, wherever they sit."""

from __future__ import annotations

import gzip
import zipfile
from base64 import b64encode
from pathlib import Path

import pytest

from canaries import Search

WORD = "Kanarienvogel^Zwitschi"


BASE64 = [b64encode(b"ab"[:shift] + WORD.encode()) for shift in range(3)]


@pytest.mark.parametrize("text", [WORD, WORD.upper(), f"x{WORD.lower()}y".encode(), WORD.encode("utf-16-le"), *BASE64])
def test_a_word_is_found_in_every_form(text: str | bytes) -> None:
    search = Search([WORD])
    search.text("log", text)
    assert search.found == [f"log: {WORD}"]


def test_names_contents_and_archives_are_searched(tmp_path: Path) -> None:
    (tmp_path / f"{WORD}.txt").write_text("nothing", encoding="ascii")
    (tmp_path / "log.gz").write_bytes(gzip.compress(WORD.encode()))
    with zipfile.ZipFile(tmp_path / "bundle.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside.txt", WORD)
    search = Search([WORD])
    search.names("folder", tmp_path)
    search.files("files", tmp_path)
    assert len(search.found) == 4


def test_what_is_clean_is_clean(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("instance_received study=0123456789abcdef", encoding="ascii")
    search = Search([WORD])
    search.files("files", tmp_path)
    assert search.found == []
