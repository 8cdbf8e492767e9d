"""The database as it stands, looked at without changing its schema; and the clocks, which have to agree."""

from __future__ import annotations

import shutil
import stat
import subprocess
from collections.abc import Iterator

from daemon.complaint import absent, may_pass, refusal
from daemon.operating.running import expected
from daemon.operating.verdict import Area, Verdict, fail, ok, warn
from daemon.settings import Settings
from triage.errors import SettingsError
from triage.policy import Policy
from triage.records.inspection import Inspection, inspect_database
from triage.records.intake import Intake
from triage.records.postgresql import Site
from triage.records.store import DatabaseError, Store, open_engine

_POSTGRESQL_MIN = 14
_APART_SECONDS = 2.0
_FAR_SECONDS = 60.0
_MIB = 2**20


def need_store(settings: Settings, process: str) -> Store:
    """Raise TriageError, also where there is none yet."""
    store = store_of(settings, process)
    if store is None:
        raise absent(settings)
    return store


def store_of(settings: Settings, process: str) -> Store | None:
    """None where a SQLite database has not been begun: looking must not begin it. Raise TriageError."""
    file = settings.sqlite_file
    if file is not None and not file.exists():
        return None
    site = Site(process=process, seconds=settings.database_seconds, most=2)
    try:
        return Store(open_engine(settings.url, site))
    except DatabaseError as error:
        raise refusal(error, settings) from None


def seen(store: Store, settings: Settings) -> Inspection | Verdict:
    """Or what stands in the way."""
    try:
        return inspect_database(store)
    except DatabaseError as error:
        words = str(refusal(error, settings))
        if may_pass(error, settings):
            return warn(Area.DATABASE, words, "films are noted in the outage ledger meanwhile: bring it back")
        return fail(Area.DATABASE, words, "see database_url, and who may connect")


def look_at_database(settings: Settings, policy: Policy, store: Store, found: Inspection) -> Iterator[Verdict]:
    version = ".".join(map(str, found.version))
    words = f"{found.backend} {version} answers in {found.answer_seconds * 1000:.0f} ms"
    if found.backend == "postgresql" and found.version[0] < _POSTGRESQL_MIN:
        yield warn(Area.DATABASE, f"{words}; it is out of support", f"upgrade it to {_POSTGRESQL_MIN} or newer")
    else:
        yield ok(Area.DATABASE, words)
    yield from _file(settings)
    yield from _connections(settings, found)
    yield _schema(found)
    if found.is_current:
        try:
            Intake(store, policy).check_policy()
        except SettingsError as error:
            yield fail(Area.SETTINGS, str(error), "give the changed [policy] another version")
    yield from _clocks(found)


def _file(settings: Settings) -> Iterator[Verdict]:
    file = settings.sqlite_file
    if file is None:
        return
    if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield fail(Area.DATABASE, f"{file} is open to other users", f"chmod 600 {file}*")
    copies = sorted(file.parent.glob(f"{file.name}.schema-*")) + sorted(file.parent.glob(f"{file.name}.before-*"))
    if copies:
        told = ", ".join(f"{copy.name} ({copy.stat().st_size // _MIB} MiB)" for copy in copies)
        yield ok(Area.DATABASE, f"earlier copies lie beside {file}: {told}; remove them once you stay")


def _connections(settings: Settings, found: Inspection) -> Iterator[Verdict]:
    if found.connections is None:
        return
    used, most = found.connections
    processes = expected(settings).total()
    wanted = processes * settings.database_connections_max
    if wanted > most:
        words = f"{processes} processes may take {wanted} connections, PostgreSQL has {most} ({used} in use)"
        yield warn(Area.DATABASE, words, "lower database_connections_max, or raise max_connections")


def _schema(found: Inspection) -> Verdict:
    newest = found.known[0]
    if found.schema is None:
        return warn(Area.SCHEMA, "the database is empty", "it is set up at the first start")
    if found.is_newer:
        words = f"the database has schema {found.schema}, this version knows up to {newest}"
        fix = "install the version that made it, go back with its `triage schema downgrade`, or restore a backup"
        return fail(Area.SCHEMA, words, fix)
    if not found.is_current:
        fix = "back up first (`triage backup`); it is upgraded at the next start"
        return warn(Area.SCHEMA, f"the database has schema {found.schema}, this version {newest}", fix)
    return ok(Area.SCHEMA, f"schema {newest}, as this version has it")


def _clocks(found: Inspection) -> Iterator[Verdict]:
    apart = abs(found.ahead_seconds)
    words = f"the database's clock and ours are {apart:.1f} s apart"
    fix = "keep both machines on time (NTP): arrival is told by the database's clock"
    if apart > _FAR_SECONDS:
        yield fail(Area.CLOCK, words, fix)
    elif apart > _APART_SECONDS:
        yield warn(Area.CLOCK, words, fix)
    else:
        yield ok(Area.CLOCK, words)
    synchronised = _synchronised()
    if synchronised == "no":
        yield warn(Area.CLOCK, "this machine's clock is not synchronised (timedatectl)", "timedatectl set-ntp true")
    elif synchronised == "yes":
        yield ok(Area.CLOCK, "this machine's clock is synchronised")


def _synchronised() -> str:
    """Yes, no, or nothing where nobody can say."""
    program = shutil.which("timedatectl")
    if program is None:
        return ""
    command = [program, "show", "-p", "NTPSynchronized", "--value"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)  # noqa: S603 - our own words
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
