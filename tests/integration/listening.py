"""A listener to test against, and peers: a decent one (pynetdicom) and one that speaks single bytes."""

from __future__ import annotations

import dataclasses
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association

from daemon.dicom.association import AssociationSummary, Listener, ListenerLimits, StoreRequest

T = TypeVar("T")
VERIFICATION = "1.2.840.10008.1.1"
CR = "1.2.840.10008.5.1.4.1.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
QUICK = ListenerLimits(pdu_seconds=0.5, idle_seconds=5, acse_seconds=0.5, dimse_seconds=5)
A_ABORT = 7
USUAL = ((CR, [ExplicitVRLittleEndian]), (VERIFICATION, [ImplicitVRLittleEndian]))


def wait_for(ask: Callable[[], T], seconds: float = 10.0) -> T:
    """The first true answer. Raise TimeoutError, as `running.wait_for`: who does not look at the answer sees that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := ask():
            return answer
        time.sleep(0.01)
    raise TimeoutError(f"{getattr(ask, '__name__', ask)} stayed false for {seconds} s")


def stays_false(ask: Callable[[], object], seconds: float) -> bool:
    """Whether it never comes true within so long."""
    try:
        wait_for(ask, seconds)
    except TimeoutError:
        return True
    return False


@dataclass
class Received:
    """A StoreRequest with its data set copied."""

    request: StoreRequest
    data_set: bytes


@dataclass
class Site:
    """A running listener and what it reported."""

    listener: Listener
    others: frozenset[threading.Thread]
    received: list[Received] = field(default_factory=list)
    ends: list[AssociationSummary] = field(default_factory=list)
    discarded: int = 0

    @property
    def port(self) -> int:
        return self.listener.port

    def connect(self, source: str = "127.0.0.1", receive_seconds: float = 10) -> socket.socket:
        peer = socket.create_connection(("127.0.0.1", self.port), timeout=10, source_address=(source, 0))
        peer.settimeout(receive_seconds)
        return peer

    @contextmanager
    def associate(
        self,
        *contexts: tuple[str, list[str]],
        calling: str = "MODALITY",
        called: str = "TRIAGE",
        source: str = "127.0.0.1",
        **more: Any,
    ) -> Iterator[Association]:
        ae = AE(calling)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 15
        for abstract_syntax, transfer_syntaxes in contexts or USUAL:
            ae.add_requested_context(abstract_syntax, transfer_syntaxes)
        association = ae.associate("127.0.0.1", self.port, ae_title=called, bind_address=(source, 0), **more)
        try:
            yield association
        finally:
            if association.is_established:
                association.release()

    def can_echo(self) -> bool:
        with self.associate() as association:
            return association.is_established and association.send_c_echo().Status == 0

    def threads(self) -> list[threading.Thread]:
        """Those that run since the listener started: its own, and of peers. Not what other tests left."""
        return [thread for thread in threading.enumerate() if thread not in self.others]

    def last_end(self) -> AssociationSummary:
        assert wait_for(lambda: self.ends)
        return self.ends[-1]


@dataclass
class Kept:
    """A deposit in memory; the answer is made once the data set is whole."""

    request: StoreRequest
    answer: Callable[[StoreRequest], int]
    site: Site
    data_set: bytearray = field(default_factory=bytearray)

    def write(self, part: memoryview) -> None:
        self.data_set += part

    def finish(self) -> int:
        status = self.answer(self.request)
        self.site.received.append(Received(self.request, bytes(self.data_set)))
        return status

    def discard(self) -> None:
        self.site.discarded += 1


@contextmanager
def listening(on_store: Callable[[StoreRequest], int] | None = None, **changes: Any) -> Iterator[Site]:
    """Limits may be given by name beside the listener's own arguments."""
    names = {each.name for each in dataclasses.fields(ListenerLimits)}
    limits = dataclasses.replace(QUICK, **{name: changes.pop(name) for name in names & changes.keys()})

    def keep(request: StoreRequest) -> Kept:
        return Kept(request, on_store or (lambda _request: 0), site)

    ends: list[AssociationSummary] = []
    arguments: dict[str, Any] = {
        "ae_title": "TRIAGE", "host": "127.0.0.1", "port": 0, "limits": limits, "peers": [], "tls": None,
        "on_store": keep, "on_association_end": ends.append, "refuse": lambda: False,
    }  # fmt: skip
    site = Site(Listener(**(arguments | changes)), frozenset(threading.enumerate()), ends=ends)
    site.listener.start()
    try:
        yield site
    finally:
        assert site.listener.stop(0), "a connection outlived the listener"


