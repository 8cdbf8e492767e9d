"""Four of dcmtk's senders at once. What was answered with Success stands in their books; nobody else is believed."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import chests

SENDERS = 4
_SIDE = 160
_PAUSE_SECONDS = 0.5
_SAME_AGAIN_EVERY = 7
# After so long a sender that never gives up is stuck: that is a loss, too.
_PATIENCE_SECONDS = 600.0


@dataclass
class Books:
    """Film by SOP Instance UID: of all that were made, and of those acknowledged."""

    made: dict[str, chests.Film] = field(default_factory=dict)
    acknowledged: dict[str, chests.Film] = field(default_factory=dict)
    given_up: set[str] = field(default_factory=set)

    def whole_studies(self) -> set[str]:
        """Those of which nothing more will come."""
        made, acknowledged = list(self.made.values()), dict(self.acknowledged)
        return {film.study for film in made} - {film.study for film in made if film.sop not in acknowledged}


class Senders:
    """Threads, each with one program of dcmtk. The last one gives up at the first loss, as many devices do.

    Films of one study come from different senders; every seventh association is repeated as it was.
    """

    def __init__(self, dcmtk: Path, folder: Path, port: int, seed: int) -> None:
        self.books = Books()
        self._dcmtk, self._folder, self._port = dcmtk, folder, port
        self._dice = random.Random(seed)
        self._others: deque[chests.Film] = deque()
        self._turn = threading.Lock()
        self._faults: list[Exception] = []
        self._is_over = threading.Event()

    @contextmanager
    def sending(self) -> Iterator[None]:
        """All that was begun has been acknowledged afterwards, but what was given up."""
        stop = threading.Event()
        threads = [threading.Thread(target=self._keep_sending, args=(number, stop)) for number in range(SENDERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        except BaseException:
            self._is_over.set()
            raise
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        if self._faults:
            raise self._faults[0]

    def _keep_sending(self, number: int, stop: threading.Event) -> None:
        is_patient, associations = number < SENDERS - 1, 0
        try:
            while not stop.is_set() or (is_patient and self._others and not self._is_over.is_set()):
                films = self._next(1 if number % 2 else 3, alone=not is_patient)
                for _ in range(2 if is_patient and associations % _SAME_AGAIN_EVERY == 0 else 1):
                    self._deliver(number, films, is_patient=is_patient)
                associations += 1
                stop.wait(_PAUSE_SECONDS)
        except Exception as error:  # noqa: BLE001 - told by the thread that waits for this one
            self._faults.append(error)

    def _next(self, count: int, *, alone: bool) -> list[chests.Film]:
        """A study's second film goes to whoever comes next. ``alone``: studies of one film, that nobody else sends."""
        with self._turn:
            films = [self._others.popleft() for _ in range(min(count, len(self._others)) if not alone else 0)]
            while len(films) < count:
                first = self._film()
                films.append(first)
                if not alone and self._dice.random() < 0.5:
                    self._others.append(self._film(StudyInstanceUID=first.study))
        return films

    def _film(self, **elements: object) -> chests.Film:
        urgency = self._dice.choice(["STAT", "HIGH", "ROUTINE", "ROUTINE", "ROUTINE"])
        part = "LEG" if self._dice.random() < 0.1 else "CHEST"
        said = {"RequestedProcedurePriority": urgency, "BodyPartExamined": part, **elements}
        film = chests.chest(self._folder, side=_SIDE, **said)
        self.books.made[film.sop] = film
        return film

    def _deliver(self, number: int, films: Sequence[chests.Film], *, is_patient: bool) -> None:
        left = list(films)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while left:
            taken = self._storescu(left) if number % 2 == 0 else self._dcmsend(left)
            for film in left[:taken]:
                self.books.acknowledged[film.sop] = film
            left = left[taken:]
            if left and not is_patient:
                self.books.given_up.update(film.sop for film in left)
                return
            if left:
                assert time.monotonic() < deadline, "films were not taken for ten minutes"
                if self._is_over.wait(0.2):
                    return

    def _storescu(self, films: Sequence[chests.Film]) -> int:
        """How many were acknowledged: it stops at the first that was not."""
        return self._run("storescu", films).count("Received Store Response (Success)")

    def _dcmsend(self, films: Sequence[chests.Film]) -> int:
        return self._run("dcmsend", films, "-dn").count("Received C-STORE Response (Success)")

    def _run(self, program: str, films: Sequence[chests.Film], *options: str) -> str:
        to = ("-aec", "TRIAGE", "-aet", "LEDGER", "-ta", "15", "-td", "30", "127.0.0.1", str(self._port))
        command = [self._dcmtk / program, "-v", *options, *to, *(film.path for film in films)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120, check=False)
        return done.stdout + done.stderr
