"""Somebody follows the runbook, from a host with nothing on it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import chests
import pytest
from booted import PROJECT, Machine
from installing import WITH, host, make_wheel, receives
from running import wait_for

from named import DEPLOY, called, commands

TEXT = (DEPLOY / "RUNBOOK.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
# The doctor has something to say of any machine: 1 may pass, 2 must not.
PASSES = 'triage() { command triage "$@" || { [ $? = 1 ] && case $1 in status | doctor) ;; *) false ;; esac; }; }'


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Machine]:
    """A checkout's folder with the wheel, and a film, in /root/site."""
    wheel = make_wheel(tmp_path / "wheel")
    (tmp_path / "machine").mkdir()
    with host(tmp_path / "machine") as machine:
        folder = machine.root / "root" / "site"
        (folder / "dist").mkdir(parents=True)
        shutil.copy(wheel, folder / "dist")
        film = chests.chest(machine.root / "root" / "film")
        shutil.copy(film.path, folder / "film.dcm")
        machine.run("ln", "-s", f"{PROJECT}/deploy", "/root/site/deploy")
        yield machine


def can_be_done(block: str) -> bool:
    """Until its commands are there it cannot; ``triage-backup`` starts ``triage backup``."""
    needed = called(block) | ({"backup"} if "start triage-backup" in block else set())
    return needed <= commands()


def test_what_the_runbook_says_can_be_done(site: Machine, dcmtk: Path) -> None:
    del dcmtk
    assert len(BLOCKS) >= 10
    for block in filter(can_be_done, BLOCKS):
        # Whoever follows it reads on meanwhile.
        if site.run("systemctl", "is-enabled", "triage", check=False).returncode == 0:
            wait_for(lambda: receives(site), 90, pause=0.5)
        site.run("sh", "-e", "-c", f"cd /root/site\n{PASSES}\n{block}", **WITH)
    assert site.shows("triage", "ActiveState") == "active"
