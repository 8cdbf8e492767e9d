"""Where things are kept: the data folder, its disk, and the pixel store, tried by a file of our own."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from daemon.folder import fsync_folder
from daemon.kept import verify
from daemon.operating.verdict import Area, Verdict, fail, ok, warn
from daemon.settings import Settings
from daemon.spool import Spool, part10_header
from triage.errors import NotAnalysed

_SLOW_SECONDS = 0.5
_MIB = 2**20


def is_ours(settings: Settings) -> bool:
    """Whether we may make files there: what another user makes, the daemon could not remove."""
    try:
        return settings.data_dir.stat().st_uid == os.geteuid()
    except OSError:
        return False


def look_at_folder(settings: Settings) -> Iterator[Verdict]:
    """Nothing is made that was not there."""
    folder, area = settings.data_dir, Area.DATA_FOLDER
    try:
        status = folder.stat()
    except FileNotFoundError:
        yield from _not_there(folder)
        return
    except OSError as error:
        yield fail(area, f"data_dir {folder}: {error.strerror}", "run this as the user that the daemon runs as")
        return
    if not stat.S_ISDIR(status.st_mode):
        yield fail(area, f"data_dir {folder} is no folder", "name a folder of its own")
        return
    if status.st_uid != os.geteuid():
        words = f"data_dir {folder} belongs to user {status.st_uid}, and we are user {os.geteuid()}"
        yield fail(area, words, "run this as the user that the daemon runs as, or give it the folder (chown -R)")
        return
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield fail(area, f"data_dir {folder} is open to other users", f"chmod 700 {folder}")
    if not folder.is_absolute():
        yield warn(
            area, f"data_dir {folder} is another one in each working folder", "set TRIAGE_DATA_DIR to a whole path"
        )
    yield from _foreign_files(folder)
    yield from _durable(folder)
    yield from look_at_room(settings)


def _not_there(folder: Path) -> Iterator[Verdict]:
    parent = next(each for each in folder.absolute().parents if each.exists())
    if os.access(parent, os.W_OK | os.X_OK):
        yield warn(
            Area.DATA_FOLDER, f"data_dir {folder} is not there", "it is made at the first start; or set TRIAGE_DATA_DIR"
        )
    else:
        words = f"data_dir {folder} is not there, and {parent} lets us make nothing"
        yield fail(Area.DATA_FOLDER, words, f"mkdir -m 700 {folder}, and chown it to the daemon's user")


def _foreign_files(folder: Path) -> Iterator[Verdict]:
    """Those that a command run as root has left: the daemon cannot write them."""
    foreign = 0
    for path in folder.iterdir():
        with suppress(OSError):
            foreign += path.lstat().st_uid != os.geteuid()
    if foreign:
        words = f"{foreign} in data_dir {folder} belong to another user"
        yield fail(Area.DATA_FOLDER, words, f"chown -R {os.geteuid()} {folder}")


def _durable(folder: Path) -> Iterator[Verdict]:
    path = folder / f".doctor-{token_hex(8)}"
    try:
        began = time.monotonic()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, b"x" * 4096)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        fsync_folder(folder)
        seconds = time.monotonic() - began
    except OSError as error:
        yield fail(
            Area.DATA_FOLDER, f"data_dir {folder} takes no file: {error.strerror}", "mount it writable, with room"
        )
        return
    finally:
        path.unlink(missing_ok=True)
    if seconds > _SLOW_SECONDS:
        words = f"a file needs {seconds:.1f} s to be on the disk of data_dir"
        yield warn(Area.DISK, words, "films are acknowledged no faster: look at the disk, or move the folder")
    else:
        yield ok(Area.DATA_FOLDER, f"data_dir {folder} is ours alone; fsync takes {seconds * 1000:.0f} ms")


def free_mib(settings: Settings) -> int | None:
    """None where nobody can say."""
    with suppress(OSError):
        return shutil.disk_usage(settings.data_dir).free // _MIB
    return None


def look_at_room(settings: Settings) -> Iterator[Verdict]:
    """Of a folder that is not there nothing is said."""
    try:
        usage = shutil.disk_usage(settings.data_dir)
    except FileNotFoundError:
        return
    least, free = settings.disk_free_mib_min, usage.free // _MIB
    words = f"{free} MiB free, new studies are refused below {least}"
    if usage.total // _MIB < least:
        yield fail(Area.DISK, f"disk_free_mib_min {least} is more than the disk holds", "lower it, or move data_dir")
    elif free < least:
        yield fail(Area.DISK, words, "make room, or shorten retention_days")
    elif free < 2 * least:
        yield warn(Area.DISK, words, "make room soon, or shorten retention_days")
    else:
        yield ok(Area.DISK, words)


def look_at_store(settings: Settings, spool: Spool) -> Iterator[Verdict]:
    """Write, read and delete an object that names no study: nobody could list it. Only where `is_ours`."""
    where = settings.pixel_store or "the data folder"
    header = part10_header("1.2.840.10008.1.1", f"2.25.{int(token_hex(15), 16)}", "1.2.840.10008.1.2.1")
    sha256 = hashlib.sha256(header).hexdigest()
    try:
        spool.kept.check()
        stored = spool.write(header, b"")
        spool.let_go(stored)
        with spool.kept.reading(sha256) as path:
            verify(path, sha256)
    except (OSError, NotAnalysed) as error:
        words = f"{where} does not keep films: {type(error).__name__}: {error}"
        yield fail(
            Area.PIXEL_STORE, words, "films are answered with A700 meanwhile: see that it can be reached, and its keys"
        )
        return
    finally:
        with suppress(OSError):
            spool.kept.delete(sha256)
    yield ok(Area.PIXEL_STORE, f"{where} writes, reads and deletes")
