"""A worker that does nothing, as a program: URL. Each line "MOST SECONDS" on stdin is answered with how many jobs."""

from __future__ import annotations

import sys
import time

from triage.errors import Reason
from triage.policy import Policy, not_analysed
from triage.records.postgresql import Site
from triage.records.queue import Queue, Result
from triage.records.store import Store, open_engine
from triage.study import Finding

POLICY = Policy()
FOUND = Finding(weights_sha256="a" * 64, reason=Reason.BAD_PIXELS)
SHOWN = not_analysed(Reason.BAD_PIXELS, POLICY)


def work(queue: Queue, most: int, seconds: float) -> int:
    """How many jobs were claimed and finished meanwhile."""
    done, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        claimed = queue.claim("claimer", 60.0, most)
        if not claimed:
            raise RuntimeError("the queue ran dry")
        ended = queue.finish([Result(job=job, finding=FOUND, priority=SHOWN) for job in claimed])
        done += sum(each is not None for each in ended)
    return done


def main(url: str) -> None:
    queue = Queue(Store(open_engine(url, Site(process="claimer"))), POLICY)
    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        most, seconds = line.split()
        print(work(queue, int(most), float(seconds)), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
