"""The command line: what can be run, and what it is called. `daemon/house.py` builds what the commands need.

Heavy imports stand inside the commands that need them: only those that score films load torch.
"""

from __future__ import annotations

import json
import math
import sys
import textwrap
from dataclasses import asdict, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from daemon import accounts, films, lifecycle, processes, rebuilding
from daemon.complaint import DatabaseUnavailableError
from daemon.environment import read_settings, table
from daemon.films import AsJson
from daemon.house import open_house_with_database, operating_point
from daemon.operating import commands as operating
from triage.card import read_card
from triage.errors import TriageError

app = typer.Typer(
    help="DICOM worklist triage: likely pneumonia is read first, nobody is lost or starved. "
    "For prioritisation only, not for diagnosis.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def main_options(
    *,
    show_version: Annotated[bool, typer.Option("--version", help="Tell the version and end.", is_eager=True)] = False,
) -> None:
    if show_version:
        typer.echo(version("worklist-triage"))
        raise typer.Exit


# -- processes -----------------------------------------------------------------------------------------------------


for process in (
    processes.serve,
    processes.receive,
    processes.work,
    processes.schedule,
    processes.web,
    processes.orders,
):
    app.command()(process)

# -- the worklist --------------------------------------------------------------------------------------------------


@app.command()
def worklist(*, as_json: AsJson = False) -> None:
    """Show the reading worklist in its order, with the reason for each place."""
    house = open_house_with_database("worklist")
    with accounts.noted(house, "list"):
        entries = house.reading.worklist()
    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in entries], default=datetime.isoformat, indent=2))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from triage.records.store import shown_url

    where = escape(shown_url(house.settings.url))
    shown = Table(title=f"Reading worklist - for prioritisation only, not for diagnosis\n{where}")
    for column in ("Rank", "Patient", "Accession", "Modality", "Arrived", "Waiting", "Status", "Why here?"):
        shown.add_column(column)
    for entry in entries:
        patient = f"{entry.patient_name} ({entry.patient_id})"
        waiting = f"{entry.waiting_seconds // 60} min"
        arrived = entry.waiting_since.astimezone().strftime("%d %b %H:%M")
        row = (
            str(entry.rank),
            patient,
            entry.accession_number,
            entry.modality,
            arrived,
            waiting,
            entry.status,
            entry.why,
        )
        shown.add_row(*map(escape, row))
    Console().print(shown)


@app.command()
def close(study_instance_uid: str) -> None:
    """Mark a study as read: it leaves the worklist."""
    house = open_house_with_database("close")
    with accounts.noted(house, "read", study_instance_uid):
        house.reading.close(study_instance_uid)


app.command()(rebuilding.rebuild)


@app.command("sql-role")
def sql_role(
    name: str,
    *,
    password_stdin: Annotated[bool, typer.Option(help="Read the password from standard input.")] = False,
) -> None:
    """Make a PostgreSQL role that can read the view reading_worklist and nothing else; again: a new password."""
    house = open_house_with_database("sql-role")
    from triage.records.viewer import make_viewer

    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    is_new = make_viewer(house.store, name, password)
    typer.echo(f"role {name} {'made' if is_new else 'brought up to date'}: it can read reading_worklist")


@app.command()
def orders_refused(
    *, show: Annotated[bool, typer.Option(help="The messages, too: with patient data.")] = False
) -> None:
    """List the HL7 messages that could not be used, newest first."""
    house = open_house_with_database("orders")
    kept = house.orders
    with accounts.noted(house, "orders_refused"):
        refused = kept.refused()
    for each in refused:
        typer.echo(
            f"{each.message_id}  {each.at}  {each.who} {each.address}  {each.answer} {each.times}x  {each.problem}"
        )
        if show:
            for line in each.content.decode("utf-8", "backslashreplace").splitlines():
                typer.echo("".join(c if c.isprintable() else "?" for c in line))
    typer.echo(f"{kept.count_refused()} refused")


