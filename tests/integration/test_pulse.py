"""Who ends a process whose loop hangs: its supervisor, systemd, or itself where nobody else would."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest

from daemon import pulse
from daemon.environment import Supervised

HANGS = """
import time
from unittest.mock import Mock
from daemon import pulse
pulse._LOST_SECONDS = 0.5
mine = pulse.Pulse(Mock(), "host/scheduler-1", "scheduler", None)
mine.loop("turn", 0.1)
mine.start()
time.sleep(120)
"""


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Instead of an end; set when this process would have ended itself."""
    event = threading.Event()
    monkeypatch.setattr(pulse, "end_hanging", event.set)
    monkeypatch.setattr(pulse, "_LOST_SECONDS", 0.5)
    monkeypatch.setattr(pulse, "_EVERY_SECONDS", 0.1)
    return event


@contextmanager
def hanging(child: Supervised | None) -> Iterator[None]:
    beating = pulse.Pulse(Mock(), "host/scheduler-1", "scheduler", child)
    beating.loop("turn", 0.1)
    beating.start()
    yield
    beating.stop()


def test_whom_nobody_looks_after_ends_itself_when_it_hangs() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1, done.stderr
    assert "loop_hangs" in done.stdout + done.stderr
    assert "process_hangs" in done.stdout + done.stderr


def test_a_child_that_hangs_is_left_to_its_supervisor(ended: threading.Event) -> None:
    beats, its_end = os.pipe2(os.O_NONBLOCK)
    with hanging(Supervised(name="scheduler", folder=None, beats=its_end)):
        assert not ended.wait(3)
    os.close(beats)
    os.close(its_end)


def test_a_service_that_hangs_is_left_to_systemd(
    ended: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with hanging(None):
        assert not ended.wait(3)
