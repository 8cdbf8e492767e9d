"""How the processes show that they live: each alone, and those of `triage serve` together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daemon.environment import supervised
from daemon.exposition import Gathered, expose, own_folder, remove
from daemon.house import House
from daemon.notation import this_host
from daemon.presence import appear
from daemon.pulse import Pulse
from daemon.settings import Settings
from triage.errors import TriageError

# What goes round many times a second has not gone on after this, however busy the machine.
LOOP_SECONDS = 60.0


def begin(house: House, kind: str) -> Pulse:
    """Of this process, from now on. Raise TriageError if the port for its metrics cannot be had."""
    appear(house.spool.root, house.process)
    child, settings = supervised(), house.settings
    if child is None and settings.metrics_port:
        expose(Gathered(kind, settings.data_dir), settings.metrics_host, settings.metrics_port)
    own = child.name if child else f"{kind}-{os.getpid()}"
    pulse = Pulse(house.processes, f"{this_host()}/{own}", kind, child)
    pulse.start()
    return pulse


@contextmanager
def shown_together(settings: Settings) -> Iterator[Path | None]:
    """The folder into which the children of this process write their metrics; None if nobody may ask for them."""
    if not settings.metrics_port:
        yield None
        return
    try:
        folder = own_folder(settings.data_dir)
    except OSError as error:
        raise TriageError(f"data_dir {settings.data_dir}: {error.strerror}") from error
    server = expose(Gathered("serve", settings.data_dir, folder), settings.metrics_host, settings.metrics_port)
    try:
        yield folder
    finally:
        server.shutdown()
        server.server_close()
        remove(folder)
