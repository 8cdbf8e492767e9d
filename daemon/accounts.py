"""Commands about people: users and their tokens, and who has looked at what. Secrets never stand on a command line."""

from __future__ import annotations

import getpass
import json
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from secrets import token_hex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.films import AsJson
from daemon.house import House, open_house, open_house_with_database
from daemon.telemetry import describe, log
from triage.errors import TriageError
from triage.user import Access, Outcome, Role

if TYPE_CHECKING:
    from daemon.settings import Settings
    from triage.records.store import Store
    from triage.records.tokens import Tokens

app = typer.Typer(help="Who may use the page and the interface.", no_args_is_help=True)
token_app = typer.Typer(help="Tokens of programs.", no_args_is_help=True)
app.add_typer(token_app, name="token")

_ROLE = "viewer looks, radiologist reads, admin sees the audit too."
Name = Annotated[str, typer.Argument(help="Name of the user, as it appears beside studies.")]


# -- users ---------------------------------------------------------------------------------------------------------


@app.command("add")
def add_user(name: Name, role: Annotated[Role, typer.Option(help=_ROLE)] = Role.VIEWER) -> None:
    """Make a user. The password is asked for, or read from standard input (its first line)."""
    house = open_house("users")
    house.spool  # noqa: B018 - SQLite's folder has to be there
    with noted(house, "user_add"):
        house.users.add(name, role, read_password())
    typer.echo(f"{name} may come in as {role}.")


@app.command("list")
def list_users(*, as_json: AsJson = False) -> None:
    """Show all users."""
    found = open_house_with_database("users").users.all()
    if as_json:
        _print_json([asdict(user) for user in found])
        return
    rows = [(user.name, user.role, user.issuer or "password", "disabled" if user.disabled else "") for user in found]
    _print_table(("Name", "Role", "Signs in with", ""), rows)


@app.command("role")
def set_role(name: Name, role: Annotated[Role, typer.Argument(help=_ROLE)]) -> None:
    """Give a user another role; it counts from the next request on."""
    house = open_house_with_database("users")
    with noted(house, "user_role"):
        house.users.set_role(name, role)


@app.command("password")
def set_password(name: Name) -> None:
    """Give a user another password, asked for or read from standard input, and end all sessions."""
    house = open_house_with_database("users")
    with noted(house, "user_password"):
        house.users.set_password(name, read_password())


@app.command("disable")
def disable(
    name: Name, *, undo: Annotated[bool, typer.Option("--undo", help="Let the user in again.")] = False
) -> None:
    """Let a user in no more: sessions end at once, tokens open nothing."""
    house = open_house_with_database("users")
    with noted(house, "user_enable" if undo else "user_disable"):
        house.users.disable(name, disabled=not undo)


@app.command("unlock")
def unlock(name: Name) -> None:
    """Let a user try again at once who has given too many wrong passwords; else the door opens by itself in 15 min."""
    house = open_house_with_database("users")
    with noted(house, "user_unlock"):
        house.users.unlock(name)


