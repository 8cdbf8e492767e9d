"""A machine of its own, booted: this one's files under a layer that is thrown away, its own systemd and loopback.

What the installer and the units do is seen as a site would see it, and nothing of it is left here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from running import wait_for

from absent import missing

ROOT = Path(__file__).resolve().parents[2]
# Where the machine sees this project's files and the packages it was tested with.
PROJECT, PACKAGES = "/mnt/project", "/mnt/packages"
# The system's: one that lies in somebody's home is of no use to a daemon.
PYTHON = "/usr/bin/python3"


@dataclass(frozen=True)
class Machine:
    """``leader`` is its process 1, seen from here; ``root`` its files."""

    leader: int
    root: Path

    def run(self, *command: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """As its root. Fail the test, with what it said, if it fails."""
        path = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", **variables}
        named = [f"{name}={value}" for name, value in path.items()]
        entered = ["nsenter", "--target", str(self.leader), "--all", "env", "-i", "--chdir=/", *named, *command]
        done = subprocess.run(entered, capture_output=True, text=True, timeout=240, check=False)
        if check and done.returncode:
            pytest.fail(f"{' '.join(command)}: {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        return done

    def shows(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "--property", name, "--value", unit).stdout.strip()

    def log(self, unit: str) -> str:
        return self.run("journalctl", "--unit", unit, "--output", "cat", "--no-pager").stdout


@contextmanager
def booted(folder: Path) -> Iterator[Machine]:
    """Skip the test where this machine cannot boot another."""
    if shutil.which("systemd-nspawn") is None:
        missing("systemd-nspawn (apt-get install systemd-container)")
    if os.geteuid() != 0:
        pytest.skip("booting a machine needs root")
    with ExitStack() as stack:
        root = _layered(folder, stack)
        with (folder / "boot.log").open("wb") as log:
            nspawn = subprocess.Popen(_boots(root), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        stack.callback(_power_off, nspawn)
        machine = Machine(wait_for(lambda: _leader(nspawn), 60), root)
        wait_for(lambda: machine.run("systemctl", "is-active", "basic.target", check=False).returncode == 0, 90)
        yield machine


def _layered(folder: Path, stack: ExitStack) -> Path:
    """All of this machine's files, with changes kept in memory."""
    _mount("-t", "tmpfs", "-o", "size=6g,mode=755", "tmpfs", str(folder))
    stack.callback(_unmount, folder)
    upper, work, root = folder / "upper", folder / "work", folder / "root"
    for place in (upper, work, root):
        place.mkdir()
    _mount("-t", "overlay", "-o", f"lowerdir=/,upperdir={upper},workdir={work}", "overlay", str(root))
    stack.callback(_unmount, root)
    (root / "etc" / "machine-id").write_text("f" * 32 + "\n", encoding="ascii")  # another machine
    defaults = root / "etc" / "systemd" / "system.conf.d" / "packages.conf"
    defaults.parent.mkdir(parents=True, exist_ok=True)
    defaults.write_text(f"[Manager]\nDefaultEnvironment=PYTHONPATH={PACKAGES}\n", encoding="ascii")
    return root


def _boots(root: Path) -> list[str]:
    shown = ((ROOT, PROJECT), (sysconfig.get_path("purelib"), PACKAGES))
    binds = [f"--bind-ro={here}:{there}" for here, there in shown]
    options = ["--register=no", "--keep-unit", "--private-network", "--hostname=triage-test", "--console=pipe"]
    return ["systemd-nspawn", *options, *binds, f"--directory={root}", "--boot", "systemd.unit=basic.target"]


def _leader(nspawn: subprocess.Popen[bytes]) -> int:
    if nspawn.poll() is not None:
        pytest.skip("no machine can be booted here")
    children = psutil.Process(nspawn.pid).children()
    return next((child.pid for child in children if child.name() == "systemd" and _is_elsewhere(child.pid)), 0)


def _is_elsewhere(process: int) -> bool:
    """In no namespace of ours: commands for the machine must never be run on this one."""
    theirs, ours = Path(f"/proc/{process}/ns"), Path("/proc/self/ns")
    return all((theirs / name).readlink() != (ours / name).readlink() for name in ("mnt", "net", "pid", "uts"))


def _power_off(nspawn: subprocess.Popen[bytes]) -> None:
    nspawn.terminate()  # asks the machine to power off
    try:
        nspawn.wait(60)
    except subprocess.TimeoutExpired:
        nspawn.kill()
        nspawn.wait()


def _mount(*arguments: str) -> None:
    try:
        subprocess.run(["mount", *arguments], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no machine can be booted here: {error.stderr.strip()}")


def _unmount(place: Path) -> None:
    with suppress(subprocess.CalledProcessError):
        subprocess.run(["umount", "--lazy", str(place)], check=True, capture_output=True)
