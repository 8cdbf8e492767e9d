"""The catalogue of faults and the tests' marks say the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from faults.catalogue import FAULTS, NOT_SHOWN, PAGE, column, renewed, rows
from faults.marks import TESTS, shown

README = PAGE.parents[1] / "README.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_every_fault_stands_in_it_once_and_in_its_order() -> None:
    assert [number for number, *_ in rows(TEXT)] == list(FAULTS)


@pytest.mark.parametrize(("number", "by"), [(number, by) for number, _, _, by in rows(TEXT)])
def test_it_names_the_tests_that_carry_the_number_or_says_why_there_are_none(number: int, by: str) -> None:
    if number in shown():
        assert by == column(shown()[number])
    else:
        assert len(by.removeprefix(NOT_SHOWN)) > 20
        assert by.startswith(NOT_SHOWN)


def test_page_and_readme_say_how_many_are_tried() -> None:
    untried = [number for number, *_, by in rows(TEXT) if by.startswith(NOT_SHOWN)]
    tried = len(FAULTS) - len(untried)
    assert f"tries {tried} of them one by one ({', '.join(map(str, untried))} cannot be tried)" in TEXT
    assert f"{tried} of {len(FAULTS)} faults" in README.read_text(encoding="utf-8")


def test_no_test_carries_a_number_that_it_does_not_have() -> None:
    assert shown().keys() <= set(FAULTS)


SUITE = """
import pytest

@pytest.mark.fault(1, 2)
def test_kept(record_property):
    for name, value in {"database": "sqlite", "rounds": 3, "instances": 40, "lost": 0, "doubled": 0}.items():
        record_property(name, value)

@pytest.mark.fault(2, 3)
def test_lost(record_property):
    record_property("lost", 1)
    raise AssertionError

@pytest.mark.fault(1, 4)
@pytest.mark.skip
def test_not_tried(): ...

@pytest.mark.fault(5)
def test_whole(): ...
"""
RUN = """
import sys, pathlib, pytest
from faults.table import Table
table = Table(out=pathlib.Path("build/faults.json"), only=frozenset(map(int, sys.argv[1:])))
raise SystemExit(pytest.main(["-q", "-p", "no:cacheprovider", "suite.py"], plugins=[table]))
"""


@pytest.mark.parametrize(
    ("only", "tried", "survived", "failed"),
    [((), [1, 2, 3, 5], [5], [2, 3]), ((1,), [1, 2], [2], [])],
    ids=["all", "chosen"],
)
def test_a_run_tells_what_was_tried_and_what_was_not_survived(
    tmp_path: Path, only: tuple[int, ...], tried: list[int], survived: list[int], failed: list[int]
) -> None:
    (tmp_path / "suite.py").write_text(SUITE, encoding="ascii")
    path = {**os.environ, "PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-c", RUN, *map(str, only)]
    done = subprocess.run(command, cwd=tmp_path, env=path, capture_output=True, text=True, check=False)
    figures = json.loads((tmp_path / "build" / "faults.json").read_text(encoding="ascii"))
    assert (figures["tried"], figures["survived"], figures["failed"]) == (tried, survived, failed)
    assert figures["skipped"] == {fault: ["suite.py::test_not_tried"] for fault in ("1", "4")}
    assert figures["databases"]["sqlite"] == {"rounds": 3, "instances": 40, "lost": 0, "doubled": 0, "tests": 1}
    assert f"faults tried {len(tried)}, survived {len(survived)}, survived with tests skipped 1" in done.stdout
    assert "fault 1: survived, 1 skipped: suite.py::test_not_tried\n" in done.stdout
    assert "fault 4: not tried, 1 skipped: suite.py::test_not_tried\n" in done.stdout
    assert done.returncode == bool(failed)


def test_renewing_it_changes_nothing() -> None:
    assert renewed(TEXT) == TEXT
