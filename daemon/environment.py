"""What a site has set: TRIAGE_* environment variables over the TOML file that TRIAGE_CONFIG_FILE names.

Only this module reads the environment.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from daemon.settings import DEFAULT_WEIGHTS, PREFIX, Settings
from triage.errors import SettingsError
from triage.policy import Policy

CONFIG_FILE = "TRIAGE_CONFIG_FILE"
# Not a setting, so not by the name of one: what a process of `triage serve` is told.
_CHILD = "WORKLIST_TRIAGE_CHILD"
_OF_SYSTEMD = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


def read_settings() -> tuple[Settings, Policy]:
    """From TRIAGE_* and the TOML file that TRIAGE_CONFIG_FILE names. Raise SettingsError, naming the setting."""
    content = _read_file()
    site = content.pop("policy", {})
    _refuse_unknown(content)
    _refuse_unknown_policy(site)
    _refuse_unknown_variables()
    try:
        settings = Settings(**content)
    except ValidationError as error:
        raise SettingsError(_words(error)) from None
    try:
        policy = TypeAdapter(Policy).validate_python(site, strict=False)
    except ValidationError as error:
        raise SettingsError(_words(error, "[policy] ")) from None
    return settings, policy


def _read_file() -> dict[str, Any]:
    name = os.environ.get(CONFIG_FILE)
    if not name:
        return {}
    try:
        return tomllib.loads(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{CONFIG_FILE}={name}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{name}: {error}") from error


def _refuse_unknown(content: dict[str, Any]) -> None:
    for name in sorted(content.keys() - Settings.model_fields.keys()):
        if isinstance(content[name], dict):
            hint = "; only [policy] is a table, settings stand before it: dicom_port = 11112"
            raise SettingsError(f"[{name}] in the configuration file is no setting{hint}")
        hint = _hint(name.lower().removeprefix(PREFIX.lower()), Settings.model_fields)
        raise SettingsError(f"{name} in the configuration file is no setting{hint}")


def _refuse_unknown_policy(site: object) -> None:
    if not isinstance(site, dict):
        raise SettingsError("policy in the configuration file is a table: [policy], then one line for each setting")
    known = [field.name for field in fields(Policy)]
    for name in sorted(site.keys() - set(known)):
        hint = "; write it before [policy]" if name in Settings.model_fields else _hint(name, known)
        raise SettingsError(f"[policy] {name} is no setting of the policy{hint}")


def _refuse_unknown_variables() -> None:
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    for name in sorted(name for name in os.environ if name.startswith(PREFIX) and name not in {*known, CONFIG_FILE}):
        raise SettingsError(f"{name} in the environment is no setting{_hint(name, known)}")


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else "; `triage settings` lists them all"


def _words(error: ValidationError, table_name: str = "") -> str:
    lines = []
    for problem in error.errors(include_url=False, include_context=False):
        name = ".".join(str(part) for part in problem["loc"])
        words = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "string_pattern_mismatch" and name in Settings.model_fields:
            words = f"should be: {Settings.model_fields[name].description}"  # nobody reads a pattern at night
        lines.append(f"{table_name}{name}: {words}" if name else words)
    return "; ".join(lines)


def environment_without_settings() -> dict[str, str]:
    """The environment for a child process that gets settings of its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One setting as people read it; "" where nothing is set."""

    name: str
    value: str
    default: str
    meaning: str


def table(settings: Settings) -> list[Row]:
    """Every setting in order, by its name in the environment. Passwords are not hidden."""
    return [
        Row(
            name=PREFIX + name.upper(),
            value=_shown(getattr(settings, name)),
            default=_shown(field.default),
            meaning=field.description or "",
        )
        for name, field in Settings.model_fields.items()
    ]


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "(shipped)" if value == DEFAULT_WEIGHTS else str(value)


@dataclass(frozen=True, kw_only=True)
class Supervised:
    """What `triage serve` tells a child: its name, where it shows its metrics if anywhere, the pipe it beats into."""

    name: str
    folder: Path | None
    beats: int


def environment_of_child(child: Supervised) -> dict[str, str]:
    """The environment for a process that `triage serve` looks after. What systemd is told, serve alone tells."""
    inherited = {name: value for name, value in os.environ.items() if name not in _OF_SYSTEMD}
    return {**inherited, _CHILD: json.dumps([child.name, str(child.folder or ""), child.beats])}


def supervised() -> Supervised | None:
    """What we were told as a child; None for a process that runs alone. Told once: not to whom we start."""
    told = os.environ.pop(_CHILD, None)
    if told is None:
        return None
    name, folder, beats = json.loads(told)
    return Supervised(name=name, folder=Path(folder) if folder else None, beats=beats)


def notify_socket() -> str:
    """Where systemd wants to be told how we are, sd_notify(3); "" where nobody does. Asked once."""
    for name in _OF_SYSTEMD[1:]:
        os.environ.pop(name, None)
    return os.environ.pop(_OF_SYSTEMD[0], "")
