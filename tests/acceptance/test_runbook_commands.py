"""Somebody follows the runbook, from a host with nothing on it."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import chests
import pytest
from booted import PROJECT, Machine
from installing import WITH, host, make_wheel, receives, send
from running import wait_for

from certificates import Papers
from named import DEPLOY, called, commands

# The daemon is started a dozen times.
pytestmark = pytest.mark.timeout(600)
TEXT = (DEPLOY / "RUNBOOK.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
# The doctor has something to say of any machine: 1 may pass, 2 must not.
PASSES = 'triage() { command triage "$@" || { [ $? = 1 ] && case $1 in status | doctor) ;; *) false ;; esac; }; }'


# Nobody is asked at a terminal here.
ANSWERS = (
    'triage() { case $* in purge*--dry-run) command triage "$@" ;; *) command triage "$@" --yes --force ;; esac; }'
)
SITE = "triage.example.org"


def block_with(word: str) -> str:
    """The one that says so, though it is marked as not to be run as it stands."""
    (found,) = (each for each in re.findall(r"^```sh[^\n]*\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL) if word in each)
    return str(found)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, dcmtk: Path) -> Iterator[Machine]:
    """A checkout's folder with the wheel, and a film, in /root/site."""
    del dcmtk
    wheel = make_wheel(tmp_path_factory.mktemp("wheel"))
    with host(tmp_path_factory.mktemp("machine")) as machine:
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


def done(site: Machine, block: str, before: str = PASSES) -> str:
    return site.run("sh", "-e", "-c", f"cd /root/site\n{before}\n{block}", **WITH).stdout


def release(site: Machine) -> None:
    """Another version of the same: it can be upgraded to, and back from."""
    (wheel,) = (site.root / "root" / "site" / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.comment = b"another"


@pytest.fixture(scope="module")
def followed(site: Machine) -> Machine:
    """Everything has been done there that can be done as it stands."""
    assert len(BLOCKS) >= 10
    for block in filter(can_be_done, BLOCKS):
        # Whoever follows it reads on meanwhile.
        if site.run("systemctl", "is-enabled", "triage", check=False).returncode == 0:
            wait_for(lambda: receives(site), 90, pause=0.5)
        if "install.sh dist/" in block and site.run("test", "-e", "/opt/triage", check=False).returncode == 0:
            release(site)
        done(site, block)
    return site


def test_what_the_runbook_says_can_be_done(followed: Machine) -> None:
    assert followed.shows("triage", "ActiveState") == "active"


def test_a_study_and_a_patient_are_erased_as_it_says(followed: Machine) -> None:
    films = [send(followed) for _ in range(2)]
    listed = done(followed, "triage worklist --json")
    assert [film.study in listed for film in films] == [True, True]
    (followed.root / "root" / "site" / "id").write_text(f"{films[0].dataset.PatientID}\n", encoding="ascii")
    said = block_with("purge").replace("UID", films[0].study).replace("--patient", "--patient <id")
    done(followed, said, before=ANSWERS)
    listed = done(followed, "triage worklist --json")
    assert [film.study in listed for film in films] == [False, False]


def test_certificates_are_put_in_place_as_it_says(followed: Machine, tmp_path: Path) -> None:
    papers, folder = Papers(tmp_path), followed.root / "root" / "site"
    for name in ("triage", "client"):
        for file in papers.issue(name, SITE):
            shutil.copy(file, folder)
    shutil.copy(papers.ca, folder / "site-ca.pem")
    (settings,) = re.findall(r"^```toml\n(dicom_tls_.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    file = followed.root / "etc" / "triage" / "triage.toml"
    file.write_text(f"{settings}\n{file.read_text(encoding='utf-8')}", encoding="utf-8")
    with (followed.root / "etc" / "hosts").open("a", encoding="ascii") as hosts:
        hosts.write(f"127.0.0.1 {SITE}\n")
    done(followed, block_with("echoscu +tls"))
    assert not receives(followed)
