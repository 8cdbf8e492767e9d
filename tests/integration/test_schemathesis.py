"""The interface against its own description, by a stranger: schemathesis makes requests, odd ones among them."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from archiving import Held
from doors import PASSWORD, House, open_house
from templates import sqlite_engine
from triage.user import Role

_SECONDS = 270
_BOUNDED = shlex.split("--seed 20261127 --generation-deterministic --max-examples 8 --no-shrink --no-color --workers 1")
# Server-sent events never end; a picture takes a process and the network, which this house has none of.
_LEFT_OUT = ("/api/changes", "/api/studies/{uid}/explanation")
_KNOWN_UID = """
[parameters]
"path.uid" = "1.2.1"
"""
_CONFIGURATION = """
# A cursor is ours to make: no form tells one from what looks like one.
[[operations]]
include-path = "/api/worklist"
[operations.checks.positive_data_acceptance]
enabled = false
"""
# Who has signed in may leave out who reads: the door says it.
_SAID_BY_THE_DOOR = "".join(
    f"""
[[operations]]
include-path = "/api/studies/{{uid}}/{noun}"
[operations.checks.negative_data_rejection]
enabled = false
"""
    for noun in ("start", "opinion")
)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    engine = sqlite_engine(tmp_path / "triage.db")
    with open_house(engine, tmp_path) as house:
        held = Held(engine, tmp_path)
        for number in (1, 2, 3):
            held.keep(StudyInstanceUID=f"1.2.{number}", SOPInstanceUID=f"1.2.{number}.1.1")
        held.client.close()
        yield house
    engine.dispose()


def asked_by_a_stranger(house: House, folder: Path, *words: str, known: str = _KNOWN_UID) -> None:
    configuration = folder / "schemathesis.toml"
    configuration.write_text(known + _CONFIGURATION)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(configuration)]
    command += ["run", f"{house.url}/api/openapi.json", *_BOUNDED, *words]
    for path in _LEFT_OUT:
        command += ["--exclude-path", path]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_SECONDS, cwd=folder)
    assert run.returncode == 0, run.stdout[-20000:] + run.stderr[-2000:]


def test_a_stranger_finds_nothing_that_is_not_as_described(house: House, tmp_path: Path) -> None:
    asked_by_a_stranger(house, tmp_path)


def test_a_stranger_with_a_token_finds_nothing_either(house: House, tmp_path: Path) -> None:
    house.users.add("ada", Role.ADMIN, PASSWORD)
    secret = house.tokens.add("ada", "test", 1.0)[1]
    words = ("--phases", "examples,fuzzing", "--header", f"Authorization: Bearer {secret}")
    asked_by_a_stranger(house, tmp_path, *words, known=_KNOWN_UID + _SAID_BY_THE_DOOR)


def test_a_stranger_who_makes_up_uids_finds_nothing_either(house: House, tmp_path: Path) -> None:
    of_studies = ("--phases", "fuzzing", "--include-path-regex", "/api/studies/")
    asked_by_a_stranger(house, tmp_path, *of_studies, known="")
