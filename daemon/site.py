"""The web site as the settings have it: the pages, the interfaces beside them, and what they say of the daemon."""

from __future__ import annotations

from functools import partial

from fastapi import FastAPI

from daemon.decoder import Decoder
from daemon.entry import build_entrance
from daemon.house import WORKER_ABSENT_SECONDS, House
from daemon.ledger import is_open
from daemon.pulse import SILENT_SECONDS
from daemon.web.channel import Channels
from daemon.web.dicomweb import dicomweb
from daemon.web.drawing import Drawing
from daemon.web.film import Films
from daemon.web.server import Wings, build_app
from daemon.web.ups_rs import Steps
from triage.errors import Reason
from triage.records.state import oldest_due_seconds

_FIFO = "first come, first served"


def build_site(house: House, decoder: Decoder) -> FastAPI:
    """``decoder``: of the films that are shown. Raise TriageError if everybody could come in from elsewhere."""
    settings, kept, parts = house.settings, house.spool.kept, house.stepping
    steps = Steps(
        workitems=parts.workitems,
        subscriptions=parts.subscriptions,
        finding=parts.finding,
        channels=Channels(subscriptions=parts.subscriptions),
    )
    wings = Wings(
        drawing=Drawing(reading=house.reading, kept=kept) if settings.explanations else None,
        films=Films(reading=house.reading, kept=kept, decoder=decoder),
        dicomweb=dicomweb(house.archive, kept, decoder),
        steps=steps,
        entrance=build_entrance(house),
    )
    hosts = (settings.http_host, settings.http_name, *settings.http_allowed_hosts)
    ready, ring = partial(readiness, house), house.ringer.ring
    return build_app(house.reading, house.queue, hosts, ready, ring=ring, wings=wings)


def readiness(house: House) -> dict[str, object]:
    """Whether films are taken in and looked at; each sentence in ``missing`` stands on the page."""
    missing = []
    waiting = oldest_due_seconds(house.store)
    alive = house.processes.alive(SILENT_SECONDS)
    if not alive.kinds.get("receiver"):
        missing.append("No receiver runs: no new studies come in.")
    if not alive.workers or waiting > WORKER_ABSENT_SECONDS:
        missing.append(f"No worker looks at the films: the order is {_FIFO}.")
    if alive.are_blind:
        missing.append(
            f"The network cannot be loaded: films that come now stand by arrival, not analysed; the order is {_FIFO}."
        )
    if not alive.kinds.get("scheduler"):
        missing.append("No scheduler runs: leases, time limits and old files are not looked after.")
    if house.reading.count_not_analysed(Reason.MODEL_UNAVAILABLE):
        missing.append(
            f"Films came while the network could not be loaded: they stand by arrival, not analysed, {_FIFO}."
        )
    if house.reading.count_not_analysed(Reason.PIXELS_UNREADABLE):
        missing.append(f"Films cannot be read from where they are kept: they stand by arrival until they can, {_FIFO}.")
    if house.spool.free_mib() < house.settings.disk_free_mib_min:
        missing.append("The disk is nearly full: no new studies are received.")
    if is_open(house.settings.data_dir):
        missing.append("Films that came while the database was away are still being entered.")
    return {"ready": not missing, "missing": missing, "oldest_job_seconds": waiting}
