"""The README says what the code does."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path

import pytest

from daemon.cli import app
from daemon.environment import read_settings
from daemon.settings import DEFAULT_WEIGHTS, Settings
from triage.card import read_card
from triage.errors import Reason
from triage.policy import Policy, expected
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
    assert set(re.findall(r"TRIAGE_[A-Z0-9_]+[A-Z]", README)) <= known
    callbacks = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    commands = {name.replace("_", "-") for name in callbacks}  # as typer calls them
    groups = {str(group.name) for group in app.registered_groups}
    assert set(re.findall(r"`triage ([a-z-]+)", README)) <= commands | groups


@pytest.mark.parametrize("name", [field.name for field in fields(Policy)])
def test_every_setting_of_the_policy_is_explained(name: str) -> None:
    assert re.search(rf"`{name}`|^{name} = ", README, re.MULTILINE)


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Policy:
    """Of the README's configuration file."""
    for name in [name for name in os.environ if name.startswith("TRIAGE_")]:
        monkeypatch.delenv(name)
    (example,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "triage.toml").write_text(example, encoding="utf-8")
    monkeypatch.setenv("TRIAGE_CONFIG_FILE", str(tmp_path / "triage.toml"))
    return read_settings()[1]


def test_its_configuration_file_is_accepted_with_the_shipped_network(policy: Policy) -> None:
    card = read_card(DEFAULT_WEIGHTS)
    assert card.curve
    seen = expected(card, policy)
    assert policy.flags_per_100_max
    assert seen
    assert seen.flags_per_100 <= policy.flags_per_100_max


def test_every_file_it_links_to_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
