"""The command line: what can be run, and what it is called. `daemon/house.py` builds what the commands need.

Heavy imports stand inside the commands that need them: only the worker and those that score films load torch.
"""

from __future__ import annotations

import json
import math
import os
import socket
import sys
import textwrap
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from daemon import accounts, films, lifecycle
from daemon.films import AsJson
from daemon.house import (
    DatabaseUnavailableError,
    await_database,
    build_listener,
    decoding_limits,
    load_or_none,
    look_at_kept,
    need_database,
    open_house,
    open_house_with_database,
    operating_point,
    refuse_mismatch,
)
from daemon.settings import read_settings, table
from daemon.telemetry import log
from triage.card import read_card
from triage.errors import TriageError

app = typer.Typer(
    help="DICOM worklist triage: likely pneumonia is read first, nobody is lost or starved. "
    "For prioritisation only, not for diagnosis.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


# -- processes -----------------------------------------------------------------------------------------------------


@app.command()
def serve() -> None:
    """Run receiver, workers, scheduler and web page, and keep them running."""
    house = open_house("serve")
    refuse_mismatch(house.settings, house.policy)
    stop = lifecycle.stop_on_signals()
    house.spool  # noqa: B018 - what is wrong with the folder is told once, here
    if not await_database(house, stop):
        return
    backend = house.store.backend
    house.store.engine.dispose()
    log().info("started", version=version("worklist-triage"), database=backend, policy=house.policy.version)
    workers = {f"worker-{n}": ("work", "--name", f"worker-{n}") for n in range(1, house.settings.workers + 1)}
    receivers = {f"receiver-{n}": ("receive",) for n in range(1, house.settings.receivers + 1)}
    children = {**receivers, **workers, "scheduler": ("schedule",), "web": ("web",)}
    if house.settings.hl7_port or house.settings.mwl_peer:
        children["orders"] = ("orders",)
    raise typer.Exit(lifecycle.Supervisor(children).run(stop))


@app.command()
def receive() -> None:
    """Run the DICOM receiver alone."""
    house = open_house("receiver")
    lifecycle.die_with_parent()
    stop = lifecycle.stop_on_signals()
    need_database(house)
    house.spool.clear_incoming()
    look_at_kept(house)
    listener = build_listener(house)
    if house.outage:
        house.outage.start()
    try:
        listener.start()
    except OSError as error:
        where = f"{house.settings.dicom_host}:{house.settings.dicom_port}"
        raise TriageError(f"cannot listen on {where}: {error.strerror}") from error
    tls = house.settings.dicom_tls_certificate_file is not None
    log().info("receiving", host=house.settings.dicom_host, port=listener.port, tls=tls)
    stop.wait()
    listener.stop(grace_seconds=10.0)
    if house.outage:
        house.outage.stop()


@app.command()
def work(name: Annotated[str, typer.Option(help="Name of this worker on this machine.")] = "") -> None:
    """Run one worker alone."""
    house = open_house(name or "worker")
    refuse_mismatch(house.settings, house.policy)
    lifecycle.die_with_parent()
    stop = lifecycle.stop_on_signals()
    need_database(house)
    from daemon.absence import Absence
    from daemon.bell import bell
    from daemon.decoder import Decoder
    from daemon.leases import Times
    from daemon.worker import NETWORK_PAUSE_SECONDS, Worker

    settings = house.settings
    absence = Absence(stop)
    full_name = f"{socket.gethostname()[:40]}/{name or os.getpid()}"
    if name:  # whoever had this name before is dead: its job need not wait for the lease to run out
        absence.outlast(lambda: house.queue.expire(house.rule, worker=full_name))
    listening = bell(house.store, settings.data_dir)
    with ExitStack() as stack:
        count = settings.decoders or max(2, os.cpu_count() or 1)  # two, so that one slow film does not stop the rest
        decoders = [stack.enter_context(Decoder(decoding_limits(settings))) for _ in range(count)]
        for decoder in decoders:
            decoder.warm()  # loads its codecs while the network is loaded here
        worker = Worker(
            name=full_name,
            queue=house.queue,
            kept=house.spool.kept,
            decoders=decoders,
            batch_max=settings.batch_max,
            classifier=load_or_none(settings, house.policy),
            policy=house.policy,
            rule=house.rule,
            times=Times(lease_seconds=settings.lease_seconds, job_seconds=settings.job_seconds),
            pseudonym=house.pseudonym,
            absence=absence,
        )
        while not stop.is_set():
            if worker.classifier is None:  # films wait, marked as such, until there is a network
                worker.run(stop, listening, seconds=NETWORK_PAUSE_SECONDS)
                worker = replace(worker, classifier=load_or_none(settings, house.policy))
            else:
                worker.run(stop, listening)
    listening.close()


@app.command()
def schedule() -> None:
    """Run the scheduler alone: leases, time limits, retention, disk."""
    house = open_house("scheduler")
    lifecycle.die_with_parent()
    stop = lifecycle.stop_on_signals()
    need_database(house)
    from daemon.scheduler import Sweeps, run
    from daemon.turn import turn

    settings = house.settings
    sweeps = Sweeps(
        store=house.store,
        queue=house.queue,
        spool=house.spool,
        arrivals=house.arrivals,
        ring=house.ringer.ring,
        rule=house.rule,
        pending_seconds=settings.pending_seconds,
        retention_days=settings.retention_days,
        free_mib_min=settings.disk_free_mib_min,
    )
    reporter = house.stepping.reporter()
    if reporter:
        reporter.start()
    grace_seconds = settings.lease_seconds / 2 if house.store.backend == "postgresql" else 0.0
    run(sweeps, turn(house.store), settings.sweep_seconds, stop, grace_seconds)
    if reporter:
        reporter.stop()


@app.command()
def web() -> None:
    """Run the web page and REST interface alone."""
    house = open_house("web")
    lifecycle.die_with_parent()
    stop = lifecycle.stop_on_signals()
    need_database(house)
    from daemon.decoder import Decoder
    from daemon.site import build_site
    from daemon.web.serving import serve

    settings = house.settings
    with Decoder(decoding_limits(settings)) as decoder:
        app = build_site(house, decoder)
        house.trail.start()
        serve(app, settings.http_host, settings.http_port, stop)
        house.trail.stop()


@app.command()
def orders() -> None:
    """Take orders over HL7 and ask the modality worklist, alone."""
    house = open_house("orders")
    lifecycle.die_with_parent()
    stop = lifecycle.stop_on_signals()
    need_database(house)
    from daemon.orders.process import run

    run(house.settings, house.store, house.pseudonym, stop)


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

# -- films ---------------------------------------------------------------------------------------------------------

for command in (films.score, films.explain, films.evaluate, films.train):
    app.command()(command)


@app.command()
def demo(
    films: Annotated[Path | None, typer.Option(help="Folder of JPEG, PNG or DICOM films; else synthetic ones.")] = None,
    *,
    stay: Annotated[bool, typer.Option(help="Keep the daemon and its page up afterwards.")] = False,
    count: Annotated[int, typer.Option(min=1, help="At most so many films of the folder.")] = 40,
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
