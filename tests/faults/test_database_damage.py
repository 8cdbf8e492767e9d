"""The database is damaged, or an older one takes its place: refused in words, and made again from the films kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import chests
import pytest
from chests import Film
from running import Daemon, wait_for
from sending import send, send_as

RANKED = "SELECT 1 FROM studies WHERE analysis = 'pending'"


def received(daemon: Daemon, folder: Path, count: int) -> list[Film]:
    films = [chests.chest(folder, side=256, PatientID=f"INV-{number}") for number in range(count)]
    daemon.start("receive")
    daemon.wait_until_up(web=False)
    for film in films:
        assert send(daemon, film.dataset) == [0]
    return films


def end(daemon: Daemon) -> Path:
    """Stop it; the database's file, whole, without what would be written into it later."""
    daemon.terminate()
    assert daemon.rows("SELECT 1")  # whoever closes it last puts everything into the one file
    assert not (daemon.data_dir / "triage.db-wal").exists()
    return daemon.data_dir / "triage.db"


def listed(daemon: Daemon) -> list[str]:
    return [uid for (uid,) in daemon.rows("SELECT study_instance_uid FROM reading_worklist ORDER BY rank")]


def overwrite(file: Path) -> None:
    """Pages in the middle, as a disk does that lies; the first, which says what the file is, stays."""
    content = bytearray(file.read_bytes())
    content[4096 * 4 : 4096 * 12] = os.urandom(4096 * 8)
    file.write_bytes(content)


@pytest.mark.fault(91)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("harm", [overwrite, lambda file: file.write_bytes(os.urandom(65536))])
def test_a_damaged_database_is_refused_in_one_line_and_the_worklist_made_again_from_the_films(
    make_daemon: Callable[..., Daemon], tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    daemon = make_daemon()
    films = received(daemon, tmp_path / "films", 4)
    before = daemon.rows("SELECT study_instance_uid, waiting_since FROM studies")
    file = end(daemon)
    harm(file)
    for command in ("serve", "rebuild"):
        ended = daemon.run(command)
        assert ended.returncode == 2
        (line,) = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
        assert "malformed" in line or "not a database" in line
        assert "triage rebuild" in line
    for each in file.parent.glob("triage.db*"):
        each.rename(tmp_path / each.name)
    ended = daemon.run("rebuild")
    assert (ended.returncode, ended.stdout.split(",")[0]) == (0, "4 films listed again")
    assert listed(daemon) == [film.study for film in films]
    assert_waiting_since_they_came(daemon, before)
    daemon.serve()
    assert {daemon.settled(film.study, 180)["analysis"] for film in films} == {"analysed"}
    assert daemon.run("rebuild").stdout.startswith("0 films listed again")
    assert daemon.rows("SELECT count(*) FROM instances") == [(4,)]


def assert_waiting_since_they_came(daemon: Daemon, before: list[tuple[str, str]]) -> None:
    after = dict(daemon.rows("SELECT study_instance_uid, julianday(waiting_since) FROM studies"))
    for uid, since in before:
        ((then,),) = daemon.rows("SELECT julianday(:since)", since=since)
        assert abs(after[uid] - then) * 86400 < 2


@pytest.mark.fault(94)
def test_films_younger_than_the_backup_are_listed_again_once_and_those_in_it_are_left_alone(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = make_daemon()
    old = received(daemon, tmp_path / "films", 2)
    daemon.start("work")
    wait_for(lambda: not daemon.rows(RANKED))
    backup = shutil.copy(end(daemon), tmp_path / "backup.db")
    young = received(daemon, tmp_path / "films", 3)
    file = end(daemon)
    for each in file.parent.glob("triage.db*"):
        each.unlink()
    shutil.copy(backup, file)
    assert daemon.run("rebuild").stdout.startswith("3 films listed again")
    assert set(listed(daemon)) == {film.study for film in (*old, *young)}
    assert daemon.rows("SELECT count(*) FROM jobs") == [(5,)]
    outcomes = dict(daemon.rows("SELECT study_instance_uid, analysis FROM studies"))
    assert [outcomes[film.study] for film in (*old, *young)] == ["analysed"] * 2 + ["pending"] * 3


@pytest.mark.fault(91, 81)
def test_what_was_set_aside_and_what_is_not_a_film_are_told_apart(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = make_daemon()
    films = received(daemon, tmp_path / "films", 2)
    odd = chests.chest(tmp_path / "films", side=256)
    assert send_as(daemon, odd.dataset, sop_instance_uid="1.2.3.4") == 0xA900
    for each in end(daemon).parent.glob("triage.db*"):
        each.unlink()
    rotten = daemon.files("instances")[0]
    rotten.write_bytes(rotten.read_bytes()[:-1])
    ended = daemon.run("rebuild")
    assert (ended.returncode, ended.stdout.split(",")[0]) == (1, "2 films listed again")
    assert "1 could not be" in ended.stdout
    outcomes = dict(daemon.rows("SELECT study_instance_uid, reason FROM studies"))
    assert outcomes.pop(odd.study) == "quarantined"
    assert set(outcomes) < {film.study for film in films}
    assert len(daemon.files("quarantine")) == 1


@pytest.mark.fault(91, 121)
def test_a_forgotten_setting_rebuilds_nothing(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = make_daemon(data_dir=tmp_path / "elsewhere")
    ended = daemon.run("rebuild")
    assert ended.returncode == 2
    assert "TRIAGE_DATA_DIR" in ended.stderr
    assert not (tmp_path / "elsewhere").exists()
