"""Wakes the workers the moment a job is queued: nobody polls, nobody waits.

PostgreSQL rings by NOTIFY in the transaction that queues the job. Beside SQLite, which cannot, each worker has a
datagram socket in the data folder and whoever queues a job sends to all of them, after the commit. A ring that is lost
costs little: a worker looks for itself once a second.
"""

from __future__ import annotations

import os
import select
import socket
from contextlib import suppress
from pathlib import Path

import psycopg

from triage.records.store import JOBS_CHANNEL, Store

_FOLDER = "bells"


class _Folder:
    """The folder of bells under a short name: a socket's path has room for 107 bytes, unix(7)."""

    def __init__(self, data_dir: Path) -> None:
        folder = data_dir / _FOLDER
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.path = Path(f"/proc/self/fd/{self.descriptor}")

    def close(self) -> None:
        os.close(self.descriptor)


def _socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


class Ringer:
    """Rings every worker of this machine. Nothing to do on PostgreSQL."""

    def __init__(self, store: Store, data_dir: Path) -> None:
        self._needed = store.backend == "sqlite"
        self._folder = _Folder(data_dir)
        self._socket = _socket()

    def ring(self) -> None:
        """Never blocks, never fails: a full socket is a worker that is about to look anyway."""
        if not self._needed:
            return
        for name in os.listdir(self._folder.descriptor):  # noqa: PTH208 - for every film; paths take longer
            try:
                self._socket.sendto(b"!", f"{self._folder.path}/{name}")
            except (ConnectionRefusedError, FileNotFoundError):
                (self._folder.path / name).unlink(missing_ok=True)  # its worker is gone
            except OSError:
                continue

    def close(self) -> None:
        self._socket.close()
        self._folder.close()


class SocketBell:
    """What a worker listens to beside SQLite."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = _Folder(data_dir)
        self._path = self._folder.path / str(os.getpid())
        self._path.unlink(missing_ok=True)
        self._socket = _socket()
        self._socket.bind(str(self._path))

    def wait(self, seconds: float) -> bool:
        """Return at a ring (True) or after ``seconds``. Rings since the last wait count."""
        rung = bool(select.select([self._socket], [], [], seconds)[0])
        with suppress(BlockingIOError):
            while self._socket.recv(16):
                pass
        return rung

    def close(self) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)
        self._folder.close()


class PostgresBell:
    """What a worker listens to beside PostgreSQL: LISTEN on a connection of its own, made again when it breaks."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._connection: psycopg.Connection | None = None

    def wait(self, seconds: float) -> bool:
        """Return at a ring (True) or after ``seconds``; at once on a new connection: rings may have been missed.

        However many there were since the last wait, they count as one: the worker looks once, not a thousand times.
        """
        try:
            if self._connection is None:
                self._connection = self._store.own_connection()
                self._connection.execute(f"LISTEN {JOBS_CHANNEL}")
                return True
            rung = list(self._connection.notifies(timeout=seconds, stop_after=1))
            while list(self._connection.notifies(timeout=0)):
                continue
            return bool(rung)
        except psycopg.OperationalError:
            self.close()
            select.select([], [], [], min(seconds, 1.0))
        return False

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def bell(store: Store, data_dir: Path) -> SocketBell | PostgresBell:
    """The bell that goes with the database."""
    return SocketBell(data_dir) if store.backend == "sqlite" else PostgresBell(store)
