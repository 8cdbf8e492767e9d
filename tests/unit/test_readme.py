"""The README says what the code does."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from daemon.cli import app
from daemon.settings import Settings
from triage.errors import Reason
from triage.study import WorklistEntry

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_is_explained(reason: Reason) -> None:
    assert f"| `{reason.value}` | {reason.words} |" in README


@pytest.mark.parametrize("column", [field.name for field in fields(WorklistEntry)])
def test_every_column_of_the_worklist_is_described(column: str) -> None:
    assert f"`{column}`" in README


def test_every_setting_and_command_it_names_exists() -> None:
    known = {f"TRIAGE_{name.upper()}" for name in Settings.model_fields} | {"TRIAGE_CONFIG_FILE"}
    assert set(re.findall(r"TRIAGE_[A-Z_]+[A-Z]", README)) <= known
    commands = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    assert set(re.findall(r"`triage ([a-z]+)", README)) <= commands


def test_every_file_it_links_to_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
