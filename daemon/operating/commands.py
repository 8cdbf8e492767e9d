"""The commands of whoever looks after the daemon. Exit codes: 0 all is well, 1 it may pass, 2 somebody mends it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemon import accounts
from daemon.complaint import refusal
from daemon.films import AsJson
from daemon.house import House, open_house, open_house_with_database
from triage.errors import Reason, SettingsError, TriageError

if TYPE_CHECKING:
    from daemon.operating.restoring import Restored
    from triage.records.erasure import Erasure, Held

schema_app = typer.Typer(help="The schema of the database.", invoke_without_command=True)

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


# -- looking -------------------------------------------------------------------------------------------------------


def doctor(
    *,
    quick: Annotated[bool, typer.Option(help="Without decoding films, and without the network.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look at everything that an installation needs, while it runs or not. Exit 2: mend it; 1: it may pass."""
    from daemon.operating import doctor as looking
    from daemon.operating import verdict

    try:
        found = list(looking.examine(open_house("doctor"), quick=quick))
    except SettingsError as error:
        found = looking.nothing_but(error)
    if as_json:
        typer.echo(json.dumps(verdict.as_json(found), indent=2))
    else:
        for line in verdict.lines(found):
            typer.echo(line)
    raise typer.Exit(verdict.exit_code(found))


def status(*, as_json: AsJson = False) -> None:
    """Show whether it runs and keeps up, on one screen. Exit 2: mend something; 1: worth a look."""
    from daemon.operating import status as looking
    from daemon.operating.verdict import exit_code

    found = looking.status(open_house("status"))
    if as_json:
        typer.echo(json.dumps(found.told(), default=datetime.isoformat, indent=2))
    else:
        for line in looking.lines(found):
            typer.echo(line)
    raise typer.Exit(exit_code(found.verdicts))


def support_bundle(
    file: Annotated[Path, typer.Argument(help="NAME.tar.gz to write.")],
    *,
    log: Annotated[
        list[Path] | None,
        typer.Option(help="Log of the daemon (JSON lines); again for more. Foreign lines are left out."),
    ] = None,
    quick: Annotated[bool, typer.Option(help="Without decoding films, and without the network.")] = False,
) -> None:
    """Write what somebody who helps needs to see: versions, settings, states, counts. No patient data, no secrets."""
    from daemon.operating.bundle import bundle

    for name, size in bundle(open_house("support"), file, log or (), quick=quick).items():
        typer.echo(f"{size:9d}  {name}")
    typer.echo(f"{file}: look through it before you send it; addresses and AE titles of the site are in it")


def orders_kept(*, as_json: AsJson = False, limit: Annotated[int, typer.Option(min=1, help="How many.")] = 100) -> None:
    """List the orders that wait for their images, newest first: with patient data."""
    house = open_house_with_database("orders")
    with accounts.noted(house, "orders_kept"):
        kept = house.orders.kept(limit)
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in kept], default=datetime.isoformat, indent=2))
        return
    for each in kept:
        at = f"{each.at.astimezone():%d %b %Y %H:%M:%S}"
        typer.echo(
            f"{at}  {each.clinical_priority:<7}  {each.accession_number}  {each.patient_id or '-'}  "
            f"{each.who} ({each.source})"
        )
    typer.echo(f"{len(kept)} wait for their images")


# -- doing ---------------------------------------------------------------------------------------------------------


