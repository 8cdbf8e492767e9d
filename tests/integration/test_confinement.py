"""Seen from inside: a decoder's child that has been taken over can read files and answer, and nothing else."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import attempts
from daemon.confinement import Refused
from daemon.decoder import Decoder, Gate, Limits
from synthetic import data_set, film, write
from triage.card import Preprocessing
from triage.errors import Reason

STRETCH = Preprocessing(size_px=224, stretch_percentiles=(0.5, 99.5), mean=0.5, std=0.25)

pytestmark = [pytest.mark.fault(72), pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")]


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(Limits(seconds=20.0)) as decoder:
        yield decoder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(data_set(film()), tmp_path / "film.dcm")


def tried(decoder: Decoder, path: Path, gate: Gate) -> Reason | None:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return decoder.look(path, sha256=sha256, gate=gate, preprocessing=STRETCH).reason


def needs(decoder: Decoder, right: Refused) -> None:
    if right in decoder.refused():
        pytest.skip(f"this machine refuses: {right.words}")


@pytest.mark.parametrize("what", attempts.ALL)
def test_the_child_cannot(decoder: Decoder, path: Path, what: str) -> None:
    needs(decoder, Refused.CALLS)
    before = path.read_bytes(), path.stat().st_mode
    assert tried(decoder, path, partial(attempts.attempt, what=what, folder=str(path.parent))) is attempts.REFUSED
    assert [each.name for each in path.parent.iterdir()] == ["film.dcm"]
    assert (path.read_bytes(), path.stat().st_mode) == before
    assert tried(decoder, path, attempts.have_few_rights) is attempts.REFUSED


def test_the_child_has_no_network(decoder: Decoder, path: Path) -> None:
    needs(decoder, Refused.NETWORK)
    assert tried(decoder, path, attempts.see_only_itself) is attempts.REFUSED


def test_the_child_has_narrow_limits(decoder: Decoder, path: Path) -> None:
    assert tried(decoder, path, attempts.have_narrow_limits) is attempts.REFUSED


def test_an_attempt_succeeds_where_nothing_confines_it(tmp_path: Path) -> None:
    """Else they would prove nothing."""
    for what in ("make_a_socket", "make_a_pair_of_sockets", "fork", "run_a_program", "write_a_file", "make_a_folder"):
        (tmp_path / what).mkdir()
        assert attempts.attempt(None, what=what, folder=str(tmp_path / what)) is attempts.DONE  # type: ignore[arg-type]
    os.waitpid(-1, 0)
    assert attempts.have_few_rights(None) is attempts.DONE  # type: ignore[arg-type]
    assert attempts.have_narrow_limits(None) is attempts.DONE  # type: ignore[arg-type]


def test_what_is_refused_is_said_and_films_are_still_decoded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of which nobody knows the numbers of system calls."""
    unknown = path.parent / "sitecustomize.py"
    unknown.write_text("import platform\nplatform.machine = lambda: 'abacus'\n", encoding="ascii")
    monkeypatch.setattr(sys, "path", [str(path.parent), *sys.path])
    with Decoder() as decoder:
        assert Refused.CALLS in decoder.refused()
        assert tried(decoder, path, attempts.have_few_rights) is attempts.DONE
        assert decoder.refused().words.endswith("call filter")
