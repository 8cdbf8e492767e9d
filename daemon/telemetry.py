"""Logs for machines and for people, without patient data by construction.

A line is an event from the code and fields from `FIELDS`; anything else is dropped before a renderer sees it. Studies
appear under a salted hash. Of an exception, only its type and where it was raised are told, never its text: pydicom and
the databases put values into theirs.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import logging
import os
import re
import secrets
import sys
import threading
import traceback
import warnings
from collections.abc import MutableMapping
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog

# Names of fields that may be logged. None of them ever holds a value of a data set; ``problem`` is in our own words.
FIELDS = frozenset(
    {
        "event", "level", "timestamp", "logger", "process", "version", "error", "where",
        "study", "instance", "outcome", "rejection", "reason", "status", "statuses", "duplicate", "conflict",
        "reopened", "deferred", "attempts", "worker", "calling_ae", "called_ae", "address", "host", "port",
        "stored", "failed", "echoes", "questions", "bytes_received", "kind", "asked", "workitem", "subscriber",
        "tls", "seconds", "queued_seconds", "decode_seconds", "score_seconds", "retry_seconds", "total_seconds",
        "flagged", "tier", "policy", "weights", "device", "threads", "batch", "database", "sqlite",
        "count", "queued", "buried", "free_mib", "signal", "exit_code", "child", "restarts", "setting", "problem",
        "schema", "schema_before", "access_id",
    }
)  # fmt: skip
_PLAIN = re.compile(r"[^\x20-\x7e]")
_TEXT_MAX = 200


def _allow_list(_: object, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Drop unknown fields; flatten values so that nobody can forge a line or colour a terminal."""
    return {name: _plain(value) for name, value in line.items() if name in FIELDS}


def _name_process(
    process: str,
    _: object,
    __: str,
    line: MutableMapping[str, Any],
) -> MutableMapping[str, Any]:
    return {"event": line.pop("event"), "process": process, **line}


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return round(value, 6) if isinstance(value, float) else value
    return _PLAIN.sub("?", str(value))[:_TEXT_MAX]


def configure(log_format: str, level: str, process: str) -> None:
    """Call once a process, first thing."""
    as_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    renderer: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(pad_event_to=28)
    structlog.configure(
        processors=[
            functools.partial(_name_process, process),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _allow_list,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),  # one write a line: processes share one stderr
        cache_logger_on_first_use=False,
    )
    _silence_libraries()
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def _silence_libraries() -> None:
    """Libraries log and warn with values in the text. What matters of theirs, our own code says."""
    logging.basicConfig(handlers=[logging.NullHandler()], force=True)
    logging.lastResort = None
    warnings.showwarning = _drop_warning


def _drop_warning(*_: object, **__: object) -> None:
    return


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    del trace
    if issubclass(kind, KeyboardInterrupt):
        return
    log().error("uncaught_exception", **describe(error))


def _log_uncaught_in_thread(uncaught: threading.ExceptHookArgs) -> None:
    if uncaught.exc_value is not None:
        log().error("uncaught_exception", **describe(uncaught.exc_value))


def describe(error: BaseException) -> dict[str, str]:
    """Type of an exception and the innermost frame; its text stays out."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return {"error": type(error).__name__, "where": where}


def log() -> structlog.typing.FilteringBoundLogger:
    """The logger; cheap enough to be called for each line."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger


class Pseudonym:
    """Names for studies in logs: the same within one installation, meaningless outside it."""

    def __init__(self, data_dir: Path) -> None:
        self._salt = _read_or_make_salt(data_dir / "salt")

    def __call__(self, uid: str) -> str:
        """16 hexadecimal digits."""
        return hmac.new(self._salt, uid.encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:16]


def _read_or_make_salt(path: Path) -> bytes:
    if not path.exists():
        aside = path.with_name(f"salt.{os.getpid()}")
        aside.touch(mode=0o600)
        aside.write_bytes(secrets.token_bytes(32))
        try:
            os.link(aside, path)  # whichever process comes first; the others use its salt
        except FileExistsError:
            pass
        finally:
            aside.unlink()
    return path.read_bytes()
