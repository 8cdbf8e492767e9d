"""Whoever names the processes of `triage serve` names the same ones."""

from __future__ import annotations

from collections import Counter

import pytest

from daemon.gauges import KINDS
from daemon.operating.running import expected
from daemon.processes import _children
from daemon.settings import Settings

# What a command calls its process where it is not called after itself.
CALLED = {"receive": "receiver", "schedule": "scheduler"}
ALL = {"receivers": 2, "workers": 3, "hl7_port": 2575}


def started(settings: Settings) -> Counter[str]:
    commands = _children(settings).values()
    return Counter(command[-1] if "--name" in command else CALLED.get(command[0], command[0]) for command in commands)


@pytest.mark.parametrize("changes", [{}, ALL, {"mwl_peer": "RIS@10.1.0.5:104"}])
def test_those_that_serve_starts_are_those_that_are_missed(changes: dict[str, object]) -> None:
    settings = Settings.model_validate(changes)
    assert started(settings) == expected(settings)


def test_every_kind_that_serve_starts_is_counted_and_no_other() -> None:
    assert {name.partition("-")[0] for name in started(Settings.model_validate(ALL))} == set(KINDS)
