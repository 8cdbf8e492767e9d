"""A real rsyslogd with the example's rules: what the daemon writes arrives as fields."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from absent import missing
from named import DEPLOY

RULES = DEPLOY / "logs" / "30-triage.conf"
WRITES = """
from daemon.telemetry import configure, log
configure("json", "info", "receiver")
fields = {"calling_ae": "PACS", "statuses": "0000:3", "stored": 3, "seconds": 0.25, "tls": True, "rejection": None}
log().info("association", **fields)
"""


@pytest.fixture
def rsyslogd() -> str:
    program = shutil.which("rsyslogd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        missing("rsyslogd (apt-get install rsyslog)")
    return str(program)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(60)
        yield listening


def configuration(folder: Path, port: int) -> Path:
    """The rules as shipped, but for the server: here, without TLS, which needs the site's certificates."""
    rules = RULES.read_text(encoding="utf-8")
    here = re.sub(r' StreamDriver\w*="[^"]*"', "", rules)
    here = here.replace('target="logs.example.org" port="6514"', f'target="127.0.0.1" port="{port}"')
    assert here.count(f'"{port}"') == 1
    source = f'module(load="imuxsock" SysSock.Name="{folder}/log")\n'
    path = folder / "rsyslog.conf"
    path.write_text(f'global(workDirectory="{folder}")\n{source}{here}\n*.* {folder}/rest\n', encoding="utf-8")
    return path


def test_the_rules_are_sound(rsyslogd: str) -> None:
    done = subprocess.run([rsyslogd, "-N1", "-f", str(RULES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr.lower(), done.stderr


def test_each_field_of_a_line_arrives_as_a_field(rsyslogd: str, server: socket.socket, tmp_path: Path) -> None:
    written = subprocess.run([sys.executable, "-c", WRITES], capture_output=True, text=True, check=True).stderr.strip()
    path = configuration(tmp_path, server.getsockname()[1])
    command = [rsyslogd, "-n", "-f", str(path), "-i", str(tmp_path / "pid")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        say(tmp_path / "log", f"<14>Nov 24 10:00:00 triage[7]: {written}")
        say(tmp_path / "log", "<14>Nov 24 10:00:00 sshd[8]: another program's")
        connection, _ = server.accept()
        with connection, connection.makefile("rb") as lines:
            arrived = json.loads(lines.readline())
    finally:
        process.terminate()
        process.wait(30)
    assert arrived.pop("host")
    assert arrived == json.loads(written)
    assert "association" not in (tmp_path / "rest").read_text(encoding="utf-8")


def say(place: Path, line: str) -> None:
    """As soon as somebody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        for _ in range(600):
            if place.exists():
                break
            time.sleep(0.1)
        sender.connect(str(place))
        sender.send(line.encode())
