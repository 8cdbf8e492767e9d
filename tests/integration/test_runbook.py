"""The runbook says what there is; `tests/acceptance/test_runbook_commands.py` does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from daemon.environment import read_settings
from daemon.operating.verdict import Area
from named import DEPLOY, unknown_commands, unknown_settings

RUNBOOK = DEPLOY / "RUNBOOK.md"
TEXT = RUNBOOK.read_text(encoding="utf-8")
PAGES = (RUNBOOK, DEPLOY / "kubernetes" / "README.md", DEPLOY / "logs" / "README.md")


def anchors() -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_every_setting_and_command_it_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert unknown_settings(text) == set()
    assert unknown_commands(text) == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    files = {link.partition("#")[0] for link in links if "://" not in link} - {""}
    assert [file for file in sorted(files) if not (page.parent / file).exists()] == []
    if page == RUNBOOK:
        assert {link[1:] for link in links if link.startswith("#")} <= anchors()


def test_every_alert_has_a_section() -> None:
    rules = DEPLOY / "prometheus" / "triage.rules.yml"
    named = re.findall(r"runbook: deploy/RUNBOOK\.md#(\S+)", rules.read_text(encoding="utf-8"))
    assert named
    assert set(named) <= anchors()
    alerts = set(re.findall(r"- alert: (\w+)", rules.read_text(encoding="utf-8")))
    assert set(re.findall(r"^### (Triage\w+)$", TEXT, re.MULTILINE)) == alerts


def test_everything_the_doctor_looks_at_has_a_section() -> None:
    assert set(re.findall(r"^### doctor: ([\w-]+)$", TEXT, re.MULTILINE)) == {str(area) for area in Area}


@pytest.mark.parametrize("example", re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL))
def test_its_settings_are_accepted(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "triage.toml").write_text(example, encoding="utf-8")
    monkeypatch.setenv("TRIAGE_CONFIG_FILE", str(tmp_path / "triage.toml"))
    read_settings()


def test_every_command_that_is_not_run_says_why() -> None:
    fences = re.findall(r"^```(\w+)(.*)$", TEXT, re.MULTILINE)
    assert {kind for kind, _ in fences} <= {"sh", "toml"}
    assert [rest for kind, rest in fences if kind == "sh" and rest and not re.match(r" not-run: \w.*", rest)] == []
