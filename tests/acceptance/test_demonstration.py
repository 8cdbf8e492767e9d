"""`triage demo` as a person runs it: real processes, real associations, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest


def start(tmp_path: Path, *options: str) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TRIAGE_")}
    environment |= {"TRIAGE_DICOM_PORT": "0", "TRIAGE_HTTP_PORT": "0", "TMPDIR": str(tmp_path), "COLUMNS": "160"}
    command = [sys.executable, "-m", "daemon.cli", "demo", *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_demo_ends_by_itself_and_leaves_nothing(tmp_path: Path) -> None:
    with start(tmp_path, "--count", "4") as demo:
        text, _ = demo.communicate(timeout=180)
    assert demo.returncode == 0, text
    assert "Sent 4 studies, received 4" in text
    assert "Still pending" not in text
    assert "As they will be read" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_that_stays_ends_when_asked_and_takes_its_processes_along(tmp_path: Path, number: int) -> None:
    with start(tmp_path, "--count", "2", "--stay") as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "stays at http://127.0.0.1:" in line:
                break
        children = psutil.Process(demo.pid).children(recursive=True)
        assert children
        demo.send_signal(number)
        demo.communicate(timeout=60)
    assert not psutil.wait_procs(children, timeout=10)[1]
    assert list(tmp_path.iterdir()) == []


def test_killed_demo_leaves_no_process(tmp_path: Path) -> None:
    with start(tmp_path, "--count", "2") as demo:
        assert demo.stdout is not None
        demo.stdout.readline()
        time.sleep(2)
        children = psutil.Process(demo.pid).children(recursive=True)
        assert children
        demo.kill()
    assert not psutil.wait_procs(children, timeout=60)[1]


def test_folder_without_films_is_said_in_one_line(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with start(tmp_path, "--films", str(empty)) as demo:
        text, _ = demo.communicate(timeout=120)
    assert demo.returncode == 2
    assert "no film of the folder could be read" in text
    assert "Traceback" not in text
