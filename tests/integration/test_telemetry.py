"""Logs tell IT what happened, and nobody who it happened to."""

from __future__ import annotations

import ast
import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from daemon import telemetry
from daemon.telemetry import FIELDS, Pseudonym, describe, log

CANARY = "Canary^Name"


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    show, root = warnings.showwarning, logging.getLogger().handlers[:]
    yield
    warnings.showwarning = show
    logging.getLogger().handlers[:] = root
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_is_json_with_event_level_time_and_process(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure("json", "info", "receiver")
    log().info("instance_received", seconds=0.25, duplicate=False)
    (line,) = lines(capsys)
    assert (line["event"], line["level"], line["process"]) == ("instance_received", "info", "receiver")
    assert (line["seconds"], line["duplicate"]) == (0.25, False)
    assert str(line["timestamp"]).endswith("Z")


@pytest.mark.fault(135)
def test_fields_that_are_not_on_the_list_are_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure("json", "info", "test")
    log().info("event", patient_name=CANARY, study="abc")
    assert CANARY not in json.dumps(lines(capsys))
    assert not {name for name in FIELDS if "patient" in name or "name" in name}


@pytest.mark.fault(38)
def test_every_field_that_the_code_logs_is_on_the_list() -> None:
    """One that is not would be dropped in silence."""
    logged = {
        keyword.arg
        for path in Path(telemetry.__file__).parent.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func).startswith("log().")
        for keyword in call.keywords
        if keyword.arg
    }
    assert "seconds" in logged
    assert logged - FIELDS == set()


def test_nobody_can_forge_a_line_or_colour_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure("console", "info", "test")
    log().info("event", calling_ae='PACS\n{"event": "forged"}\x1b[31m\u202e')
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "\x1b[31m" not in told
    assert "\u202e" not in told


def test_a_line_is_one_write_so_that_processes_can_share_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    class Noted(io.StringIO):
        def write(self, text: str) -> int:
            writes.append(text)
            return len(text)

    writes: list[str] = []
    monkeypatch.setattr(sys, "stderr", Noted())
    telemetry.configure("json", "info", "test")
    log().info("event", count=1)
    (line,) = writes
    assert line.endswith("}\n")


@pytest.mark.fault(135)
def test_of_an_exception_only_type_and_place_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure("json", "info", "test")
    try:
        raise ValueError(CANARY)  # noqa: TRY301 - raised to be described
    except ValueError as error:
        log().error("failed", **describe(error))
    (line,) = lines(capsys)
    assert line["error"] == "ValueError"
    assert str(line["where"]).startswith("test_telemetry.py:")
    assert CANARY not in json.dumps(line)


def test_libraries_and_uncaught_exceptions_tell_no_values(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure("json", "info", "test")
    logging.getLogger("pydicom").warning("bad value %s", CANARY)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.warn(CANARY, UserWarning, stacklevel=1)

    def fail() -> None:
        raise RuntimeError(CANARY)

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    told = capsys.readouterr()
    assert CANARY not in told.err + told.out
    assert "uncaught_exception" in told.err


def test_a_study_has_one_name_in_one_installation_and_another_in_the_next(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    assert Pseudonym(here)("1.2.3") == Pseudonym(here)("1.2.3")
    assert Pseudonym(here)("1.2.3") != Pseudonym(there)("1.2.3")
    assert len(Pseudonym(here)("1.2.3")) == 16
    assert (here / "salt").stat().st_mode & 0o077 == 0
