"""Prometheus itself reads the alerts, and its own tests of them pass."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from absent import missing

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"


@pytest.fixture(scope="module")
def promtool() -> str:
    program = shutil.which("promtool")
    if program is None:
        missing("promtool (apt-get install prometheus)")
    return program or ""


@pytest.mark.parametrize("command", [("check", "triage.rules.yml"), ("test", "triage.rules.test.yml")])
def test_the_alerts_are_accepted_and_fire_when_they_should(promtool: str, command: tuple[str, str]) -> None:
    verb, file = command
    done = subprocess.run(
        [promtool, verb, "rules", file], cwd=FOLDER, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout
