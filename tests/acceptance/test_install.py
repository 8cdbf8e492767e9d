"""The installer and the units, on a booted machine: what a site does by the runbook."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import chests
import pytest
from booted import PACKAGES, Machine
from installing import INSTALL, WITH, host, make_wheel, receives, send
from running import wait_for


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with host(tmp_path_factory.mktemp("machine")) as here:
        yield here


@pytest.fixture(scope="module")
def installed(machine: Machine, wheel: Path) -> Machine:
    shutil.copy(wheel, machine.root / "root")
    machine.run(INSTALL, f"/root/{wheel.name}", **WITH)
    return machine


def triage(machine: Machine, *arguments: str) -> str:
    return machine.run("triage", *arguments, PYTHONPATH=PACKAGES).stdout


def analysed(machine: Machine, film: chests.Film) -> bool:
    entries = json.loads(triage(machine, "worklist", "--json"))
    return film.study in {entry["study_instance_uid"] for entry in entries if entry["analysis"] == "analysed"}


def status_of(machine: Machine, unit: str) -> dict[str, str]:
    main = machine.shows(unit, "MainPID")
    lines = machine.run("cat", f"/proc/{main}/status").stdout.splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.fixture
def served(installed: Machine) -> Iterator[Machine]:
    installed.run("systemctl", "start", "triage")
    wait_for(lambda: receives(installed))
    yield installed
    installed.run("systemctl", "stop", "triage")


def test_a_film_is_analysed_by_the_daemon_of_the_unit_with_all_rights_taken_away(served: Machine, dcmtk: Path) -> None:
    del dcmtk
    film = send(served)
    wait_for(lambda: analysed(served, film), 90, pause=1)
    status = status_of(served, "triage")
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert int(status["CapBnd"], 16) == 0
    assert served.run("stat", "-c", "%U %a", "/var/lib/triage").stdout == "triage 700\n"
    assert served.shows("triage", "NRestarts") == "0"
    assert "sandbox_weaker" not in served.log("triage")  # the unit leaves what the decoding child needs to limit itself


def test_the_units_are_sound_where_they_are_installed(installed: Machine) -> None:
    units = ("triage.service", "triage@work.service", "triage-backup.service", "triage-backup.timer")
    said = installed.run("systemd-analyze", "verify", "--man=no", *units)
    assert [line for line in said.stderr.splitlines() if "triage" in line] == []


def test_its_processes_write_to_no_folder_but_the_daemons(served: Machine, dcmtk: Path) -> None:
    del dcmtk
    main = served.shows("triage", "MainPID")
    as_it = ("nsenter", "--target", main, "--mount", "--setuid", "0", "sh", "-c")
    assert served.run(*as_it, "echo >/etc/triage/x", check=False).returncode
    assert served.run(*as_it, "echo >/opt/triage/x", check=False).returncode
    assert served.run(*as_it, "echo >/var/lib/triage/x && rm /var/lib/triage/x").returncode == 0


def test_a_reload_keeps_it_running(served: Machine) -> None:
    before = served.shows("triage", "MainPID")
    served.run("systemctl", "reload", "triage")
    assert receives(served)
    assert served.shows("triage", "MainPID") == before


def test_each_process_can_have_a_unit_of_its_own(installed: Machine, dcmtk: Path) -> None:
    del dcmtk
    units = [f"triage@{name}" for name in ("receive", "work", "work-2", "schedule", "web")]
    installed.run("systemctl", "start", *units)
    try:
        wait_for(lambda: receives(installed))
        film = send(installed)
        wait_for(lambda: analysed(installed, film), 90, pause=1)
        assert [installed.shows(unit, "ActiveState") for unit in units] == ["active"] * len(units)
    finally:
        installed.run("systemctl", "stop", *units)


def test_what_a_person_must_mend_is_said_once_and_not_tried_again(installed: Machine) -> None:
    settings = installed.root / "etc" / "triage" / "triage.toml"
    before = settings.read_text(encoding="utf-8")
    settings.write_text(f"dicom_prot = 104\n{before}", encoding="utf-8")
    try:
        installed.run("systemctl", "start", "triage", check=False)
        wait_for(lambda: installed.shows("triage", "ActiveState") == "failed")
        assert installed.shows("triage", "NRestarts") == "0"
        assert "did you mean dicom_port?" in installed.log("triage")
    finally:
        settings.write_text(before, encoding="utf-8")
        installed.run("systemctl", "reset-failed", "triage")


def test_the_command_line_has_the_daemons_settings_and_user(installed: Machine) -> None:
    secrets = installed.root / "etc" / "triage" / "triage.env"
    before = secrets.read_text(encoding="utf-8")
    secrets.write_text(f"{before}TRIAGE_DICOM_AE_TITLE=A$B\nTRIAGE_HTTP_PORT=8099", encoding="utf-8")
    try:
        shown = triage(installed, "settings")
    finally:
        secrets.write_text(before, encoding="utf-8")
    assert "TRIAGE_DICOM_AE_TITLE=A$B\n" in shown
    assert "TRIAGE_HTTP_PORT=8099\n" in shown
    assert "TRIAGE_DATA_DIR=/var/lib/triage\n" in shown
    assert 'version = "site-1"' in shown  # of triage.toml
    someone = ("setpriv", "--reuid", "nobody", "--clear-groups", "triage", "settings")
    assert "run it as root" in installed.run(*someone, check=False).stderr


def test_installing_again_changes_nothing(installed: Machine, wheel: Path) -> None:
    settings = installed.root / "etc" / "triage" / "triage.toml"
    settings.write_text(settings.read_text(encoding="utf-8") + "# ours\n", encoding="utf-8")
    listing = ("find", "/opt/triage", "/etc/triage", "/usr/local", "-newer", "/root/now", "-not", "-type", "d")
    installed.run("touch", "/root/now")
    installed.run(INSTALL, f"/root/{wheel.name}", **WITH)
    changed = set(installed.run(*listing).stdout.split())
    placed = {name for name in changed if name.startswith("/usr/local/")}  # units and the like are put there anew
    assert changed == placed
    assert settings.read_text(encoding="utf-8").endswith("# ours\n")


def test_another_version_comes_beside_and_can_be_taken_back(installed: Machine, wheel: Path) -> None:
    first = installed.run("readlink", "/opt/triage/current").stdout
    other = installed.root / "root" / "next" / wheel.name
    other.parent.mkdir()
    shutil.copy(wheel, other)
    with zipfile.ZipFile(other, "a") as archive:
        archive.comment = b"another"
    installed.run(INSTALL, f"/root/next/{wheel.name}", **WITH)
    second = installed.run("readlink", "/opt/triage/current").stdout
    assert second != first
    assert installed.run("readlink", "/opt/triage/previous").stdout == first
    installed.run(INSTALL, "--rollback")
    assert installed.run("readlink", "/opt/triage/current").stdout == first
    assert triage(installed, "settings")


def test_a_version_that_does_not_run_is_never_put_to_use(installed: Machine, wheel: Path) -> None:
    first = installed.run("readlink", "/opt/triage/current").stdout
    broken = installed.root / "root" / "broken" / wheel.name
    broken.parent.mkdir()
    shutil.copy(wheel, broken)
    with zipfile.ZipFile(broken, "a") as archive:
        archive.comment = b"without its packages"
    alone = {name: value for name, value in WITH.items() if name != "PYTHONPATH"}
    failed = installed.run(INSTALL, f"/root/broken/{wheel.name}", check=False, **alone)
    assert failed.returncode == 1
    assert "does not run" in failed.stderr
    assert installed.run("readlink", "/opt/triage/current").stdout == first


def test_a_python_in_somebodys_home_is_refused(installed: Machine, wheel: Path) -> None:
    installed.run("sh", "-c", "mkdir -p -m 700 /root/own && cp /usr/bin/python3 /root/own/python")
    failed = installed.run(INSTALL, f"/root/{wheel.name}", check=False, **{**WITH, "PYTHON": "/root/own/python"})
    assert failed.returncode == 1
    assert "not in a home folder" in failed.stderr


def test_removing_it_keeps_settings_and_data(installed: Machine) -> None:
    """The last: nothing of it is left afterwards."""
    installed.run("touch", "/var/lib/triage/kept")
    installed.run(INSTALL, "--uninstall")
    left = installed.run("ls", "/opt", "/usr/local/bin", "/usr/local/lib/systemd/system", check=False).stdout
    assert "triage" not in left
    assert installed.run("ls", "/var/lib/triage/kept", "/etc/triage/triage.toml").returncode == 0
    assert installed.run("id", "-un", "triage").stdout == "triage\n"
