"""What a person who helps from afar needs to see, in one file: no patient data, no secrets, no films.

Every file in it is made of numbers, names of our own and settings; of a log only lines are taken that are ours.
"""

from __future__ import annotations

import io
import json
import os
import platform
import re
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import distributions
from itertools import islice
from pathlib import Path
from typing import Any

from daemon.environment import table
from daemon.house import House, operating_point
from daemon.operating.databases import store_of
from daemon.operating.doctor import examine
from daemon.operating.status import status
from daemon.operating.verdict import as_json
from daemon.telemetry import FIELDS
from triage.errors import TriageError
from triage.records.inspection import inspect_database, size_bytes, tables
from triage.records.store import DatabaseError, shown_url

_LINES_MAX = 5000
_LOG_BYTES_MAX = 64 * 2**20
_EVENT = re.compile(r"[a-z0-9_]{1,64}")
_NEEDED = ("event", "level", "timestamp", "process")
# Where a program of ours has to say something in words.
_WORDS = re.compile(r"[\x20-\x7e]{0,200}")
# Under a salted hash alone, see `daemon.telemetry.Pseudonym`.
_HASHED, _HASH = ("study", "instance", "workitem"), re.compile(r"[0-9a-f]{16}")
_USER_INFO = re.compile(r"//[^/@]*@")
# A tag value never comes into our lines; a line that looks as if one did is not ours.
_NOT_OURS = re.compile(r"\^")


def bundle(house: House, file: Path, logs: Sequence[Path] = (), *, quick: bool = False) -> dict[str, int]:
    """Bytes by name of what is in it. Raise TriageError."""
    content = dict(_content(house, quick=quick))
    for number, log in enumerate(logs, start=1):
        content[f"log-{number}.jsonl"] = _our_lines(log)
    aside = file.with_name(f".{file.name}.part")
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as out:
            _write(out, content)
        aside.replace(file)
    except OSError as error:
        raise TriageError(f"{file}: {error.strerror}") from error
    finally:
        aside.unlink(missing_ok=True)
    return {name: len(text) for name, text in content.items()}


def _write(out: Any, content: dict[str, str]) -> None:  # noqa: ANN401 - a binary file
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, text in content.items():
            raw = text.encode()
            entry = tarfile.TarInfo(f"triage-support/{name}")
            entry.size, entry.mtime, entry.mode = len(raw), int(time.time()), 0o600
            archive.addfile(entry, io.BytesIO(raw))


def _content(house: House, *, quick: bool) -> Iterator[tuple[str, str]]:
    yield "versions.json", _json(_versions())
    yield "settings.json", _json(_settings(house))
    yield "doctor.json", _json(as_json(examine(house, quick=quick)))
    try:
        yield "status.json", _json(status(house).told())
        yield "database.json", _json(_database(house))
    except (TriageError, DatabaseError) as error:
        yield (
            "database.json",
            _json({"problem": str(error) if isinstance(error, TriageError) else type(error).__name__}),
        )


def _versions() -> dict[str, Any]:
    packages = {each.metadata["Name"]: each.version for each in distributions()}
    system = {"system": platform.platform(), "machine": platform.machine(), "cores": os.cpu_count()}
    return {"python": sys.version, **system, "packages": dict(sorted(packages.items()))}


def _settings(house: House) -> dict[str, Any]:
    rows = {row.name: _USER_INFO.sub("//***@", row.value) for row in table(house.settings)}
    rows["TRIAGE_DATABASE_URL"] = shown_url(house.settings.url)
    return {
        "settings": rows,
        "policy": asdict(house.policy),
        "operating_point": operating_point(house.settings, house.policy),
    }


def _database(house: House) -> dict[str, Any]:
    store = store_of(house.settings, house.process)
    if store is None:
        return {"problem": "there is none yet"}
    try:
        found = inspect_database(store)
        counted = {name: asdict(each) for name, each in tables(store).items()}
        return {"database": asdict(found), "bytes": size_bytes(store), "tables": counted}
    finally:
        store.engine.dispose()


def _our_lines(log: Path) -> str:
    """The last of them, and how many there were that are none of ours."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_BYTES_MAX))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError as error:
        raise TriageError(f"{log}: {error.strerror}") from error
    ours = [line for line in map(_our_line, lines) if line]
    dropped = json.dumps({"event": "lines_left_out", "count": len(lines) - len(ours)})
    return "\n".join([*islice(ours, max(0, len(ours) - _LINES_MAX), None), dropped]) + "\n"


def _our_line(line: str) -> str:
    """Written anew from what may stand in it; "" if it is not of the form that this daemon writes."""
    try:
        told = json.loads(line)
    except ValueError:
        return ""
    if not isinstance(told, dict) or not all(isinstance(told.get(name), str) for name in _NEEDED):
        return ""
    if set(told) - FIELDS or not _EVENT.fullmatch(told["event"]) or not _is_moment(told["timestamp"]):
        return ""
    hashes = (told[name] for name in _HASHED if told.get(name) is not None)
    is_ours = all(map(_is_plain, told.values())) and all(_HASH.fullmatch(str(each)) for each in hashes)
    return json.dumps(told) if is_ours else ""


def _is_plain(value: object) -> bool:
    if value is None or isinstance(value, bool | int | float):
        return True
    return isinstance(value, str) and bool(_WORDS.fullmatch(value)) and not _NOT_OURS.search(value)


def _is_moment(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _json(told: object) -> str:
    return json.dumps(told, default=_told, indent=2) + "\n"


def _told(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else str(value)
