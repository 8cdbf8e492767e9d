"""Hostile peers of a real daemon, and what they may cost it."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from pydicom import Dataset

import synthetic
from making import encoded

ROOMS = [str(Path(__file__).resolve().parents[1] / room) for room in ("acceptance", "integration")]
sys.path += [room for room in ROOMS if room not in sys.path]

import chests  # noqa: E402 - found just now
from listening import associate_rq, element, p_data, pdu, read_pdu, status_of, us  # noqa: E402 - the same
from running import Daemon, running, wait_for  # noqa: E402 - the same

MIB = 2**20
CR = "1.2.840.10008.5.1.4.1.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"
# Peers may be from any address of this machine, under these names.
__all__ = ["associate_rq", "chests", "replace", "socket"]
PEERS = {"dicom_strict_loopback": True, "dicom_peers": "PACS@127.0.0.0/8,PACS@::1,MODALITY@127.0.0.0/8"}
QUICK = {"dicom_pdu_seconds": 3, "dicom_acse_seconds": 3, "dicom_idle_seconds": 8}
FRAGMENT_BYTES = 100_000
# Connections that end are noticed within a second; a busy machine takes longer.
CALM_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one process."""

    rss: int
    threads: int
    descriptors: int


def cost(process: psutil.Process) -> Cost:
    with process.oneshot():
        return Cost(rss=process.memory_info().rss, threads=process.num_threads(), descriptors=process.num_fds())


def forget_peak(process: psutil.Process) -> None:
    Path(f"/proc/{process.pid}/clear_refs").write_text("5", encoding="ascii")  # proc(5): VmHWM begins anew


def peak_rss(process: psutil.Process) -> int:
    lines = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@dataclass
class Target:
    """A daemon with a receiver, and the process that is looked at."""

    daemon: Daemon
    process: psutil.Process

    @property
    def port(self) -> int:
        return self.daemon.dicom_port

    def connect(self, source: str = "127.0.0.1", seconds: float = 60) -> socket.socket:
        peer = socket.create_connection(("127.0.0.1", self.port), timeout=60, source_address=(source, 0))
        peer.settimeout(seconds)
        return peer

    def ends(self, calling_ae: str | None = None) -> list[str]:
        """Outcome of each connection so far."""
        lines = self.daemon.lines("association")
        return [str(line["outcome"]) for line in lines if calling_ae in {None, line["calling_ae"]}]

    def is_calm(self, before: Cost) -> bool:
        now = cost(self.process)
        return now.threads <= before.threads and now.descriptors <= before.descriptors + POOLED_DESCRIPTORS

    @contextmanager
    def costing_at_most(self, mib: int = 24, threads: int = 200, descriptors: int = 300) -> Iterator[Cost]:
        """Whatever happens within: bounded at its peak, gone afterwards, and a good peer is served."""
        wait_for(self.daemon.echo)
        wait_for(lambda: cost(self.process).threads <= IDLE_THREADS, CALM_SECONDS)
        before = cost(self.process)
        forget_peak(self.process)
        yield before
        now = cost(self.process)
        assert now.threads - before.threads <= threads
        assert now.descriptors - before.descriptors <= descriptors
        wait_for(lambda: self.is_calm(before), CALM_SECONDS)
        assert peak_rss(self.process) - before.rss < mib * MIB
        assert self.process.is_running()
        assert self.daemon.echo()
        told = self.daemon.log()
        assert "uncaught_exception" not in told
        assert "Traceback" not in told


# Main thread, accepting thread, and what the libraries of a receiver start.
IDLE_THREADS = 6
# Connections to the database stay open for the next film.
POOLED_DESCRIPTORS = 40


@contextmanager
def receiving(home: Path, inside: tuple[str, ...] = (), **settings: object) -> Iterator[Target]:
    """The receiver alone, in a process of its own."""
    with running(home, **{**PEERS, **QUICK, **settings}) as daemon:
        daemon.inside = inside
        started = daemon.start("receive")
        daemon.wait_for_log("receiving")
        yield Target(daemon, psutil.Process(started.pid))


@contextmanager
def sockets(connect: Callable[[int], socket.socket], count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(connect(number)) for number in range(count)]


