"""Prometheus itself reads the alerts and what the dashboard asks, and its own tests of the alerts pass."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from absent import missing
from named import DEPLOY

FOLDER = DEPLOY / "prometheus"
DASHBOARD = DEPLOY / "grafana" / "triage.json"


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


def asked_by_panels() -> list[str]:
    """With a span of time for each variable of Grafana: no other has a place in an expression of ours."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    asked = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return [re.sub(r"\$(\w+|\{\w+\})", "5m", expression) for expression in asked]


def test_what_the_dashboard_asks_is_understood(promtool: str, tmp_path: Path) -> None:
    asked = asked_by_panels()
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(asked)]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(
        [promtool, "check", "rules", tmp_path / "panels.yml"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(asked)} rules found" in done.stdout
