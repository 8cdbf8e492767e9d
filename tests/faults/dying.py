"""A command of the daemon that kills itself at a named point: ``dying.py POINT TIMES COMMAND...``

The point is passed TIMES - 1 times before. ``-`` for none. SIGKILL, as of kill -9 and of the out-of-memory killer:
nothing is flushed, closed, rolled back or told. Nothing else of the process is changed but that the scheduler takes a
file without a row for an orphan after seconds instead of ten minutes.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from itertools import count
from typing import Any

ORPHAN_SECONDS = 3.0

# Of each process: what has just happened when it dies, or is about to, and where that is in the code.
POINTS: dict[str, dict[str, tuple[str, str, str]]] = {
    "receive": {
        "a part of the data set is written": ("after", "daemon.spool", "Draft.write"),
        "the file is whole, but not durable": ("before", "daemon.spool", "Draft.keep"),
        "the file is durable, but not in its place": ("before", "daemon.folder", "Folder.keep"),
        "the file is in its place, and no row": ("after", "daemon.folder", "Folder.keep"),
        "the study is inserted, not its instance": ("before", "triage.records.intake", "Intake._insert_instance"),
        "the job is inserted, not committed": ("after", "triage.records.intake", "Intake._queue"),
        "committed, and nobody told": ("after", "triage.records.intake", "Intake.receive"),
        "the workers are told, not the sender": ("before", "daemon.dicom.service", "Service._answer"),
        "the sender is told": ("after", "daemon.dicom.service", "Service._answer"),
    },
    "work": {
        "its predecessor's leases are read": ("after", "triage.records.queue", "Queue._leases"),
        "a job is claimed": ("after", "triage.records.queue", "Queue.claim"),
        "a film is on its way to the decoder": ("before", "daemon.worker", "decoded"),
        "a film is decoded": ("after", "daemon.worker", "decoded"),
        "the network has answered": ("after", "daemon.worker", "findings"),
        "the job is ended, without its finding": ("after", "triage.records.queue", "Queue._ended"),
        "the study is settled, not committed": ("after", "triage.records.store", "Store.settle"),
        "committed": ("after", "triage.records.queue", "Queue.finish"),
        "a lease is extended": ("after", "triage.records.queue", "Queue.heartbeat"),
    },
    "schedule": {
        "leases that ran out are read": ("after", "triage.records.queue", "Queue._leases"),
        "one lease is taken back": ("after", "triage.records.queue", "Queue.fail"),
        "a time-out is written, not committed": ("after", "triage.records.queue", "Queue._show"),
        "an orphan is found": ("before", "daemon.adoption", "Adoption._adopt"),
        "an orphan is adopted": ("after", "daemon.adoption", "Adoption._adopt"),
    },
    "web": {
        "an access is noted": ("after", "daemon.trail", "Trail.note"),
        "the trail is opened, and has no name yet": ("after", "daemon.trail", "fcntl.flock"),
        "accesses are entered, their file still there": ("after", "triage.records.audit", "Audit.enter"),
        "a reading is written, not committed": ("after", "triage.records.reading", "Reading.set_status"),
        "a reading is committed, and nobody told": ("after", "triage.records.reading", "Reading.start_reading"),
        "a reading is over, and nobody told": ("after", "triage.records.reading", "Reading.close"),
    },
}


def arm(command: str, point: str, times: int) -> None:
    when, module, name = POINTS[command][point]
    *outer, last = name.split(".")
    owner = functools.reduce(getattr, outer, import_module(module))
    setattr(owner, last, _doomed(getattr(owner, last), times, before=when == "before"))


def _doomed(real: Callable[..., Any], times: int, *, before: bool) -> Callable[..., Any]:
    """Calls that find nothing, such as an empty queue, are none."""
    passed = count(1)

    @functools.wraps(real)
    def doomed(*arguments: Any, **named: Any) -> Any:
        if before and next(passed) >= times:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*arguments, **named)
        if not before and result not in ([], 0, False) and next(passed) >= times:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return doomed


def main(point: str, times: str, *command: str) -> None:
    sys.path.pop(0)  # this folder is no place to import from
    from daemon import scheduler  # noqa: PLC0415 - not before its folder is out of the way
    from daemon.cli import main as run  # noqa: PLC0415

    scheduler._ORPHAN_SECONDS = ORPHAN_SECONDS
    if point != "-":
        arm(command[0], point, int(times))
    sys.argv = ["triage", *command]
    run()


if __name__ == "__main__":
    main(*sys.argv[1:])
