"""Films one behind the other: decoded side by side, then through the network with whatever else is ready.

    claimed --start--> decoders, each with one film --> decoded --> the network, which takes all there are

A film that is alone on the line waits for nobody. Where others are being decoded a pass leaves them `COMPANY_SECONDS`
to come along, up to `COMPANY` films: of a pass of four each takes two thirds of the time. While the network works more
are decoded, and the next pass is larger. So passes grow with the load, and an idle line is as quick as its parts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Queue, SimpleQueue
from types import TracebackType
from typing import Self

from daemon.decoder import Decoder, Look
from daemon.leases import Leases
from triage.jobs import Job

# More films in a pass gain little on a processor; nobody waits longer than two usual films are decoded.
COMPANY, COMPANY_SECONDS = 4, 0.04


@dataclass(frozen=True, kw_only=True)
class Looked:
    """A job whose film has been decoded, or could not be; ``started`` on the monotonic clock, in seconds."""

    job: Job
    look: Look
    started: float


class Line:
    """``look`` decodes one film, ``conclude`` gets 1 to ``most`` of them at a time; neither may raise.

    A job is in hand from its start until it has been concluded. Leaving waits for all that are.
    """

    def __init__(
        self,
        decoders: Sequence[Decoder],
        leases: Leases,
        *,
        look: Callable[[Job, Decoder], Look],
        conclude: Callable[[list[Looked]], None],
        most: int,
    ) -> None:
        self._leases, self._look, self._conclude = leases, look, conclude
        self._idle: SimpleQueue[Decoder] = SimpleQueue()
        for decoder in decoders:
            self._idle.put(decoder)
        self._all = self._free = len(decoders)
        self._changed = threading.Condition()
        self._decoded: Queue[Looked] = Queue(most)
        self._decoding = ThreadPoolExecutor(len(decoders), "decoder")
        self._network = ThreadPoolExecutor(1, "network")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._decoding.shutdown()
        self._network.shutdown()

    def wait_free(self) -> int:
        """Return when a decoder is free, and how many are: what cannot begin yet is for other workers to claim."""
        with self._changed:
            self._changed.wait_for(lambda: self._free > 0)
            return self._free

    def start(self, job: Job) -> None:
        """At a free decoder; only one thread may claim and start.

        A suspect goes alone: if it takes the worker along, no other film's attempt is lost with it.
        """
        self._leases.hold(job)
        if job.is_suspect:
            self._leases.wait_for(1)
        self._count_free(-1)
        self._decoding.submit(self._decode, job, time.monotonic())
        if job.is_suspect:
            self._leases.wait_for(0)

    def _count_free(self, more: int) -> None:
        with self._changed:
            self._free += more
            self._changed.notify_all()

    def _decode(self, job: Job, started: float) -> None:
        decoder = self._idle.get()
        look = self._look(job, decoder)
        self._idle.put(decoder)
        self._decoded.put(Looked(job=job, look=look, started=started))  # waits while the network is that far behind
        self._count_free(1)
        self._network.submit(self._take_all)

    def _take_all(self) -> None:
        self._wait_for_company()
        taken = [self._decoded.get() for _ in range(self._decoded.qsize())]  # nobody else takes any
        if taken:  # else an earlier pass has had it
            self._conclude(taken)
        for each in taken:
            self._leases.let_go(each.job)

    def _wait_for_company(self) -> None:
        def is_enough() -> bool:
            ready = self._decoded.qsize()
            return ready == 0 or ready >= min(COMPANY, self._decoded.maxsize) or self._free == self._all

        with self._changed:
            self._changed.wait_for(is_enough, COMPANY_SECONDS)