@app.command()
def settings(*, as_json: AsJson = False) -> None:
    """Show every setting: name, value here, unit or meaning."""
    from triage.records.store import shown_url

    current, policy = read_settings()
    url = shown_url(current.url)
    rows = [replace(row, value=url) if row.name == "TRIAGE_DATABASE_URL" else row for row in table(current)]
    if as_json:
        values = {row.name: row.value for row in rows}
        derived = operating_point(current, policy)
        typer.echo(json.dumps({"settings": values, "policy": asdict(policy), "operating_point": derived}, indent=2))
        return
    typer.echo("# environment, or TRIAGE_CONFIG_FILE (TOML: lower case, without TRIAGE_)")
    for row in rows:
        default = f" (default: {row.default or 'empty'})" if row.value != row.default else ""
        typer.echo(f"{row.name}={row.value}")
        typer.echo(textwrap.fill(row.meaning + default, 76, initial_indent="    ", subsequent_indent="    "))
    typer.echo("\n# only in that file\n[policy]")
    for name, value in asdict(policy).items():
        typer.echo(f"{name} = {json.dumps(value)}" if value is not None else f"# {name} is not set")
    typer.echo("\n# which comes to, with the network in use")
    for name, value in operating_point(current, policy).items():
        typer.echo(f"# {name}: {value if isinstance(value, str) else f'{value:.4g}'}")


@app.command()
def budget(
    prevalence: Annotated[
        float | None, typer.Argument(min=0.001, max=0.999, help="Share of pneumonias; else the policy's.")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Show the alert budgets a site can set: flags per 100 studies, and what they catch. A forecast."""
    from triage.budget import SENSITIVITY_MIN, offers

    current, policy = read_settings()
    share = prevalence or policy.prevalence
    if share is None:
        raise TriageError("say the share of pneumonias among your analysed studies, e.g. triage budget 0.3")
    card = read_card(current.weights_card)
    rows = offers(card, share, policy.sensitivity_min or SENSITIVITY_MIN)
    if not rows:
        raise TriageError(f"the card of network {card.sha256[:12]} has no operating curve: it takes no budget")
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=2))
        return
    typer.echo(f"Network {card.sha256[:12]}, prevalence {share:g}. The first row is its own threshold.\n")
    typer.echo("flags per 100  threshold  sensitivity    PPV")
    for row in rows:
        flags = f"{math.ceil(row.flags_per_100):13d}"
        typer.echo(f"{flags}  {row.threshold:9.4f}  {row.sensitivity:11.3f}  {row.ppv:5.3f}")


# -- users ---------------------------------------------------------------------------------------------------------

app.add_typer(accounts.app, name="users")
app.command()(accounts.audit)

# -- looking after it ----------------------------------------------------------------------------------------------

for operation in operating.COMMANDS:
    app.command()(operation)
app.add_typer(operating.schema_app, name="schema")

# -- films ---------------------------------------------------------------------------------------------------------

for command in (films.score, films.explain, films.evaluate, films.train):
    app.command()(command)


@app.command()
def demo(
    films: Annotated[Path | None, typer.Option(help="Folder of JPEG, PNG or DICOM films; else synthetic ones.")] = None,
    *,
    stay: Annotated[bool, typer.Option(help="Keep the daemon and its page up afterwards.")] = False,
    count: Annotated[
        int | None, typer.Option(min=1, max=1000, help="So many films: of the folder at most (40), or invented (24).")
    ] = None,
) -> None:
    """Show a morning: studies arrive over DICOM, are analysed, and find their place in the worklist."""
    from daemon.demo.show import run_demo

    current, _ = read_settings()
    raise typer.Exit(run_demo(films, stay, count, current))


def main() -> None:
    """Exit with one clear line: 2 where a person has to mend something, 1 where it may pass."""
    try:
        app()
    except DatabaseUnavailableError as error:
        typer.echo(f"triage: {error}", err=True)
        sys.exit(lifecycle.EXIT_AGAIN)
    except TriageError as error:
        typer.echo(f"triage: {error}", err=True)
        sys.exit(lifecycle.EXIT_MEND)


if __name__ == "__main__":
    main()
