"""The systemd units by themselves: what they take away and what they must not; `test_install.py` runs them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from absent import missing
from named import DEPLOY, ROOT, commands, unknown_settings

UNITS = DEPLOY / "systemd"
SECURITY = ROOT / "SECURITY.md"
SERVICES = ("triage.service", "triage@.service", "triage-backup.service")
# Ten is a service that may do everything. What is left is the network, /proc and user namespaces for the decoder.
EXPOSURE_MOST = 2.0


def lines(unit: str) -> list[str]:
    text = (UNITS / unit).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if "=" in line and not line.startswith("#")]


@pytest.mark.parametrize("unit", SERVICES)
def test_little_is_left_that_a_service_may_do(unit: str, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        missing("systemd-analyze (apt-get install systemd)")
    shutil.copy(UNITS / unit, tmp_path / unit)
    command = [str(program), "security", "--offline=true", f"--threshold={EXPOSURE_MOST * 10:.0f}", f"./{unit}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


def test_the_exposure_that_is_promised_is_the_one_that_is_tested() -> None:
    (told,) = re.findall(
        r"`systemd-analyze security` gives each of them (\S+) of 10", SECURITY.read_text(encoding="utf-8")
    )
    assert float(told) == EXPOSURE_MOST


@pytest.mark.parametrize("unit", [path.name for path in sorted(UNITS.glob("*"))])
def test_what_it_sets_are_settings(unit: str) -> None:
    assert unknown_settings((UNITS / unit).read_text(encoding="utf-8")) == set()


def test_one_process_alone_is_held_as_all_of_them() -> None:
    own = {"Description", "Conflicts", "ExecStart"}
    units = (lines("triage.service"), lines("triage@.service"))
    all_of_them, alone = ({line for line in unit if line.partition("=")[0] not in own} for unit in units)
    assert all_of_them == alone


@pytest.mark.parametrize("unit", ["triage.service", "triage@.service"])
def test_what_the_daemon_cannot_do_without_is_left(unit: str) -> None:
    """Each was found missing by running it: a film that is not analysed says nothing of the unit that is to blame."""
    held = lines(unit)
    assert "MemoryDenyWriteExecute=no" in held  # the network's convolutions are code made at run time
    assert "OOMPolicy=continue" in held  # one decoder too large must not end the receiver
    assert "RestartPreventExitStatus=2" in held
    assert "RestrictNamespaces=user net" in held  # the decoder's child leaves the network
    assert not any(line.startswith("ProcSubset=") for line in held)  # torch counts processors there


def test_the_commands_they_start_exist() -> None:
    started = {line.split("/bin/triage ")[1] for line in lines("triage.service") if line.startswith("ExecStart=")}
    assert started <= commands()
    assert {"receive", "work", "schedule", "web", "orders"} <= commands()


def test_the_installer_places_every_unit_and_is_sound_shell() -> None:
    installer = (DEPLOY / "install.sh").read_text(encoding="utf-8")
    for unit in (*SERVICES, "triage-backup.timer"):
        assert unit in installer
    for script in (DEPLOY / "install.sh", UNITS / "triage", DEPLOY / "compose" / "make-secrets.sh"):
        assert script.stat().st_mode & 0o111, script
        subprocess.run(["sh", "-n", str(script)], check=True)


def test_the_package_that_is_installed_is_the_projects() -> None:
    assert 'name = "worklist-triage"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
