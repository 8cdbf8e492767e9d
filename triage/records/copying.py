"""A copy of a SQLite database while others use it, and a copy put back. PostgreSQL has pg_dump(1) for that.

A copy is whole or has no name: it is written aside, checked, fsynced and renamed. It holds patient data: mode 0600.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from triage.errors import TriageError
from triage.records.store import LOCK_SECONDS, SQLITE

# Pages at a time: between two of them a signal is heard.
_PAGES = 4096


def copy_database(file: Path, copy: Path) -> None:
    """What is committed now, by SQLite's online backup. Raise TriageError, and leave nothing behind.

    Nobody who writes waits for it.
    """
    aside = copy.with_name(f".{copy.name}.part")
    try:
        _make_private(aside)
        with closing(_opened(file, "ro")) as source, closing(_opened(aside, "rw")) as target:
            _hold(source)
            source.backup(target, pages=_PAGES)
            target.execute("PRAGMA journal_mode=DELETE")  # one file, that can be carried away
        check_copy(aside)
        make_durable(aside)
        aside.replace(copy)
        make_durable(copy.parent)
    except (OSError, SQLITE.Error) as error:
        raise TriageError(f"{copy}: the database could not be copied there ({_words(error)})") from None
    finally:
        aside.unlink(missing_ok=True)


def _hold(database: Any) -> None:  # noqa: ANN401 - the driver has no types
    """Read what is committed now to the end: else the copy begins anew whenever another process has written."""
    database.execute("BEGIN")
    database.execute("SELECT count(*) FROM sqlite_master").fetchone()  # it is a reader from its first SELECT only


def check_copy(file: Path) -> str | None:
    """Every page and every key. The schema that it has. Raise TriageError if it is no database of ours, or damaged."""
    try:
        with closing(_opened(file, "ro")) as copy:
            if copy.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                raise TriageError(f"{file}: the database is damaged")
            if copy.execute("PRAGMA foreign_key_check").fetchone():
                raise TriageError(f"{file}: the database is damaged: rows point at what is not there")
            found = copy.execute("SELECT version_num FROM alembic_version").fetchone()
    except SQLITE.Error:
        raise TriageError(f"{file}: is no database of triage, or a damaged one") from None
    return str(found[0]) if found else None


def put_back(copy: Path, file: Path, aside: Path) -> None:
    """``copy`` takes the place of ``file``, which is kept as ``aside``. Raise TriageError if anybody still uses it."""
    new = file.with_name(f".{file.name}.restored")
    try:
        _make_private(new)
        with copy.open("rb") as source, new.open("wb") as target:
            while chunk := source.read(2**20):
                target.write(chunk)
        make_durable(new)
        with _alone(file) as was_there:
            if was_there:
                _keep(file, aside)
            new.replace(file)
        make_durable(file.parent)
    except OSError as error:
        raise TriageError(f"{file}: {error.strerror}") from None
    finally:
        new.unlink(missing_ok=True)


def _keep(file: Path, aside: Path) -> None:
    """Under a second name: at no moment is there no database, for a daemon that starts then would make an empty one."""
    try:
        aside.hardlink_to(file)
    except FileExistsError:
        raise
    except OSError:  # a file system without such links
        file.rename(aside)


@contextmanager
def _alone(file: Path) -> Iterator[bool]:
    """Whether it is there. Leaving WAL needs that nobody else has it open, and leaves one file to be moved.

    A file that is damaged cannot be asked: it is moved as it is, and what lies beside it is not to go with the new one.
    """
    if not file.exists():
        _set_aside_log(file)
        yield False
        return
    with closing(_opened(file, "rw")) as database:
        try:
            database.execute("PRAGMA journal_mode=DELETE")
            database.execute("BEGIN EXCLUSIVE")
        except SQLITE.OperationalError as error:
            words = "is in use; stop the daemon first" if "locked" in str(error) else str(error)
            raise TriageError(f"{file}: {words}") from None
        except SQLITE.DatabaseError:
            _set_aside_log(file)
        yield True


def _set_aside_log(file: Path) -> None:
    for suffix in ("-wal", "-shm"):
        beside = file.with_name(file.name + suffix)
        if beside.exists():
            beside.rename(file.with_name(f"{file.name}.damaged{suffix}"))


def _opened(file: Path, mode: str) -> Any:  # noqa: ANN401 - the driver has no types
    uri = f"{file.absolute().as_uri()}?mode={mode}"
    return SQLITE.connect(uri, uri=True, timeout=LOCK_SECONDS, isolation_level=None)


def _make_private(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))


def make_durable(path: Path) -> None:
    """A file or a folder. Raise OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _words(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
