"""A copy of a SQLite database is whole, and is put back only where nobody is in the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from making import received
from triage.errors import TriageError
from triage.policy import Policy
from triage.records import copying, schema
from triage.records.copying import check_copy, copy_database, put_back
from triage.records.dumping import libpq
from triage.records.intake import Intake
from triage.records.store import Store, open_engine


def made(file: Path, *numbers: int) -> Store:
    store = Store(open_engine(f"sqlite:///{file}"))
    schema.upgrade(store.engine)
    for number in numbers:
        Intake(store, Policy()).receive(received(number))
    return store


def studies(file: Path) -> list[str]:
    engine = open_engine(f"sqlite:///{file}")
    with engine.connect() as connection:
        found = connection.execute(text("SELECT study_instance_uid FROM studies ORDER BY 1")).scalars().all()
    engine.dispose()
    return list(found)


def test_what_is_committed_is_copied_while_somebody_writes(tmp_path: Path) -> None:
    store = made(tmp_path / "a.db", 1)
    with store.writing() as connection:
        connection.execute(text("UPDATE studies SET patient_id = 'half'"))
        copy_database(tmp_path / "a.db", tmp_path / "copy.db")
    assert check_copy(tmp_path / "copy.db") == schema.known_schemas()[0]
    assert b"half" not in (tmp_path / "copy.db").read_bytes()
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob("copy.db-*"))
    store.engine.dispose()


def test_a_copy_ends_though_others_never_cease_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_PAGES", 1)
    store, copied, held_up = made(tmp_path / "a.db", 1), threading.Event(), threading.Event()
    with store.writing() as connection:
        connection.execute(text("CREATE TABLE large AS SELECT zeroblob(32 * 1024 * 1024) AS films"))

    def write() -> None:
        deadline = time.monotonic() + 20
        while not copied.wait(0.001) and not held_up.is_set():
            with store.writing() as connection:
                connection.execute(text("UPDATE studies SET episode = episode + 1"))
            if time.monotonic() > deadline:
                held_up.set()

    writer = threading.Thread(target=write)
    writer.start()
    copy_database(tmp_path / "a.db", tmp_path / "copy.db")
    copied.set()
    writer.join()
    store.engine.dispose()
    assert not held_up.is_set()


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "Röntgen 100% #1"
    folder.mkdir()
    made(folder / "a.db", 1).engine.dispose()
    copy_database(folder / "a.db", folder / "copy.db")
    assert check_copy(folder / "copy.db") == schema.known_schemas()[0]


def test_a_copy_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    made(tmp_path / "a.db", 1).engine.dispose()
    with pytest.raises(TriageError, match="could not be copied"):
        copy_database(tmp_path / "a.db", tmp_path / "nowhere" / "copy.db")
    with pytest.raises(TriageError, match="could not be copied"):
        copy_database(tmp_path / "none.db", tmp_path / "copy.db")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.db"]


@pytest.mark.parametrize("damage", [b"", b"no database", None])
def test_a_damaged_copy_is_refused(tmp_path: Path, damage: bytes | None) -> None:
    made(tmp_path / "a.db", 1).engine.dispose()
    copy_database(tmp_path / "a.db", tmp_path / "copy.db")
    whole = (tmp_path / "copy.db").read_bytes()
    (tmp_path / "copy.db").write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    with pytest.raises(TriageError, match=r"damaged|no database of triage"):
        check_copy(tmp_path / "copy.db")


def test_it_is_put_back_and_what_was_there_is_kept(tmp_path: Path) -> None:
    made(tmp_path / "a.db", 1).engine.dispose()
    copy_database(tmp_path / "a.db", tmp_path / "copy.db")
    made(tmp_path / "a.db", 2).engine.dispose()
    put_back(tmp_path / "copy.db", tmp_path / "a.db", tmp_path / "before.db")
    assert studies(tmp_path / "a.db") == ["1.2.1"]
    assert studies(tmp_path / "before.db") == ["1.2.1", "1.2.2"]
    assert (tmp_path / "a.db").stat().st_mode & 0o777 == 0o600


def test_at_no_moment_is_there_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.db"
    made(file, 1).engine.dispose()
    copy_database(file, tmp_path / "copy.db")
    seen: list[bool] = []
    for name in ("rename", "replace", "hardlink_to"):
        monkeypatch.setattr(Path, name, looking(getattr(Path, name), file, seen))
    put_back(tmp_path / "copy.db", file, tmp_path / "before.db")
    assert seen == [True, True]
    assert (tmp_path / "before.db").stat().st_ino != file.stat().st_ino


def looking(move: Callable[[Path, Path], Any], file: Path, seen: list[bool]) -> Callable[[Path, Path], Any]:
    def moved(self: Path, target: Path) -> Any:
        done = move(self, target)
        seen.append(file.exists())
        return done

    return moved


def test_it_is_put_back_where_a_file_cannot_have_two_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "a.db", 1).engine.dispose()
    copy_database(tmp_path / "a.db", tmp_path / "copy.db")

    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "hardlink_to", refused)
    put_back(tmp_path / "copy.db", tmp_path / "a.db", tmp_path / "before.db")
    assert studies(tmp_path / "a.db") == studies(tmp_path / "before.db") == ["1.2.1"]


def test_nothing_that_was_kept_before_is_overwritten(tmp_path: Path) -> None:
    made(tmp_path / "a.db", 1).engine.dispose()
    copy_database(tmp_path / "a.db", tmp_path / "copy.db")
    (tmp_path / "before.db").write_bytes(b"kept")
    with pytest.raises(TriageError, match="exists"):
        put_back(tmp_path / "copy.db", tmp_path / "a.db", tmp_path / "before.db")
    assert (tmp_path / "before.db").read_bytes() == b"kept"


def test_it_is_not_put_back_under_anybody_who_has_it_open(tmp_path: Path) -> None:
    store = made(tmp_path / "a.db", 1)
    copy_database(tmp_path / "a.db", tmp_path / "copy.db")
    with store.engine.connect() as connection:
        connection.execute(text("SELECT count(*) FROM studies"))
        connection.rollback()  # idle: as the pool of a process is
        with pytest.raises(TriageError, match="is in use"):
            put_back(tmp_path / "copy.db", tmp_path / "a.db", tmp_path / "before.db")
    store.engine.dispose()
    assert not (tmp_path / "before.db").exists()
    put_back(tmp_path / "copy.db", tmp_path / "a.db", tmp_path / "before.db")


def test_it_takes_the_place_of_a_damaged_one_or_of_none(tmp_path: Path) -> None:
    made(tmp_path / "a.db", 1).engine.dispose()
    copy_database(tmp_path / "a.db", tmp_path / "copy.db")
    (tmp_path / "a.db").write_bytes(b"damaged" * 1000)
    (tmp_path / "a.db-wal").write_bytes(b"of the damaged one")
    put_back(tmp_path / "copy.db", tmp_path / "a.db", tmp_path / "before.db")
    assert studies(tmp_path / "a.db") == ["1.2.1"]
    assert (tmp_path / "before.db").read_bytes().startswith(b"damaged")
    put_back(tmp_path / "copy.db", tmp_path / "b.db", tmp_path / "none.db")
    assert studies(tmp_path / "b.db") == ["1.2.1"]


@pytest.mark.parametrize(
    ("url", "plain", "password"),
    [
        ("postgresql://a:se%40cret@db:5433/b?sslmode=require", "postgresql://a@db:5433/b?sslmode=require", "se@cret"),
        ("postgresql+psycopg://a@/b?host=%2Ftmp&password=secret", "postgresql://a@/b?host=%2Ftmp", "secret"),
        ("postgresql://db/b", "postgresql://db/b", ""),
    ],
)
def test_no_password_stands_on_the_command_line_of_pg_dump(url: str, plain: str, password: str) -> None:
    assert libpq(url) == (plain, password)
