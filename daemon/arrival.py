"""From a durable file to a study on the worklist: what arrived, and does it say the same as its command?

The File Meta Information holds what the C-STORE command said, so that a file can be judged again after a crash.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from pydicom.filereader import read_file_meta_info

from daemon.kept import Kept, StoredFile
from daemon.telemetry import describe, log
from triage.errors import NotAnalysed, Reason
from triage.policy import ANALYSED_SOP_CLASSES
from triage.records.intake import Receipt
from triage.records.postgresql import is_away
from triage.records.store import DatabaseError
from triage.study import Header, ReceivedInstance
from triage.vision.header import parse_head, parse_header, parse_identifiers

# No value of another form becomes part of an address, where ".." means something else.
_UID = re.compile(r"(?!.{65})[0-9]+(\.[0-9]+)*")


class ContradictionError(Exception):
    """The data set is another object than its command says; its bytes are in quarantine."""


class UnidentifiableError(Exception):
    """The data set is empty or names no SOP instance; its bytes are in quarantine, and its study, if any, is listed."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """The UIDs of the C-STORE command, and how its data set begins."""

    command: Header
    first_bytes: bytes | bytearray = field(repr=False)


class Takes(Protocol):
    """What takes instances in: the database, or whatever stands before it."""

    def receive(self, received: ReceivedInstance) -> Receipt:
        """Raise DatabaseError."""


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """Turns stored files into rows. Repeating it for the same file changes nothing.

    ``arrived_at``: by the database's clock, of files that came before and were found now.
    """

    kept: Kept
    intake: Takes
    arrived_at: datetime | None = None

    def admit(
        self, stored: StoredFile, calling_ae: str = "", head: Head | None = None
    ) -> tuple[ReceivedInstance, Receipt]:
        """Raise ContradictionError or UnidentifiableError once the bytes are in quarantine and the study is listed.

        ``head``: what is known of the file without reading it.
        """
        command = head.command if head else _command(stored)
        try:
            header = (head and parse_head(head.first_bytes, command.transfer_syntax_uid)) or parse_header(stored.path)
        except NotAnalysed as outcome:
            return self._receive(stored, _identified(stored, command), calling_ae, outcome.reason)
        nameless = not header.sop_instance_uid or not header.sop_class_uid
        if nameless or not _same(header, command):
            refused = UnidentifiableError if nameless else ContradictionError
            if _UID.fullmatch(header.study_instance_uid):  # first: else nobody would try again
                try:
                    self._receive(stored, _named(header, command), calling_ae, Reason.QUARANTINED)
                except ContradictionError:  # the database is away: it is set aside once it can be listed
                    raise refused from None
            self.kept.quarantine(stored.sha256)
            raise refused
        if not _UID.fullmatch(header.study_instance_uid):
            return self._receive(stored, _keyed(header), calling_ae, Reason.IDENTITY_CONFLICT)
        reason = None if header.sop_class_uid in ANALYSED_SOP_CLASSES else Reason.UNSUPPORTED_SOP_CLASS
        return self._receive(stored, header, calling_ae, reason)

    def _receive(
        self, stored: StoredFile, header: Header, calling_ae: str, reason: Reason | None
    ) -> tuple[ReceivedInstance, Receipt]:
        received = ReceivedInstance(
            header=header,
            sha256=stored.sha256,
            size_bytes=stored.size_bytes,
            calling_ae=calling_ae,
            quarantined=reason is Reason.QUARANTINED,
            not_analysed=reason,
            arrived_at=self.arrived_at,
            found=self.arrived_at is not None,
        )
        return received, self._recorded(received)

    def _recorded(self, received: ReceivedInstance) -> Receipt:
        """A deadlock or a connection that broke is worth a second try: for many senders a failure is final."""
        try:
            return self.intake.receive(received)
        except DatabaseError as error:
            if is_away(error):
                raise  # see `daemon.outage`
            log().warning("database_tried_again", **describe(error))
            return self.intake.receive(received)


def _identified(stored: StoredFile, command: Header) -> Header:
    """Of a file that breaks somewhere: under its study if it can be read so far, else under a key of our own."""
    with suppress(NotAnalysed):
        header = parse_identifiers(stored.path)
        if _same(header, command) and _UID.fullmatch(header.study_instance_uid):
            return header
    return _keyed(command)


def _command(stored: StoredFile) -> Header:
    meta = read_file_meta_info(stored.path)
    return Header(
        sop_class_uid=str(meta.MediaStorageSOPClassUID),
        sop_instance_uid=str(meta.MediaStorageSOPInstanceUID),
        study_instance_uid="",
        transfer_syntax_uid=str(meta.TransferSyntaxUID),
    )


def _same(header: Header, command: Header) -> bool:
    return (header.sop_class_uid, header.sop_instance_uid) == (command.sop_class_uid, command.sop_instance_uid)


def _named(header: Header, command: Header) -> Header:
    """Under the UIDs of its command where it has none."""
    return replace(
        header,
        sop_class_uid=header.sop_class_uid or command.sop_class_uid,
        sop_instance_uid=header.sop_instance_uid or command.sop_instance_uid,
    )


def _keyed(header: Header) -> Header:
    """Give an object that names no usable study one of its own: the same each time (form: PS3.5 annex B.2)."""
    digest = hashlib.sha256(header.sop_instance_uid.encode("utf-8", "replace")).digest()
    return replace(header, study_instance_uid=f"2.25.{int.from_bytes(digest[:16], 'big')}")
