"""What files beside the code may name: settings by their variables, commands by what they are called."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
import yaml

from daemon.cli import app
from daemon.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
SETTINGS = frozenset({f"TRIAGE_{name.upper()}" for name in Settings.model_fields} | {"TRIAGE_CONFIG_FILE"})
_VARIABLE = re.compile(r"\bTRIAGE_[A-Z0-9_]*[A-Z0-9]\b")


def commands() -> frozenset[str]:
    """``serve``, ``users add``, ..."""
    return frozenset(_names(typer.main.get_command(app)))


def _names(group: Any, before: str = "") -> Iterator[str]:
    for name, command in getattr(group, "commands", {}).items():
        yield f"{before}{name}"
        yield from _names(command, f"{before}{name} ")


def unknown_settings(text: str) -> set[str]:
    return set(_VARIABLE.findall(text)) - SETTINGS


_CALL = re.compile(r"(?:^|[`|(;] ?|-- )(?:sudo )?triage ([a-z][a-z-]+)", re.MULTILINE)


def called(text: str) -> set[str]:
    """Commands of ours, by their first word, in lines of shell and in words set as code."""
    return set(_CALL.findall(text))


def unknown_commands(text: str) -> set[str]:
    return called(text) - commands()


def documents(text: str) -> list[dict[str, Any]]:
    """Of a stream of YAML."""
    return [document for document in yaml.safe_load_all(text) if document]