def read_password() -> str:
    """Twice from a terminal, once from anything else. Raise TriageError."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise TriageError("the two are not the same")
    return password


# -- tokens --------------------------------------------------------------------------------------------------------


@token_app.command("add")
def add_token(
    name: Name,
    label: Annotated[str, typer.Option(help="What it is for.")] = "",
    days: Annotated[float, typer.Option(min=0.001, max=3650, help="Days until it opens nothing more.")] = 90.0,
    role: Annotated[
        Role | None, typer.Option(help="At most this role, though its owner may have a higher one.")
    ] = None,
) -> None:
    """Make a token for a program of this user and print it: nobody can see it again."""
    house = open_house_with_database("users")
    with noted(house, "token_add"):
        token_id, secret = _tokens(house).add(name, label, days, role)
    typer.echo(f"Token {token_id}, for {days:g} days. Keep it now; it is not shown again:", err=True)
    typer.echo(secret)


@token_app.command("list")
def list_tokens(
    name: Annotated[str | None, typer.Argument(help="Only of this user.")] = None, *, as_json: AsJson = False
) -> None:
    """Show tokens, the newest first; never what they are."""
    found = _tokens(open_house_with_database("users")).all(name)
    if as_json:
        _print_json([asdict(token) for token in found])
        return
    rows = [
        (t.token_id, t.owner, t.label, t.role or "", _moment(t.expires_at), _moment(t.used_at), "revoked" * t.revoked)
        for t in found
    ]
    _print_table(("Token", "Owner", "For", "At most", "Expires", "Used", ""), rows)


@token_app.command("revoke")
def revoke_token(token: Annotated[str, typer.Argument(help="As `triage users token list` names it.")]) -> None:
    """It opens nothing any more."""
    house = open_house_with_database("users")
    with noted(house, "token_revoke"):
        _tokens(house).revoke(token)


def _tokens(house: House) -> Tokens:
    from triage.records.tokens import Tokens

    return Tokens(house.store)


# -- the audit -----------------------------------------------------------------------------------------------------


def audit(
    *,
    who: Annotated[str | None, typer.Option(help="Only of this user.")] = None,
    study: Annotated[str | None, typer.Option(help="Only to this Study Instance UID.")] = None,
    verb: Annotated[
        str | None, typer.Option(help="Only this: look, start, read, release, explain, sign_in, ...")
    ] = None,
    outcome: Annotated[Outcome | None, typer.Option(help="Only those that ended so.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Not before this, local time.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Before this, local time.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Show who has done what to which study, the newest first."""
    house = open_house_with_database("audit")
    same = {"who": who, "study_instance_uid": study, "verb": verb, "outcome": outcome}
    local = [moment.astimezone() if moment else None for moment in (since, until)]
    found = house.audit.list(limit, same=same, since=local[0], until=local[1])
    if as_json:
        _print_json([{key: value for key, value in asdict(access).items() if key != "details"} for access in found])
        return
    rows = [(_moment(a.at), a.who or "-", a.verb, a.study_instance_uid or "-", a.outcome, a.address) for a in found]
    _print_table(("When", "Who", "What", "Study", "Outcome", "From"), rows)


@contextmanager
def noted(house: House, verb: str, study_instance_uid: str = "") -> Iterator[None]:
    """Note that somebody at this machine has done so, or has been refused."""
    access = Access(at=datetime.now(UTC), who=whoever(), verb=verb, study_instance_uid=study_instance_uid)
    try:
        yield
    except TriageError:
        access = replace(access, outcome=Outcome.REFUSED)
        raise
    except BaseException:
        access = replace(access, outcome=Outcome.FAILED)
        raise
    finally:
        _enter(house, access)


def note_beside(store: Store, verb: str, settings: Settings) -> None:
    """For commands that must not upgrade the database: noted if it is of this version."""
    from triage.records.audit import Audit
    from triage.records.inspection import inspect_database
    from triage.records.store import DatabaseError

    try:
        if inspect_database(store).is_current:
            audit = Audit(store, forwards=bool(settings.audit_repository))
            audit.enter({token_hex(16): Access(at=datetime.now(UTC), who=whoever(), verb=verb)})
    except DatabaseError as error:
        log().error("accesses_lost", **describe(error), count=1)


def _enter(house: House, access: Access) -> None:
    """At once: whoever runs a command may have no folder of the daemon's."""
    from triage.records.store import DatabaseError

    try:
        house.audit.enter({token_hex(16): access})
    except DatabaseError as error:
        log().error("accesses_lost", **describe(error), count=1)


def whoever() -> str:
    """Who runs this command, as the audit and histories name them."""
    return f"{_account()} on {socket.gethostname()}"


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"user {os.getuid()}"


def _moment(at: datetime | None) -> str:
    return f"{at.astimezone():%d %b %Y %H:%M:%S}" if at else ""


def _print_json(rows: list[dict[str, Any]]) -> None:
    typer.echo(json.dumps(rows, default=datetime.isoformat, indent=2))


def _print_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    shown = Table(*columns)
    for row in rows:
        shown.add_row(*map(escape, row))
    Console().print(shown)
