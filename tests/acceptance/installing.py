"""The daemon on a booted machine, put there by its installer, with the packages of this environment beside it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import chests
from booted import PACKAGES, PROJECT, PYTHON, ROOT, Machine, booted

from absent import missing

INSTALL = f"{PROJECT}/deploy/install.sh"
# pip has to put our own wheel in, and nothing else.
WITH = {"PYTHONPATH": PACKAGES, "PIP_NO_DEPS": "1", "PIP_IGNORE_INSTALLED": "1", "PIP_NO_INDEX": "1", "PYTHON": PYTHON}


def make_wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (made,) = folder.glob("*.whl")
    return made


@contextmanager
def host(folder: Path) -> Iterator[Machine]:
    """Booted, with a Python for which this environment's packages were made; nothing of ours is on it."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    said = subprocess.run([PYTHON, "-V"], capture_output=True, text=True, check=False).stdout
    if not said.startswith(f"Python {version}."):
        missing(f"Python {version} as {PYTHON}, with its venv")
    with booted(folder) as machine:
        yield machine


def receives(machine: Machine) -> bool:
    return machine.run("echoscu", "-aec", "TRIAGE", "localhost", "11112", check=False).returncode == 0


def send(machine: Machine) -> chests.Film:
    film = chests.chest(machine.root / "root" / "films")
    machine.run("storescu", "-aec", "TRIAGE", "localhost", "11112", f"/root/films/{film.path.name}")
    return film