def requeue(
    uid: Annotated[str, typer.Argument(help="Study Instance UID or SOP Instance UID.")] = "",
    *,
    reason: Annotated[Reason | None, typer.Option(help="All films of unread studies that ended so.")] = None,
    since: Annotated[datetime | None, typer.Option(help="With --reason: received not before this, local time.")] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Have films looked at once more, as if they had just come. What was found stays: no place gets worse."""
    if bool(uid) == bool(reason) or (since and not reason):
        raise TriageError("say one UID, or --reason CODE, with --since if you like")
    house = open_house_with_database("requeue")
    from triage.records.again import Again

    again, local = Again(house.store), since.astimezone() if since else None
    films = again.of_reason(reason, local) if reason else again.of_uid(uid)
    count = sum(map(len, films.values())) if dry_run else _look_again(house, films)
    if as_json:
        typer.echo(json.dumps({"studies": len(films), "films": count, "dry_run": dry_run}))
    else:
        typer.echo(f"{count} films of {len(films)} studies {'would be' if dry_run else 'are'} looked at again")
    if uid and not films:
        raise TriageError("no film of that UID that is still kept, has been looked at, and is of the current reading")


def _look_again(house: House, films: dict[str, list[int]]) -> int:
    count = 0
    for uid, only in films.items():
        with accounts.noted(house, "reanalyse", uid):
            count += house.queue.look_again(uid, accounts.whoever(), only)
    if count:
        house.ringer.ring()
    return count


def purge(
    uid: Annotated[str, typer.Argument(help="Study Instance UID.")] = "",
    *,
    patient: Annotated[
        bool, typer.Option("--patient", help="All of one patient: the Patient ID is asked for, or read from stdin.")
    ] = False,
    force: Annotated[bool, typer.Option(help="Also what nobody has read, or is still to be analysed.")] = False,
    compact: Annotated[
        bool,
        typer.Option(help="Rewrite a SQLite file of any size, not just below 256 MiB: the daemon waits meanwhile."),
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Erase a study, or all of a patient: films, rows, orders, messages. The audit keeps that it was done, by UID.

    Not reached from here: backups, copies of the database from before an upgrade, the PACS (it may send again).
    """
    if bool(uid) == patient and not (compact and not uid):
        raise TriageError("say one Study Instance UID, or --patient")
    house = open_house_with_database("purge")
    from daemon.operating import erasing
    from triage.records.erasure import Erasure

    if uid or patient:
        erasure, patient_id = Erasure(house.store), _read_patient_id() if patient else ""
        held = erasure.of_patient(patient_id) if patient else erasure.of_study(uid)
        _tell_held(erasure, held, patient_id)
        if dry_run:
            return
        erasing.refuse_waited_for(held, force=force)
        _confirm("Erase them for good?", yes=yes)
        typer.echo(f"erased, with {_erase(house, held, patient_id)} files")
    if not erasing.compact(house, always=compact):
        typer.echo("The database is large: traces may lie in its file until `triage purge --compact` rewrites it.")


def _erase(house: House, held: list[Held], patient_id: str) -> int:
    from daemon.operating import erasing

    try:
        files = sum(erasing.erase(house, each.study_instance_uid) for each in held)
    except OSError as error:
        raise TriageError(f"a film cannot be deleted ({type(error).__name__}): do the same again later") from None
    if patient_id:
        erasing.erase_loose(house, patient_id)
    return files


def _tell_held(erasure: Erasure, held: list[Held], patient_id: str) -> None:
    loose = erasure.erase_loose(patient_id, dry_run=True) if patient_id else None
    beside = f", {loose.orders} orders and {loose.messages} messages" if loose else ""
    typer.echo(f"{len(held)} studies with {sum(each.instances for each in held)} instances{beside}")
    conflicts = erasure.count_conflicts() if patient_id else 0
    if conflicts:
        typer.echo(f"{conflicts} studies are marked identity_conflict: a film of this patient may be among theirs")
    if not held and not (loose and (loose.orders or loose.messages)):
        raise TriageError("nothing is held")
    typer.echo("Backups and copies of the database still hold them, and the PACS may send them again.")


def _read_patient_id() -> str:
    """Never on the command line, where others on the machine could see it."""
    found = typer.prompt("Patient ID", err=True) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    if not found.strip():
        raise TriageError("no Patient ID was given")
    return str(found)


def _confirm(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise TriageError("nobody is there to ask: say --yes")
    typer.confirm(question, abort=True, err=True)


# -- backup and schema ---------------------------------------------------------------------------------------------


def backup(
    directory: Annotated[Path, typer.Argument(help="A new folder is made in it, private to this user.")],
) -> None:
    """Back up the database while the daemon runs. With patient data, without films: the PACS is the archive."""
    house = open_house_with_database("backup")
    from daemon.operating.backing_up import back_up
    from daemon.operating.databases import need_store
    from triage.records.store import DatabaseError

    store = need_store(house.settings, "backup")
    try:
        typer.echo(back_up(house, directory, store))
        accounts.note_beside(store, "backup", house.settings)
    except DatabaseError as error:
        raise refusal(error, house.settings) from None
    finally:
        store.engine.dispose()


def restore(
    directory: Annotated[Path, typer.Argument(help="As `triage backup` has named it.")], *, yes: Yes = False
) -> None:
    """Put a backup in place of the database, which is kept beside it. Stop the daemon first.

    SQLite: in place. PostgreSQL: only into an empty database.
    """
    house = open_house("restore")
    from daemon.operating.databases import store_of
    from daemon.operating.restoring import restore as put_back

    _confirm("What happened since the backup will not be known: go on?", yes=yes)
    _tell_restored(put_back(house, directory))
    store = store_of(house.settings, "restore")
    if store is not None:
        accounts.note_beside(store, "restore", house.settings)
        store.engine.dispose()


def _tell_restored(done: Restored) -> None:
    typer.echo(f"restored as of {done.backup.taken_at.astimezone():%d %b %Y %H:%M:%S}, schema {done.backup.schema}")
    if done.aside:
        typer.echo(f"the database that was there: {done.aside} (patient data: remove it when all is well)")
    for uid in done.erased:
        typer.echo(f"erased since and back again: triage purge --force {uid}")
    typer.echo("Users disabled and tokens revoked since are as they were then: look at `triage users list`.")
    typer.echo("Films that came since are on disk: the scheduler lists them within twenty minutes of its start.")


@schema_app.callback()
def schema(context: typer.Context, *, as_json: AsJson = False) -> None:
    """Show the schema of the database and of this version. Exit 1: it is upgraded at the next start; 2: it is newer."""
    if context.invoked_subcommand:
        return
    house = open_house_with_database("schema")
    from daemon.operating.databases import need_store, seen
    from daemon.operating.verdict import Verdict

    found = seen(need_store(house.settings, "schema"), house.settings)
    if isinstance(found, Verdict):
        raise TriageError(found.words)
    if as_json:
        typer.echo(json.dumps({"database": found.schema, "known": found.known}))
    else:
        typer.echo(
            f"database {found.schema or 'empty'}, this version {found.known[0]} (knows {', '.join(found.known)})"
        )
    raise typer.Exit(2 if found.is_newer else 0 if found.is_current else 1)


@schema_app.command("upgrade")
def upgrade() -> None:
    """Upgrade the database now, as the next start would. A SQLite database is copied before; back up a PostgreSQL."""
    from daemon.operating.migrating import upgraded

    change = upgraded(open_house_with_database("schema"))
    typer.echo(f"schema {change.before} -> {change.after}" if change else "nothing to do")
    if change and change.copy:
        typer.echo(f"as it was: {change.copy}")


@schema_app.command("downgrade")
def downgrade(
    revision: Annotated[str, typer.Argument(help="Schema of the earlier version: its `triage schema` shows it.")],
    *,
    yes: Yes = False,
) -> None:
    """Go back to an earlier schema with this version, before an earlier version is installed. Stop the daemon first.

    What the later schema alone could hold is lost; studies, films and findings stay.
    """
    house = open_house_with_database("schema")
    from daemon.operating.migrating import downgraded

    _confirm(f"Go back to schema {revision}?", yes=yes)
    change = downgraded(house, revision)
    typer.echo(
        f"schema {change.before} -> {change.after}; now install the earlier version, and start nothing of this one"
    )
    if change.copy:
        typer.echo(f"as it was: {change.copy}")


COMMANDS = (doctor, status, requeue, purge, backup, restore, support_bundle, orders_kept)
