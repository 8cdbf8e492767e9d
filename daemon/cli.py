"""The composition root: reads the settings, builds the objects, hands them to each other. Nothing else does.

Heavy imports stand inside the functions that need them: only the worker and the commands that score films load torch.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemon import lifecycle, telemetry
from daemon.settings import Settings, read_settings, split_peer, table
from daemon.telemetry import log
from triage.errors import CardMismatchError, TriageError
from triage.jobs import RetryRule
from triage.policy import Policy

if TYPE_CHECKING:
    from daemon.arrival import Arrivals
    from daemon.association import Listener
    from daemon.bell import Ringer
    from daemon.spool import Spool
    from triage.classifier import Classifier
    from triage.queue import Queue
    from triage.reading import Reading
    from triage.store import Store

app = typer.Typer(
    help="DICOM worklist triage: likely pneumonia is read first, nobody is lost or starved. "
    "For prioritisation only, not for diagnosis.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
# A job that nobody has taken for so long means that no worker runs, or that all are far behind.
WORKER_ABSENT_SECONDS = 60.0
AsJson = Annotated[bool, typer.Option("--json", help="JSON for machines instead of a table.")]


@dataclass(frozen=True)
class House:
    """The objects that processes share, built when first asked for. Raise TriageError where a person must mend it."""

    settings: Settings
    policy: Policy

    @cached_property
    def spool(self) -> Spool:
        from daemon.spool import Spool

        spool = Spool(self.settings.data_dir)
        try:
            spool.prepare()
        except OSError as error:
            raise TriageError(f"data_dir {self.settings.data_dir}: {error.strerror}") from error
        return spool

    @cached_property
    def store(self) -> Store:
        from sqlalchemy.exc import SQLAlchemyError

        from triage import schema
        from triage.store import Store, open_engine

        self.spool  # noqa: B018 - SQLite's folder has to be there
        try:
            engine = open_engine(self.settings.url)
            schema.upgrade(engine)
        except SQLAlchemyError as error:
            raise TriageError(f"database_url: cannot open the database ({type(error).__name__})") from error
        return Store(engine)

    @cached_property
    def queue(self) -> Queue:
        from triage.queue import Queue

        return Queue(self.store, self.policy)

    @cached_property
    def reading(self) -> Reading:
        from triage.reading import Reading

        return Reading(self.store)

    @cached_property
    def arrivals(self) -> Arrivals:
        from daemon.arrival import Arrivals
        from triage.intake import Intake

        return Arrivals(spool=self.spool, intake=Intake(self.store, self.policy))

    @cached_property
    def ringer(self) -> Ringer:
        from daemon.bell import Ringer

        return Ringer(self.store.engine, self.settings.data_dir)

    @cached_property
    def pseudonym(self) -> telemetry.Pseudonym:
        return telemetry.Pseudonym(self.spool.root)

    @property
    def rule(self) -> RetryRule:
        return RetryRule(attempts_max=self.settings.attempts_max, delay_seconds=self.settings.retry_seconds)


def open_house(process: str) -> House:
    """Read the settings and set up logging: the first thing each process does."""
    settings, policy = read_settings()
    telemetry.configure(settings.log_format, settings.log_level, process)
    return House(settings, policy)


# -- processes -----------------------------------------------------------------------------------------------------


@app.command()
def serve() -> None:
    """Run receiver, workers, scheduler and web page, and keep them running."""
    house = open_house("serve")
    stop = lifecycle.stop_on_signals()
    backend = house.store.engine.dialect.name
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
    house.spool.clear_incoming()
    listener = build_listener(house)
    try:
        listener.start()
    except OSError as error:
        where = f"{house.settings.dicom_host}:{house.settings.dicom_port}"
        raise TriageError(f"cannot listen on {where}: {error.strerror}") from error
    log().info(
        "receiving", host=house.settings.dicom_host, port=listener.port, tls=build_tls(house.settings) is not None
    )
    stop.wait()
    listener.stop(grace_seconds=10.0)


def build_listener(house: House) -> Listener:
    from daemon.association import Listener, Peer
    from daemon.guard import ListenerLimits
    from daemon.receiver import Receiver, Watermark, log_association

    settings = house.settings
    receiver = Receiver(spool=house.spool, arrivals=house.arrivals, ringer=house.ringer, pseudonym=house.pseudonym)
    limits = ListenerLimits(
        pdu_seconds=settings.dicom_pdu_seconds,
        idle_seconds=settings.dicom_idle_seconds,
        acse_seconds=settings.dicom_acse_seconds,
        instance_bytes_max=settings.dicom_instance_mib_max * 2**20,
        connections_max=settings.dicom_connections_max,
        connections_per_address_max=settings.dicom_connections_per_address_max,
    )
    peers = tuple(Peer(ae_title=name, network=network) for name, network in map(split_peer, settings.dicom_peers))
    return Listener(
        ae_title=settings.dicom_ae_title,
        host=settings.dicom_host,
        port=settings.dicom_port,
        limits=limits,
        peers=peers,
        strict_loopback=settings.dicom_strict_loopback,
        tls=build_tls(settings),
        on_store=receiver.store,
        on_association_end=log_association,
        refuse=Watermark(house.spool, settings.disk_free_mib_min),
    )


def build_tls(settings: Settings) -> ssl.SSLContext | None:
    """TLS 1.2 or newer (PS3.15 B.12); with a CA file, clients must show a certificate."""
    if settings.dicom_tls_certificate_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.dicom_tls_certificate_file, settings.dicom_tls_key_file)
        if settings.dicom_tls_ca_file is not None:
            context.load_verify_locations(settings.dicom_tls_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:
        raise TriageError(f"dicom_tls_*_file: {error.strerror or type(error).__name__}") from error
    return context


@app.command()
def work(name: Annotated[str, typer.Option(help="Name of this worker on this machine.")] = "") -> None:
    """Run one worker alone."""
    house = open_house(name or "worker")
    lifecycle.die_with_parent()
    stop = lifecycle.stop_on_signals()
    from daemon.bell import bell
    from daemon.decoder import Decoder
    from daemon.sandbox import Limits
    from daemon.worker import Times, Worker

    settings = house.settings
    full_name = f"{socket.gethostname()[:40]}/{name or os.getpid()}"
    if name:  # whoever had this name before is dead: its job need not wait for the lease to run out
        house.queue.expire(house.rule, worker=full_name)
    listening = bell(house.store.engine, settings.data_dir)
    limits = Limits(seconds=settings.decode_seconds, memory_bytes=settings.decode_mib * 2**20)
    with Decoder(limits) as decoder:
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
        worker.run(stop, listening)
    listening.close()


def load(settings: Settings) -> Classifier:
    """Raise CardMismatchError."""
    from triage.classifier import found_device, load_classifier, set_threads

    set_threads(settings.torch_threads or max(1, (os.cpu_count() or 1) - 1))
    return load_classifier(settings.weights_card, found_device(settings.device))


def load_or_none(settings: Settings) -> Classifier | None:
    """Without a network the worker goes on: studies then say that they were not analysed, and keep their place."""
    try:
        classifier = load(settings)
    except CardMismatchError as error:
        typer.echo(f"triage: {error}", err=True)
        log().error("model_unavailable", error=type(error).__name__)
        return None
    log().info("model_loaded", weights=classifier.card.sha256[:12], device=str(classifier.device))
    return classifier


@app.command()
def schedule() -> None:
    """Run the scheduler alone: leases, time limits, retention, disk."""
    house = open_house("scheduler")
    lifecycle.die_with_parent()
    stop = lifecycle.stop_on_signals()
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
    from daemon.web import build_app, serve

    settings = house.settings
    hosts = (settings.http_host, *settings.http_allowed_hosts)
    app = build_app(house.reading, house.queue, house.policy, hosts, lambda: readiness(house))
    serve(app, settings.http_host, settings.http_port, stop)


def readiness(house: House) -> dict[str, object]:
    """Whether films are taken in and looked at; each sentence in ``missing`` stands on the page."""
    missing = []
    waiting = house.queue.oldest_due_seconds()
    if waiting > WORKER_ABSENT_SECONDS:
        missing.append("No worker looks at the films: the order is first come, first served.")
    if house.spool.free_mib() < house.settings.disk_free_mib_min:
        missing.append("The disk is nearly full: no new studies are received.")
    return {"ready": not missing, "missing": missing, "oldest_job_seconds": waiting}


# -- the worklist --------------------------------------------------------------------------------------------------


@app.command()
def worklist(*, as_json: AsJson = False) -> None:
    """Show the reading worklist in its order, with the reason for each place."""
    entries = open_house("worklist").reading.worklist()
    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in entries], default=datetime.isoformat, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table(title="Reading worklist - for prioritisation only, not for diagnosis")
    for column in ("Rank", "Patient", "Accession", "Modality", "Waiting", "Status", "Why here?"):
        shown.add_column(column)
    for entry in entries:
        patient = f"{entry.patient_name} ({entry.patient_id})"
        waiting = f"{entry.waiting_seconds // 60} min"
        row = (str(entry.rank), patient, entry.accession_number, entry.modality, waiting, entry.status, entry.why)
        shown.add_row(*(cell.replace("[", r"\[") for cell in row))
    Console().print(shown)


@app.command()
def close(study_instance_uid: str) -> None:
    """Mark a study as read: it leaves the worklist."""
    open_house("close").reading.close(study_instance_uid)


@app.command()
def settings(*, as_json: AsJson = False) -> None:
    """Show every setting: name, value here, unit or meaning."""
    current, policy = read_settings()
    values = {name: str(getattr(current, name.removeprefix("TRIAGE_").lower())) for name, *_ in table()}
    values["TRIAGE_DATABASE_URL"] = hide_password(current.url)
    if as_json:
        typer.echo(json.dumps({"settings": values, "policy": asdict(policy)}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table(
        title="Settings: environment, or the TOML file named by TRIAGE_CONFIG_FILE (names in lower case there)"
    )
    for column in ("Name", "Value", "Default", "Meaning"):
        shown.add_column(column, overflow="fold")
    for name, _, default, meaning in table():
        shown.add_row(name, values[name], default, meaning)
    Console().print(shown)
    Console().print("Policy, [policy] in the TOML file:", asdict(policy), markup=False)


def hide_password(url: str) -> str:
    """The URL as it may be shown."""
    from sqlalchemy import make_url

    return make_url(url).render_as_string(hide_password=True)


# -- films ---------------------------------------------------------------------------------------------------------


@app.command()
def score(
    films: Annotated[list[Path], typer.Argument(help="DICOM, JPEG or PNG files.")], *, as_json: AsJson = False
) -> None:
    """Score films offline, without a database: one result a file. Exit 1 if any was not analysed."""
    from daemon.offline import score_films

    current, policy = read_settings()
    results = list(score_films(films, load(current), policy))
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
    from triage.evaluation import evaluate as measure

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
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training films.")] = 8,
    seed: Annotated[int, typer.Option(help="Of split, start and augmentation.")] = 1,
) -> None:
    """Train the network on labelled films; writes weights and their card."""
    from triage.training import Recipe
    from triage.training import train as fit

    today = datetime.now(UTC).date().isoformat()
    fit(
        films,
        out,
        date=today,
        recipe=Recipe(epochs=epochs, seed=seed),
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
    from daemon.demo import run_demo

    current, _ = read_settings()
    raise typer.Exit(run_demo(films, stay, count, current))


def main() -> None:
    """Exit 2 with one clear line where a person has to mend something."""
    try:
        app()
    except TriageError as error:
        typer.echo(f"triage: {error}", err=True)
        sys.exit(lifecycle.EXIT_MEND)


if __name__ == "__main__":
    main()
