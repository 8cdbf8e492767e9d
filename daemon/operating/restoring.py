"""A backup put back in place of what is there, which is kept."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from daemon.house import House
from daemon.operating.backing_up import Backup, read_backup, run_for_postgresql
from daemon.operating.databases import store_of
from daemon.operating.running import here
from daemon.presence import alive
from triage.errors import TriageError
from triage.records.audit import Audit
from triage.records.copying import check_copy, put_back
from triage.records.inspection import inspect_database, tables
from triage.records.schema import known_schemas
from triage.records.store import DatabaseError, Store

_MOST = 1000


@dataclass(frozen=True, kw_only=True)
class Restored:
    """``aside``: where the database that was there lies now. ``erased``: studies erased since, which are back."""

    backup: Backup
    aside: Path | None
    erased: Sequence[str]


def restore(house: House, folder: Path) -> Restored:
    """Raise TriageError where it cannot be done: then all is as it was."""
    about = read_backup(folder)
    running = here(alive(house.settings.data_dir))
    if running:
        raise TriageError(f"{', '.join(sorted(running))} still run on this machine: stop the daemon first, everywhere")
    if about.schema not in known_schemas():
        raise TriageError(f"the backup has schema {about.schema}, which this version does not know: upgrade triage")
    backend = "sqlite" if house.settings.sqlite_file else "postgresql"
    if about.backend != backend:
        raise TriageError(f"the backup is of {about.backend}, and database_url says {backend}")
    restored = _into_sqlite(house, folder, about) if backend == "sqlite" else _into_postgresql(house, folder, about)
    salt = house.settings.data_dir / "salt"
    if (folder / "salt").exists() and not salt.exists():
        shutil.copyfile(folder / "salt", salt)
        salt.chmod(0o600)
    return restored


def _into_sqlite(house: House, folder: Path, about: Backup) -> Restored:
    file, copy = house.settings.sqlite_file, folder / about.database
    if file is None:
        raise TriageError("database_url names no file")
    house.spool  # noqa: B018 - its folder has to be there
    if check_copy(copy) != about.schema:
        raise TriageError(f"{copy}: has another schema than the backup says")
    was_there, erased = file.exists(), _erased_since(house, about.taken_at)
    aside = file.with_name(f"{file.name}.before-restore-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    put_back(copy, file, aside)
    return Restored(backup=about, aside=aside if was_there else None, erased=erased)


def _erased_since(house: House, taken_at: datetime) -> list[str]:
    """As far as the database that is there can still tell."""
    try:
        store = store_of(house.settings, house.process)
    except TriageError:
        return []
    if store is None:
        return []
    try:
        found = Audit(store).list(_MOST, same={"verb": "purge", "outcome": "success"}, since=taken_at)
    except DatabaseError:
        return []
    finally:
        store.engine.dispose()
    return sorted({access.study_instance_uid for access in found if access.study_instance_uid})


def _into_postgresql(house: House, folder: Path, about: Backup) -> Restored:
    """Only into one that is empty: nothing is overwritten that somebody may still need."""
    store = store_of(house.settings, house.process)
    if store is None:
        raise TriageError("database_url names a file")
    try:
        _refuse_full(store)
        copy = str(folder / about.database)
        plain = ["--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges", copy]
        run_for_postgresql("pg_restore", house.settings.database_url, plain)
        if inspect_database(store).schema != about.schema:
            raise TriageError("the database does not have the schema that the backup says")
    finally:
        store.engine.dispose()
    return Restored(backup=about, aside=None, erased=())


def _refuse_full(store: Store) -> None:
    if tables(store):
        raise TriageError(
            "the database is not empty, and nothing is overwritten: make a new one (createdb NAME), set database_url "
            "to it, restore, and drop the old one when all is well"
        )
