"""The processes that make up the daemon, each a command. `daemon/house.py` builds what they need.

Heavy imports stand inside the commands that need them: only the worker loads torch.
"""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from typing import Annotated

import typer

from daemon import lifecycle
from daemon.house import (
    await_database,
    build_listener,
    decoding_limits,
    load_or_none,
    look_at_kept,
    need_database,
    open_house,
    refuse_mismatch,
)
from daemon.telemetry import log
from triage.errors import TriageError


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
        lease_seconds=settings.lease_seconds,
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


def orders() -> None:
    """Take orders over HL7 and ask the modality worklist, alone."""
    house = open_house("orders")
    lifecycle.die_with_parent()
    stop = lifecycle.stop_on_signals()
    need_database(house)
    from daemon.orders.process import run

    run(house.settings, house.store, house.pseudonym, stop)
