"""SIGHUP: what can change is read anew, and nothing ends by it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from typing import Any

PROCESS = """
import os, sys
from daemon import lifecycle, telemetry
say = lambda line: os.write(1, line.encode() + b"\\n")  # at once: two threads say something
telemetry.configure("json", "info", "test")
stop = lifecycle.stop_on_signals()
def fails():
    raise ValueError("a secret")
lifecycle.on_reload(fails)
lifecycle.on_reload(lambda: say("read anew"))
say("up")
stop.wait(60)
say("stopped" if stop.is_set() else "left")
"""
STARTED_HELD_BACK = """
import os, signal, subprocess, sys
from daemon.lifecycle import _reload_held_back
with _reload_held_back():
    child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
child.send_signal(signal.SIGHUP)
sys.exit(child.wait())
"""


def started(*command: str, **how: Any) -> subprocess.Popen[str]:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", *command], **{**pipes, **how})


def test_sighup_runs_all_that_reads_anew_though_one_fails_and_ends_nothing() -> None:
    with started(PROCESS, start_new_session=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        for _ in range(2):
            process.send_signal(signal.SIGHUP)
            assert process.stdout.readline() == "read anew\n"
        process.terminate()
        told, log = process.communicate(timeout=60)
    assert (told, process.returncode) == ("stopped\n", 0)
    assert log.count("reload_failed") == 2
    assert "ValueError" in log
    assert "a secret" not in log


def test_a_child_that_is_only_just_starting_reads_anew_once_it_can() -> None:
    with started(STARTED_HELD_BACK, PROCESS.replace("stop.wait(60)", "stop.wait(5)")) as process:
        told, _ = process.communicate(timeout=60)
    assert (sorted(told.split("\n")), process.returncode) == (["", "left", "read anew", "up"], 0)


def test_closing_the_terminal_still_ends_it() -> None:
    terminal, its_end = pty.openpty()
    takes_it = "import os; os.close(os.open(os.ttyname(0), os.O_RDWR))\n"
    with started(takes_it + PROCESS, stdin=its_end, start_new_session=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        os.close(its_end)
        os.close(terminal)
        told, _ = process.communicate(timeout=60)
    assert (told, process.returncode) == ("stopped\n", 0)
