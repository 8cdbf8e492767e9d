"""Films kept in a bucket of any store that speaks S3: objects named as the files of a folder would be.

A PUT goes out with the sha256 of its content, which the store checks (x-amz-checksum-sha256), and its size is asked for
before anybody is told that it is kept: not every store checks. What is read back goes into a file of this process's
own. Every request has a deadline that includes its retries.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from daemon.kept import INSTANCES, QUARANTINE, KeptFile, name, room
from daemon.tray import Tray
from triage.errors import NotAnalysed, Reason, TriageError

SCHEME = "s3://"
# Larger ones go in parts, each with its own deadline; what a death leaves of them a rule of the bucket has to remove.
_PART_BYTES = 16 * 2**20
_PARTS_AT_ONCE = 4
_CHUNK_BYTES = 2**20
_CONNECT_SECONDS_MAX = 5.0
_RETRIES_MAX = 10
# Answers that no retry mends: no such bucket, keys that are wrong or may not.
_NO_BUCKET = "NoSuchBucket"
_REFUSALS = ("404 Not Found", "403 Forbidden", "401 Unauthorized", "301 Moved", "400 Bad Request")


class PixelStoreError(OSError):
    """The store cannot be reached, or did not do as asked."""

    def __init__(self, problem: str) -> None:
        super().__init__(errno.EIO, problem)


class Bucket:
    """The verbs of `daemon.kept.Kept`. ``where``: s3://BUCKET/PREFIX; ``tray``: for copies that are being read.

    Credentials come from the usual AWS_* environment or the machine's role, and are nobody's business here.
    """

    def __init__(self, where: str, tray: Tray, *, seconds: float, endpoint: str = "") -> None:
        self._where = where
        self._tray = tray
        self._store = _store(where, endpoint, seconds)

    def prepare(self) -> None:
        self._tray.prepare()
        self._tray.clear_dead()  # copies that a reader's death left behind

    def check(self) -> None:
        try:
            next(iter(obstore.list(self._store, INSTANCES, chunk_size=1)), None)
        except BaseError as error:
            refusal = next((words for words in _REFUSALS if words in str(error)), None)
            if refusal is None:
                raise PixelStoreError("cannot be reached") from None
            raise TriageError(f"pixel_store {self._where}: the store answers {refusal}") from None

    def keep(self, aside: Path, sha256: str, size_bytes: int) -> Path:
        key = f"{INSTANCES}/{name(sha256)}"
        with _complaining("PUT"):
            obstore.put(self._store, key, aside, chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE)
            kept_bytes = obstore.head(self._store, key)["size"]
        if kept_bytes != size_bytes:
            self.delete(sha256)  # nobody is to take it for the film
            raise PixelStoreError(f"kept {kept_bytes} bytes of {size_bytes}")
        return aside

    @contextmanager
    def reading(self, sha256: str, *, quarantined: bool = False) -> Iterator[Path]:
        copy = self._tray.place()
        try:
            self._fetch(f"{room(quarantined=quarantined)}/{name(sha256)}", copy)
            yield copy
        finally:
            copy.unlink(missing_ok=True)

    def _fetch(self, key: str, copy: Path) -> None:
        try:
            with _complaining("GET"), copy.open("xb") as file:
                for chunk in obstore.get(self._store, key).stream(_CHUNK_BYTES):
                    file.write(chunk)
        except FileNotFoundError as error:
            is_gone = _NO_BUCKET not in str(error)
            raise NotAnalysed(Reason.PIXELS_DAMAGED if is_gone else Reason.PIXELS_UNREADABLE) from None
        except OSError:
            raise NotAnalysed(Reason.PIXELS_UNREADABLE) from None

    def quarantine(self, sha256: str) -> None:
        here, there = f"{INSTANCES}/{name(sha256)}", f"{QUARANTINE}/{name(sha256)}"
        with _complaining("COPY"):
            try:
                obstore.rename(self._store, here, there)
            except FileNotFoundError:
                obstore.head(self._store, there)

    def delete(self, sha256: str, *, quarantined: bool = False) -> None:
        with _complaining("DELETE"):
            obstore.delete(self._store, f"{room(quarantined=quarantined)}/{name(sha256)}")

    def files(self, older_than_seconds: float, *, quarantined: bool = False) -> Iterator[KeptFile]:
        newest = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
        with _complaining("LIST"):
            for objects in obstore.list(self._store, room(quarantined=quarantined)):
                for each in objects:
                    if each["last_modified"] <= newest:
                        sha256 = Path(each["path"]).stem
                        yield KeptFile(sha256=sha256, size_bytes=each["size"], written_at=each["last_modified"])


def _store(where: str, endpoint: str, seconds: float) -> S3Store:
    """A request is given up at half of ``seconds``, and none is begun after that half: together no more than all."""
    bucket, _, prefix = where.removeprefix(SCHEME).partition("/")
    half = timedelta(seconds=seconds / 2)
    return S3Store(
        bucket,
        prefix=prefix.strip("/") or None,
        config={"checksum_algorithm": "sha256", **({"endpoint": endpoint} if endpoint else {})},
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": min(half, timedelta(seconds=_CONNECT_SECONDS_MAX)),
            "timeout": half,
        },
        retry_config={"max_retries": _RETRIES_MAX, "retry_timeout": half},
    )


@contextmanager
def _complaining(verb: str) -> Iterator[None]:
    """The library's words hold addresses and keys; of them only the kind goes on."""
    try:
        yield
    except BaseError as error:
        raise PixelStoreError(f"{verb}: {type(error).__name__}") from None
