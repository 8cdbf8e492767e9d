"""What a look at one thing came to, in a line that holds no patient data, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from daemon.lifecycle import EXIT_AGAIN, EXIT_MEND
from daemon.telemetry import describe
from triage.errors import TriageError

RUNBOOK = "deploy/RUNBOOK.md"


class Grade(StrEnum):
    """``WARN`` may pass, or is worth a look; ``FAIL`` has to be mended by somebody."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Area(StrEnum):
    """Each has a section of its own in the runbook."""

    SETTINGS = "settings"
    DATA_FOLDER = "data-folder"
    DISK = "disk"
    PIXEL_STORE = "pixel-store"
    DATABASE = "database"
    SCHEMA = "schema"
    CLOCK = "clock"
    PORTS = "ports"
    PEERS = "peers"
    CERTIFICATES = "certificates"
    CODECS = "codecs"
    NETWORK = "network"
    WEB = "web"
    IDENTITY_PROVIDER = "identity-provider"
    PROCESSES = "processes"
    QUEUE = "queue"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """``fix``: what to do, "" where all is well."""

    area: Area
    grade: Grade
    words: str
    fix: str = ""

    @property
    def anchor(self) -> str:
        return "" if self.grade is Grade.OK else f"{RUNBOOK}#doctor-{self.area}"


Look = Callable[[], Iterable[Verdict]]


def ok(area: Area, words: str) -> Verdict:
    return Verdict(area=area, grade=Grade.OK, words=words)


def warn(area: Area, words: str, fix: str) -> Verdict:
    return Verdict(area=area, grade=Grade.WARN, words=words, fix=fix)


def fail(area: Area, words: str, fix: str) -> Verdict:
    return Verdict(area=area, grade=Grade.FAIL, words=words, fix=fix)


def looked(area: Area, look: Look) -> Iterator[Verdict]:
    """Whatever goes wrong is a verdict, too, of which no text but our own is repeated."""
    try:
        yield from look()
    except TriageError as error:
        yield fail(area, str(error), "mend what it names")
    except Exception as error:  # noqa: BLE001 - the other looks are still worth having
        told = describe(error)
        yield fail(
            area, f"could not be looked at: {told['error']} at {told['where']}", "see the section of the runbook"
        )


def exit_code(verdicts: Iterable[Verdict]) -> int:
    """0: all is well; 1: it may pass; 2: somebody has to mend something."""
    grades = {verdict.grade for verdict in verdicts}
    return EXIT_MEND if Grade.FAIL in grades else EXIT_AGAIN if Grade.WARN in grades else 0


def lines(verdicts: Iterable[Verdict]) -> Iterator[str]:
    """For people."""
    for each in verdicts:
        yield f"{each.grade:<4}  {each.area:<17}  {each.words}"
        if each.fix:
            yield f"      {'':<17}  -> {each.fix}; {each.anchor}"


def as_json(verdicts: Iterable[Verdict]) -> list[dict[str, Any]]:
    return [asdict(verdict) | {"anchor": verdict.anchor} for verdict in verdicts]
