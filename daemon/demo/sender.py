"""Stands in for the PACS of a demonstration: prepares a morning of films, waits for a word, sends them over DICOM.

A process of its own (``python -m daemon.demo.sender``), so that nothing reaches the daemon but through its DICOM port.
It writes JSON lines: ``{"prepared": N}``, then on any line of input one line a study with the time of Success.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pynetdicom import AE
from pynetdicom.association import Association

from daemon.demo.morning import Prepared, morning_from, prepare, synthetic_morning

STUDIES_PER_ASSOCIATION = 8
TRIES = 5


def say(**line: object) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def send_all(films: Sequence[Prepared], *, port: int, called_ae: str, pause_seconds: float) -> None:
    """A few associations, one study after the other; says of each what the answer was, None if there was none."""
    for start in range(0, len(films), STUDIES_PER_ASSOCIATION):
        group = films[start : start + STUDIES_PER_ASSOCIATION]
        with associated(group, port, called_ae) as association:
            for prepared in group:
                status = association.send_c_store(prepared.path).get("Status") if association else None
                say_sent(prepared, status)
                time.sleep(pause_seconds)


def say_sent(prepared: Prepared, status: int | None) -> None:
    say(
        study=prepared.study_instance_uid,
        shows=prepared.film.shows,
        truth=prepared.film.truth,
        syntax=prepared.transfer_syntax_uid,
        status=status,
        answered_at=time.time(),
    )


@contextmanager
def associated(films: Sequence[Prepared], port: int, called_ae: str) -> Iterator[Association | None]:
    """An association for these films, None if it is refused ``TRIES`` times."""
    ae = AE(ae_title="DEMO-PACS")
    for pair in sorted({(film.sop_class_uid, film.transfer_syntax_uid) for film in films}):
        ae.add_requested_context(*pair)
    for attempt in range(TRIES):
        association = ae.associate("127.0.0.1", port, ae_title=called_ae)
        if association.is_established:
            try:
                yield association
            finally:
                association.release()
            return
        time.sleep(0.5 * attempt)
    yield None


def read_arguments(arguments: Sequence[str] | None) -> Any:  # noqa: ANN401 - argparse
    parser = argparse.ArgumentParser(prog="python -m daemon.demo.sender", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--called-ae", required=True)
    parser.add_argument("--outbox", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--films", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause-seconds", type=float, default=0.3)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit 1 if nobody says go."""
    given = read_arguments(arguments)
    films = morning_from(given.films, given.count, given.seed) if given.films else None
    morning = synthetic_morning(given.count, given.seed) if films is None else films
    prepared = list(prepare(morning, given.outbox, given.seed))
    say(prepared=len(prepared))
    if prepared and not sys.stdin.readline():
        return 1
    send_all(prepared, port=given.port, called_ae=given.called_ae, pause_seconds=given.pause_seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
