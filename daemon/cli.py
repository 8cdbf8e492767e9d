"""The command line: what can be run, and what it is called. `daemon/house.py` builds what the commands need.

Heavy imports stand inside the commands that need them: only the worker and those that score films load torch.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import textwrap
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from daemon import lifecycle
from daemon.house import (
    DatabaseUnavailableError,
    await_database,
    build_listener,
    decoding_limits,
    load,
    load_or_none,
    need_database,
    open_house,
    open_house_with_database,
    readiness,
)
from daemon.settings import read_settings, table
from daemon.telemetry import log
from triage.errors import TriageError

app = typer.Typer(
    help="DICOM worklist triage: likely pneumonia is read first, nobody is lost or starved. "
    "For prioritisation only, not for diagnosis.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
AsJson = Annotated[bool, typer.Option("--json", help="JSON for machines instead of a table.")]


# -- processes -----------------------------------------------------------------------------------------------------


@app.command()
def serve() -> None:
    """Run receiver, workers, scheduler and web page, and keep them running."""
    house = open_house("serve")
    stop = lifecycle.stop_on_signals()
    house.spool  # noqa: B018 - what is wrong with the folder is told once, here
    if not await_database(house, stop):
        return
    backend = house.store.backend
    house.store.engine.dispose()
    log().info("started", version=version("worklist-triage"), database=backend, policy=house.policy.version)
    workers = {f"worker-{n}": ("work", "--name", f"worker-{n}") for n in range(1, house.settings.workers + 1)}
    children = {"receiver": ("receive",), **workers, "scheduler": ("schedule",), "web": ("web",)}
    raise typer.Exit(lifecycle.Supervisor(children).run(stop))


@app.command()
def receive() -> None:
    """Run the DICOM receiver alone."""
    house = open_house("receiver")
    lifecycle.die_with_parent()
    stop = lifecycle.stop_on_signals()
    need_database(house)
    house.spool.clear_incoming()
    listener = build_listener(house)
    try:
        listener.start()
    except OSError as error:
        where = f"{house.settings.dicom_host}:{house.settings.dicom_port}"
        raise TriageError(f"cannot listen on {where}: {error.strerror}") from error
    tls = house.settings.dicom_tls_certificate_file is not None
    log().info("receiving", host=house.settings.dicom_host, port=listener.port, tls=tls)
    stop.wait()
    listener.stop(grace_seconds=10.0)


@app.command()
def work(name: Annotated[str, typer.Option(help="Name of this worker on this machine.")] = "") -> None:
    """Run one worker alone."""
    house = open_house(name or "worker")
    lifecycle.die_with_parent()
    stop = lifecycle.stop_on_signals()
    need_database(house)
    from daemon.bell import bell
    from daemon.decoder import Decoder
    from daemon.worker import NETWORK_PAUSE_SECONDS, Times, Worker

    settings = house.settings
    full_name = f"{socket.gethostname()[:40]}/{name or os.getpid()}"
    if name:  # whoever had this name before is dead: its job need not wait for the lease to run out
        house.queue.expire(house.rule, worker=full_name)
    listening = bell(house.store, settings.data_dir)
    with Decoder(decoding_limits(settings)) as decoder:
        decoder.warm()  # loads its codecs while the network is loaded here
        worker = Worker(
            name=full_name,
            queue=house.queue,
            spool=house.spool,
            decoder=decoder,
            classifier=load_or_none(settings),
            policy=house.policy,
            rule=house.rule,
            times=Times(lease_seconds=settings.lease_seconds, job_seconds=settings.job_seconds),
            pseudonym=house.pseudonym,
        )
        while not stop.is_set():
            if worker.classifier is None:  # films wait, marked as such, until there is a network
                worker.run(stop, listening, seconds=NETWORK_PAUSE_SECONDS)
                worker = replace(worker, classifier=load_or_none(settings))
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
    run(sweeps, settings.sweep_seconds, stop)


@app.command()
def web() -> None:
    """Run the web page and REST interface alone."""
    house = open_house("web")
    lifecycle.die_with_parent()
    stop = lifecycle.stop_on_signals()
    need_database(house)
    from daemon.web.server import build_app, serve

    settings = house.settings
    hosts = (settings.http_host, *settings.http_allowed_hosts)
    app = build_app(house.reading, house.queue, house.policy, hosts, lambda: readiness(house))
    serve(app, settings.http_host, settings.http_port, stop)


# -- the worklist --------------------------------------------------------------------------------------------------


@app.command()
def worklist(*, as_json: AsJson = False) -> None:
    """Show the reading worklist in its order, with the reason for each place."""
    house = open_house_with_database("worklist")
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
    for column in ("Rank", "Patient", "Accession", "Modality", "Waiting", "Status", "Why here?"):
        shown.add_column(column)
    for entry in entries:
        patient = f"{entry.patient_name} ({entry.patient_id})"
        waiting = f"{entry.waiting_seconds // 60} min"
        row = (str(entry.rank), patient, entry.accession_number, entry.modality, waiting, entry.status, entry.why)
        shown.add_row(*map(escape, row))
    Console().print(shown)


@app.command()
def close(study_instance_uid: str) -> None:
    """Mark a study as read: it leaves the worklist."""
    open_house_with_database("close").reading.close(study_instance_uid)


@app.command()
def settings(*, as_json: AsJson = False) -> None:
    """Show every setting: name, value here, unit or meaning."""
    from triage.records.store import shown_url

    current, policy = read_settings()
    url = shown_url(current.url)
    rows = [replace(row, value=url) if row.name == "TRIAGE_DATABASE_URL" else row for row in table(current)]
    if as_json:
        values = {row.name: row.value for row in rows}
        typer.echo(json.dumps({"settings": values, "policy": asdict(policy)}, indent=2))
        return
    typer.echo("# environment, or TRIAGE_CONFIG_FILE (TOML: lower case, without TRIAGE_)")
    for row in rows:
        default = f" (default: {row.default or 'empty'})" if row.value != row.default else ""
        typer.echo(f"{row.name}={row.value}")
        typer.echo(textwrap.fill(row.meaning + default, 76, initial_indent="    ", subsequent_indent="    "))
    typer.echo("\n# only in that file\n[policy]")
    for name, value in asdict(policy).items():
        typer.echo(f"{name} = {json.dumps(value)}")


# -- films ---------------------------------------------------------------------------------------------------------


@app.command()
def score(
    films: Annotated[list[Path], typer.Argument(help="DICOM, JPEG or PNG files.")], *, as_json: AsJson = False
) -> None:
    """Score films offline, without a database: one result a file. Exit 1 if any was not analysed."""
    from daemon.offline import score_films

    current, policy = read_settings()
    results = list(score_films(films, load(current), policy, decoding_limits(current)))
    if as_json:
        typer.echo(json.dumps(results, indent=2))
    else:
        for result in results:
            told = "flagged" if result["flagged"] else (result["reason"] or "not flagged")
            typer.echo(f"{result['path']}: {told}")
    raise typer.Exit(any(result["status"] != "analysed" for result in results))


@app.command()
def evaluate(
    directory: Annotated[Path, typer.Argument(help="Folder with NORMAL and PNEUMONIA.")], *, as_json: AsJson = False
) -> None:
    """Measure the network on labelled films."""
    from triage.learning.evaluation import evaluate as measure

    figures = measure(directory, load(read_settings()[0]))
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        typer.echo(f"{name:24} {value}")


@app.command()
def train(
    films: Annotated[Path, typer.Option(help="Folder with NORMAL and PNEUMONIA.")],
    out: Annotated[Path, typer.Option(help="Folder for weights and card.")],
    held_out: Annotated[Path | None, typer.Option(help="Films whose patients must not be trained on.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training films.")] = 9,
    seed: Annotated[int, typer.Option(help="Of split, start and augmentation.")] = 1,
) -> None:
    """Train the network on labelled films; writes weights and their card."""
    from triage.learning.training import Recipe
    from triage.learning.training import train as fit

    today = datetime.now(UTC).date().isoformat()
    fit(
        films,
        out,
        date=today,
        recipe=Recipe(epochs=epochs, seed=seed),
        held_out=held_out,
        progress=lambda text: typer.echo(text, err=True),
    )


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
