"""The source archive is whole: who has it alone can do what a checkout can."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from absent import missing

ROOT = Path(__file__).resolve().parents[2]
OF_ITSELF = {"pyproject.toml", ".gitignore"}  # hatchling always takes these


def test_whatever_is_tracked_is_taken() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    if shutil.which("git") is None:
        missing("git")
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files"]
    tracked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    taken = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert {path.partition("/")[0] for path in tracked.splitlines()} - OF_ITSELF == set(taken)