def store_command(sop_class_uid: bytes, sop_instance_uid: bytes, message_id: int = 1) -> bytes:
    """Command set of a C-STORE-RQ (PS3.7 9.3.1.1) about whatever UIDs."""
    body = b"".join(
        (
            element(0x0002, sop_class_uid + b"\0" * (len(sop_class_uid) % 2)),
            us(0x0100, 1) + us(0x0110, message_id) + us(0x0700, 0) + us(0x0800, 1),
            element(0x1000, sop_instance_uid + b"\0" * (len(sop_instance_uid) % 2)),
        )
    )
    return element(0, len(body).to_bytes(4, "little")) + body


def store(peer: socket.socket, data_set: bytes, command: bytes) -> int | None:
    """On an association: the status, or None if it was ended instead."""
    try:
        peer.sendall(p_data(3, command))
        starts = range(0, len(data_set) or 1, FRAGMENT_BYTES)
        for start in starts:
            peer.sendall(p_data(2 if start == starts[-1] else 0, data_set[start : start + FRAGMENT_BYTES]))
        kind, content = read_pdu(peer)
    except (ConnectionError, TimeoutError):
        return None
    return status_of(content) if kind == 4 else None


def send_raw(
    daemon: Daemon, data_set: bytes, *, sop_class: str = CR, sop_instance: str = "1.2.3.1", syntax: str = EXPLICIT
) -> int | None:
    """Bytes that nobody has looked at, through the real port; None if there was no answer."""
    with socket.create_connection(("127.0.0.1", daemon.dicom_port), timeout=60) as peer:
        peer.sendall(associate_rq(sop_class, syntax))
        if read_pdu(peer)[0] != 2:
            return None
        status = store(peer, data_set, store_command(sop_class.encode(), sop_instance.encode("latin_1")))
        with suppress(OSError):
            peer.sendall(pdu(5, bytes(4)))
            read_pdu(peer)
        return status


# -- films ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A data set as it travels, and under which UIDs."""

    content: bytes
    study: str = ""
    sop: str = "1.2.3.1"
    sop_class: str = CR
    syntax: str = EXPLICIT

    def to(self, daemon: Daemon) -> int | None:
        """The status that it gets."""
        return send_raw(daemon, self.content, sop_class=self.sop_class, sop_instance=self.sop, syntax=str(self.syntax))


def good(**elements: Any) -> Dataset:
    """A small child's frontal film with UIDs of its own; ``elements`` by keyword, None deletes."""
    return chests.dataset(synthetic.film(rows=320, columns=320), **elements)


def travelling(made: Dataset, content: bytes | None = None) -> Sent:
    """As its sender would send it, or other bytes under its UIDs."""
    syntax = made.file_meta.TransferSyntaxUID
    return Sent(
        content=encoded(made) if content is None else content,
        study=str(made.get("StudyInstanceUID", "")),
        sop=str(made.SOPInstanceUID),
        sop_class=str(made.SOPClassUID),
        syntax=str(syntax),
    )


def raw(group: int, number: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """An element in Explicit VR, whatever it holds; ``length`` as it is stated."""
    stated = len(value) if length is None else length
    if vr in {b"OB", b"OW", b"SQ", b"UN", b"UT"}:
        return struct.pack("<HH2s2xL", group, number, vr, stated) + value
    return struct.pack("<HH2sH", group, number, vr, stated) + value


def inserted(made: Dataset, element: bytes) -> bytes:
    """The data set with an element more, at the place where its tag belongs."""
    tag = struct.unpack_from("<HH", element)
    before, after = Dataset(), Dataset()
    for each in made:
        (before if (each.tag.group, each.tag.element) < tag else after).add(each)
    return encoded(before) + element + encoded(after)


def outcome(daemon: Daemon, study: str) -> tuple[str, str | None]:
    """Analysis and reason of a listed study, once it is no longer pending."""
    entry = daemon.settled(study, 120)
    return entry["analysis"], entry["reason"]


def is_served(daemon: Daemon) -> bool:
    """Whether a good film that comes now is analysed."""
    film = travelling(good())
    return film.to(daemon) == 0 and outcome(daemon, film.study) == ("analysed", None)
