"""Backups while the daemon runs: the database, by its own means, and what cannot be made anew.

    DIR/triage-20261127T051500Z/    mode 0700: it holds patient data
        triage.db | triage.dump     SQLite's online backup | pg_dump's custom format
        salt                        what studies are called in logs
        backup.json                 when, of which version and schema, and the sha256 of each file

Films are not in it: the PACS is the archive. Who copies their folder, too, copies it after the database.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from secrets import token_hex

from daemon.complaint import complaint
from daemon.environment import environment_without_settings
from daemon.house import House
from daemon.kept import sha256_of
from triage.errors import TriageError
from triage.records.copying import copy_database, make_durable
from triage.records.dumping import libpq
from triage.records.inspection import inspect_database
from triage.records.store import Store, shown_url

ABOUT = "backup.json"
_DATABASES = {"sqlite": "triage.db", "postgresql": "triage.dump"}


@dataclass(frozen=True, kw_only=True)
class Backup:
    """What one holds. ``files``: sha256 by name."""

    taken_at: datetime
    version: str
    backend: str
    schema: str
    policy: str
    files: dict[str, str] = field(default_factory=dict)

    @property
    def database(self) -> str:
        return _DATABASES[self.backend]


def back_up(house: House, folder: Path, store: Store) -> Path:
    """A new folder in ``folder``. Raise TriageError, and leave nothing half-made under its name."""
    found = inspect_database(store)
    if found.schema is None:
        raise TriageError("the database is empty: there is nothing to back up")
    taken_at = datetime.now(UTC)
    final = folder / f"triage-{taken_at:%Y%m%dT%H%M%SZ}"
    aside = folder / f".{final.name}-{token_hex(4)}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside.mkdir(mode=0o700)
        _fill(house, aside, store)
        files = {path.name: sha256_of(path) for path in sorted(aside.iterdir())}
        about = Backup(
            taken_at=taken_at,
            version=version("worklist-triage"),
            backend=store.backend,
            schema=found.schema,
            policy=house.policy.version,
            files=files,
        )
        (aside / ABOUT).write_text(json.dumps(asdict(about), default=datetime.isoformat, indent=2) + "\n", "utf-8")
        for path in (*aside.iterdir(), aside):
            make_durable(path)
        aside.rename(final)
        make_durable(folder)
    except OSError as error:
        raise TriageError(f"{folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return final


def _fill(house: House, aside: Path, store: Store) -> None:
    database = aside / _DATABASES[store.backend]
    if house.settings.sqlite_file:
        copy_database(house.settings.sqlite_file, database)
    else:
        dumping = ["--format=custom", "--lock-wait-timeout=60s", "--file", str(database)]
        run_for_postgresql("pg_dump", house.settings.database_url, dumping)
        database.chmod(0o600)
    salt = house.settings.data_dir / "salt"
    if salt.exists():
        shutil.copyfile(salt, aside / "salt")
        (aside / "salt").chmod(0o600)


def read_backup(folder: Path) -> Backup:
    """Raise TriageError if it is none, or not whole."""
    try:
        told = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        about = Backup(**told | {"taken_at": datetime.fromisoformat(told["taken_at"])})
        database = about.database
    except FileNotFoundError:
        raise TriageError(f"{folder}: no backup; it has no {ABOUT}") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TriageError(f"{folder}: {ABOUT} cannot be read ({type(error).__name__})") from None
    for name, sha256 in about.files.items():
        path = folder / Path(name).name
        if not path.is_file() or sha256_of(path) != sha256:
            raise TriageError(f"{folder}: {name} is missing, or not as it was written")
    if database not in about.files:
        raise TriageError(f"{folder}: {database} is not in it")
    return about


def run_for_postgresql(program: str, database_url: str, arguments: Sequence[str]) -> None:
    """Raise TriageError. Of what it says only what is on our list is repeated: it may name rows."""
    found = shutil.which(program)
    url, password = libpq(database_url)
    where = shown_url(database_url)
    if found is None:
        words = f"{program} is not installed (Debian: postgresql-client), as new as the server or newer"
        raise TriageError(f"{words}; or run it elsewhere: {program} {' '.join(arguments)} --dbname {url}")
    environment = environment_without_settings() | ({"PGPASSWORD": password} if password else {})
    command = [found, "--no-password", *arguments, "--dbname", url]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if done.returncode:
        too_old = "server version mismatch" in done.stderr
        words = "is older than the server" if too_old else complaint(RuntimeError(done.stderr))
        raise TriageError(f"{program}, {where}: {words}")
