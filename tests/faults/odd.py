"""A worker that is ill when a test says so."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from running import Daemon

PROGRAM = Path(__file__).with_name("odd_worker.py")


@contextmanager
def odd_worker(daemon: Daemon, ill: str, sign: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Named worker-1, its network loaded; ``ill`` as soon as ``sign`` is there."""
    with (daemon.home / f"{ill}.log").open("ab") as log:
        command = [sys.executable, PROGRAM, ill, sign, "work", "--name", "worker-1"]
        process = subprocess.Popen(command, env=daemon.environment, cwd=daemon.scratch, stdout=log, stderr=log)
    try:
        daemon.wait_for_log("model_loaded")
        yield process
    finally:
        process.kill()
        process.wait()
