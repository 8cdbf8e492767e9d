"""Where a worker works: with the network as soon as it can be loaded, by the policy as it is read anew."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from daemon import lifecycle
from daemon.absence import Absence
from daemon.anew import policy_reader
from daemon.bell import PostgresBell, SocketBell
from daemon.decoder import Decoder
from daemon.house import House, load_or_none
from daemon.leases import Times
from daemon.pulse import Pulse
from daemon.worker import NETWORK_PAUSE_SECONDS, Worker
from triage.policy import Policy, thresholds
from triage.vision.classifier import Classifier


def build_worker(
    house: House, name: str, decoders: Sequence[Decoder], classifier: Classifier | None, absence: Absence
) -> Worker:
    settings = house.settings
    return Worker(
        name=name,
        queue=house.queue,
        kept=house.spool.kept,
        decoders=decoders,
        batch_max=settings.batch_max,
        classifier=classifier,
        rule=house.rule,
        times=Times(lease_seconds=settings.lease_seconds, job_seconds=settings.job_seconds),
        pseudonym=house.pseudonym,
        absence=absence,
        ring=house.ringer.ring,
        hangs=lifecycle.end_hanging,
    )


def work_on(
    house: House, worker: Worker, listening: SocketBell | PostgresBell, stop: threading.Event, pulse: Pulse
) -> None:
    """Until asked to stop."""
    loaded = worker.classifier

    def check(policy: Policy) -> None:
        if loaded is not None:
            thresholds(loaded.card, policy)

    lifecycle.on_reload(policy_reader(house, check))
    while not stop.is_set():
        loaded = worker.classifier
        pulse.without_network = loaded is None
        if loaded is None:  # films wait, marked as such, until there is a network
            worker.run(stop, listening, seconds=NETWORK_PAUSE_SECONDS)
            worker = replace(worker, classifier=load_or_none(house.settings, house.queue.policy))
        else:
            worker.run(stop, listening)
