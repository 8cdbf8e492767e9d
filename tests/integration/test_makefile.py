"""What `make setup` meets on a machine that is not yet ready."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from absent import missing

ROOT = Path(__file__).resolve().parents[2]
# Stands for Python once its package venv is there: it makes an environment whose pip installs nothing.
PYTHON = """#!/bin/sh
[ "$1" = -m ] || exit 0
printf '#!/bin/sh\\n' > .venv/bin/pip
chmod +x .venv/bin/pip
"""
# Writes down what it is asked for and, when it installs, what it is told about services.
APT_GET = """#!/bin/sh
echo "$@" >>asked
[ "$1" = update ] && exit
./policy
echo $? >>asked
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Where Debian's Python has tried without its package venv: the environment it leaves behind has no pip."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / "python"
    python.write_text(PYTHON, encoding="ascii")
    python.chmod(0o755)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(python)
    return tmp_path


def test_setup_mends_an_environment_that_was_left_half_made(clone: Path) -> None:
    if shutil.which("make") is None:
        missing("make")
    done = subprocess.run(["make", "setup", "PYTHON=./python"], cwd=clone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (clone / ".venv" / ".installed").exists()


@pytest.fixture
def debian(tmp_path: Path) -> Path:
    """Root's machine, whose apt-get asks ``policy`` whether services may start, as Debian's does."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("chmod", "rm"):
        (programs / name).symlink_to(shutil.which(name) or name)
    for name, text in (("id", "#!/bin/sh\necho 0\n"), ("apt-get", APT_GET)):
        (programs / name).write_text(text, encoding="ascii")
        (programs / name).chmod(0o755)
    return tmp_path


def peers(machine: Path) -> list[str]:
    """What apt-get was asked for, and what it was told when it asked."""
    make = shutil.which("make")
    if make is None:
        missing("make")
    command = [make or "", "--no-print-directory", "-f", ROOT / "Makefile", "peers", f"POLICY={machine / 'policy'}"]
    subprocess.run(command, env={"PATH": str(machine / "bin")}, cwd=machine, capture_output=True, check=True)
    return (machine / "asked").read_text(encoding="ascii").splitlines()


def test_peers_are_installed_without_starting_their_services(debian: Path) -> None:
    update, install, told = peers(debian)
    assert update.startswith("update")
    assert install.endswith(
        "dcmtk orthanc iproute2 chromium systemd-container rsyslog python3-venv prometheus nginx-light"
    )
    assert told == "101"
    assert not (debian / "policy").exists()


def test_a_policy_of_the_site_is_left_alone(debian: Path) -> None:
    policy = debian / "policy"
    policy.write_text("#!/bin/sh\nexit 104\n", encoding="ascii")
    policy.chmod(0o755)
    assert peers(debian)[-1] == "104"
    assert policy.read_text(encoding="ascii") == "#!/bin/sh\nexit 104\n"