def instance(uid: str = "1.2.3.4.5", sop_class: str = CR, pixel_bytes: int = 2000) -> Dataset:
    data_set = Dataset()
    data_set.SOPClassUID = sop_class
    data_set.SOPInstanceUID = uid
    data_set.StudyInstanceUID = "1.2.3"
    data_set.SeriesInstanceUID = "1.2.3.1"
    data_set.PatientName = "CANARY^PATIENT"
    data_set.PatientID = "CANARY"
    data_set.BitsAllocated = 16
    data_set.PixelRepresentation = 0
    data_set.PixelData = bytes(pixel_bytes)
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return data_set


def _sub(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def associate_rq(abstract_syntax: str = CR, transfer_syntax: str = ImplicitVRLittleEndian) -> bytes:
    """A-ASSOCIATE-RQ with one context, number 1 (PS3.8 9.3.2)."""
    context = b"\x01\0\0\0" + _sub(0x30, abstract_syntax.encode()) + _sub(0x40, transfer_syntax.encode())
    user = _sub(0x51, struct.pack(">L", 16384)) + _sub(0x52, b"1.2.3.4")
    items = _sub(0x10, b"1.2.840.10008.3.1.1.1") + _sub(0x20, context) + _sub(0x50, user)
    content = struct.pack(">HH16s16s32x", 1, 0, b"TRIAGE".ljust(16), b"MODALITY".ljust(16)) + items
    return pdu(1, content)


def pdu(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxL", kind, len(content)) + content


def p_data(control: int, fragment: bytes) -> bytes:
    """P-DATA-TF with one PDV of context 1. Control bits: 1 command, 2 last (PS3.8 annex E)."""
    return pdu(4, struct.pack(">LBB", len(fragment) + 2, 1, control) + fragment)


def element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, number, len(value)) + value


def us(number: int, value: int) -> bytes:
    return element(number, struct.pack("<H", value))


def store_rq(sop_instance_uid: bytes | None = b"1.2.3.4.5\0", message_id: int = 1) -> bytes:
    """Command set of a C-STORE-RQ (PS3.7 9.3.1.1)."""
    instance_uid = b"" if sop_instance_uid is None else element(0x1000, sop_instance_uid)
    elements = (
        element(0x0002, CR.encode() + b"\0") + us(0x0100, 1) + us(0x0110, message_id) + us(0x0700, 0) + us(0x0800, 1)
    ) + instance_uid
    return element(0x0000, struct.pack("<L", len(elements))) + elements


def read_pdu(peer: socket.socket) -> tuple[int, bytes]:
    """Kind and content; kind 0 at the end of the stream."""
    try:
        header = _read(peer, 6)
        if len(header) < 6:
            return 0, b""
        return header[0], _read(peer, struct.unpack(">L", header[2:])[0])
    except ConnectionError:
        return 0, b""


def _read(peer: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count and (more := peer.recv(count - len(received))):
        received += more
    return received


def status_of(content: bytes) -> int:
    """Status (0000,0900) of the response in a P-DATA-TF."""
    return int.from_bytes(content.rpartition(struct.pack("<HHL", 0, 0x0900, 2))[2][:2], "little")


def established(peer: socket.socket, request: bytes | None = None) -> socket.socket:
    peer.sendall(request or associate_rq())
    assert read_pdu(peer)[0] == 2
    return peer


def is_closed(peer: socket.socket) -> bool:
    """Wait for the end of the stream, past whatever is still sent."""
    try:
        while peer.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def sent_until_closed(peer: socket.socket, header: bytes, mib_max: int) -> int:
    """MiB that the other side let us send."""
    peer.sendall(header)
    for sent in range(mib_max):
        try:
            peer.sendall(bytes(2**20))
        except (ConnectionError, TimeoutError):
            return sent
    return mib_max
