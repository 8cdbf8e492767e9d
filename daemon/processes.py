"""The processes that make up the daemon, each a command. `daemon/house.py` builds what they need.

Heavy imports stand inside the commands that need them: only the worker loads torch.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from typing import Annotated

import typer

from daemon import lifecycle
from daemon.anew import policy_reader
from daemon.house import (
    House,
    await_database,
    build_listener,
    decoding_limits,
    load_or_none,
    look_at_kept,
    need_database,
    open_house,
    refuse_mismatch,
)
from daemon.notation import this_host
from daemon.presence import appear
from daemon.settings import Settings
from daemon.shown import LOOP_SECONDS, begin, shown_together
from daemon.telemetry import log
from daemon.tls import serving, watch
from triage.errors import TriageError


def serve() -> None:
    """Run receiver, workers, scheduler and web page, and keep them running."""
    house = open_house("serve")
    refuse_mismatch(house.settings, house.policy)
    stop = lifecycle.stop_on_signals()
    appear(house.spool.root, "serve")  # what is wrong with the folder is told once, here
    if not await_database(house, stop):
        return
    backend = house.store.backend
    house.store.engine.dispose()
    log().info("started", version=version("worklist-triage"), database=backend, policy=house.policy.version)
    with shown_together(house.settings) as folder:
        supervisor = lifecycle.Supervisor(
            _children(house.settings), folder, silent_seconds=house.settings.watchdog_seconds
        )
        lifecycle.on_reload(supervisor.reload)
        code = supervisor.run(stop)
    raise typer.Exit(code)


def _children(settings: Settings) -> dict[str, tuple[str, ...]]:
    workers = {f"worker-{n}": ("work", "--name", f"worker-{n}") for n in range(1, settings.workers + 1)}
    receivers = {f"receiver-{n}": ("receive",) for n in range(1, settings.receivers + 1)}
    children = {**receivers, **workers, "scheduler": ("schedule",), "web": ("web",)}
    return {**children, "orders": ("orders",)} if settings.hl7_port or settings.mwl_peer else children


def receive() -> None:
    """Run the DICOM receiver alone."""
    house = open_house("receiver")
    lifecycle.die_with_parent()
    stop = lifecycle.stop_on_signals()
    need_database(house)
    house.spool.clear_incoming()
    look_at_kept(house)
    pulse = begin(house, "receiver")
    listener = build_listener(house, pulse.loop("accepting", LOOP_SECONDS))
    watch([house.dicom_tls], stop)
    from daemon.trail import active

    if house.outage:
        house.outage.start()
    lifecycle.settle()
    try:
        listener.start()
    except OSError as error:
        where = f"{house.settings.dicom_host}:{house.settings.dicom_port}"
        raise TriageError(f"cannot listen on {where}: {error.strerror}") from error
    log().info("receiving", host=house.settings.dicom_host, port=listener.port, tls=house.dicom_tls is not None)
    lifecycle.on_reload(policy_reader(house))
    with active(house.trail, "receiver"):
        stop.wait()
        listener.stop(grace_seconds=10.0)
    if house.outage:
        house.outage.stop()
    pulse.stop()


def work(name: Annotated[str, typer.Option(help="Name of this worker on this machine.")] = "") -> None:
    """Run one worker alone."""
    house = open_house(name or "worker")
    refuse_mismatch(house.settings, house.policy)
    lifecycle.die_with_parent()
    stop = lifecycle.stop_on_signals()
    need_database(house)
    pulse = begin(house, "worker")
    from daemon.absence import Absence
    from daemon.bell import bell
    from daemon.decoder import Decoder
    from daemon.workplace import build_worker, work_on

    settings = house.settings
    full_name = f"{this_host()}/{name or os.getpid()}"
    if name:  # whoever had this name before is dead: its job need not wait for the lease to run out
        Absence(stop).outlast(lambda: house.queue.expire(house.rule, worker=full_name))
    listening = bell(house.store, settings.data_dir)
    with ExitStack() as stack:
        count = settings.decoders or max(2, os.cpu_count() or 1)  # two, so that one slow film does not stop the rest
        decoders = [stack.enter_context(Decoder(decoding_limits(settings))) for _ in range(count)]
        for decoder in decoders:
            decoder.warm()  # loads its codecs while the network is loaded here
        classifier = load_or_none(settings, house.policy)
        if refused := decoders[0].refused():  # decoding goes on with the rest of what confines it
            log().warning("sandbox_weaker", problem=f"refused by the kernel: {refused.words}")
        absence = Absence(stop, pulse.loop("jobs", settings.job_seconds + LOOP_SECONDS))
        worker = build_worker(house, full_name, decoders, classifier, absence)
        work_on(house, worker, listening, stop, pulse)
    listening.close()
    pulse.stop()


def schedule() -> None:
    """Run the scheduler alone: leases, time limits, retention, disk."""
    house = open_house("scheduler")
    lifecycle.die_with_parent()
    stop = lifecycle.stop_on_signals()
    need_database(house)
    pulse = begin(house, "scheduler")
    from daemon.gauges import Gauges
    from daemon.scheduler import Sweeps, run
    from daemon.trail import active
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
        gauges=Gauges(store=house.store, queue=house.queue, weights_card=settings.weights_card),
        note=house.trail.note,
    )
    reporter = house.stepping.reporter()
    if reporter:
        watch([house.stepping.called], stop)
        reporter.start()
    lifecycle.on_reload(policy_reader(house))
    grace_seconds = settings.lease_seconds / 2 if house.store.backend == "postgresql" else 0.0
    beat = pulse.loop("turn", 3 * LOOP_SECONDS)  # giving the turn up waits for sweeps, which wait for the database
    with active(house.trail, "scheduler"), _audit_forwarded(house, stop):
        run(sweeps, turn(house.store), settings.sweep_seconds, stop, grace_seconds=grace_seconds, beat=beat)
    if reporter:
        reporter.stop()
    pulse.stop()


@contextmanager
def _audit_forwarded(house: House, stop: threading.Event) -> Iterator[None]:
    """To the site's audit repository, where there is one."""
    settings = house.settings
    if not settings.audit_repository:
        yield
        return
    from daemon.auditing.building import audit_tls, build_forwarder
    from daemon.turn import AUDIT, turn

    tls = audit_tls(settings)
    watch([tls], stop)
    forwarder = build_forwarder(settings, house.audit, turn(house.store, AUDIT), tls)
    forwarder.start()
    yield
    forwarder.stop()


def web() -> None:
    """Run the web page and REST interface alone."""
    house = open_house("web")
    lifecycle.die_with_parent()
    stop = lifecycle.stop_on_signals()
    need_database(house)
    pulse = begin(house, "web")
    from daemon.decoder import Decoder
    from daemon.site import build_site
    from daemon.trail import active
    from daemon.web.serving import serve

    settings = house.settings
    with Decoder(decoding_limits(settings)) as decoder:
        app = build_site(house, decoder)
        tls = serving(settings, "http")
        watch([tls], stop)
        lifecycle.on_reload(policy_reader(house))
        beat = pulse.loop("answering", LOOP_SECONDS)
        with active(house.trail, "web"):
            serve(app, settings.http_host, settings.http_port, stop, beat=beat, tls=tls)
    pulse.stop()


def orders() -> None:
    """Take orders over HL7 and ask the modality worklist, alone."""
    house = open_house("orders")
    lifecycle.die_with_parent()
    stop = lifecycle.stop_on_signals()
    need_database(house)
    pulse = begin(house, "orders")
    from daemon.orders.process import run
    from daemon.trail import active

    with active(house.trail, "orders"):
        run(house.settings, house.store, house.pseudonym, stop, pulse, house.trail)
    pulse.stop()
