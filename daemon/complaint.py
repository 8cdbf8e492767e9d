"""What is said of a database that does not do as asked: in our own words, and whether waiting may help."""

from __future__ import annotations

from daemon.settings import Settings
from triage.errors import TriageError

# What may be repeated of a database's complaint; the rest of its text stays out of sight.
_COMPLAINTS = (
    "connection refused", "timeout expired", "timed out", "no route to host", "network is unreachable",
    "failed to resolve host", "password authentication failed", "no password supplied", "no pg_hba.conf entry",
    "does not exist", "permission denied", "starting up", "shutting down", "too many clients",
    "unable to open database file", "readonly database", "database is locked", "disk i/o error", "disk is full",
    "not a database", "malformed",
)  # fmt: skip
# Of SQLite's, what may end although nobody mends anything here.
_PASSING = ("database is locked", "disk i/o error", "disk is full", "readonly database")
_DAMAGED = ("not a database", "malformed")


class DatabaseUnavailableError(TriageError):
    """The database cannot be reached now; nobody has to mend anything here for it to come back."""


def refusal(error: Exception, settings: Settings) -> TriageError:
    """For a DatabaseError: DatabaseUnavailableError where it may pass by itself."""
    from triage.records.store import shown_url

    told, file = complaint(error), settings.sqlite_file
    remedy = ""
    if file is not None and told in _DAMAGED:
        remedy = f"; move {file.name}, {file.name}-wal and {file.name}-shm aside, then run `triage rebuild`"
    kind = DatabaseUnavailableError if may_pass(error, settings) else TriageError
    return kind(f"database_url {shown_url(settings.url)}: {told}{remedy}")


def absent(settings: Settings) -> TriageError:
    """For a SQLite database that nobody has begun, where only looking was asked for."""
    return TriageError(f"no database at {settings.sqlite_file}; is TRIAGE_DATA_DIR set?")


def may_pass(error: Exception, settings: Settings) -> bool:
    """Whether a database that did this may do as asked later."""
    from triage.records.store import OperationError

    return isinstance(error, OperationError) and (settings.sqlite_file is None or complaint(error) in _PASSING)


def complaint(error: Exception) -> str:
    told = str(error).lower()
    return next((words for words in _COMPLAINTS if words in told), f"cannot be opened ({type(error).__name__})")
