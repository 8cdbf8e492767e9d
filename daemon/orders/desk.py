"""A message comes in, an answer goes out: taken and committed, or refused and kept, and only then told."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from daemon.absence import Absence
from daemon.metrics import ORDER_MESSAGES
from daemon.orders.answer import acknowledge
from daemon.orders.framing import Frame
from daemon.orders.header import Header, RefusalError, digest, read_header
from daemon.orders.message import orders_in
from daemon.telemetry import describe, log
from triage.order import Word
from triage.records.orders import TAKEN, Message, Orders
from triage.records.postgresql import is_away
from triage.records.store import DatabaseError, OperationError

SOURCE = "an order over HL7"


@dataclass(frozen=True, kw_only=True)
class Desk:
    """For the threads of all connections."""

    orders: Orders
    absence: Absence
    accession_fields: Sequence[str]

    def answer(self, frame: Frame, address: str) -> bytes | None:
        """None while the database is away: whoever gets no answer sends again."""
        began = time.monotonic()
        header, refusal = None, None
        try:
            header = read_header(frame.content)
            outcome = self._take(header, frame, address)
        except RefusalError as error:
            refusal, outcome = error, "refused"
        except DatabaseError as error:
            return self._unable(error, header)
        if refusal and not self._keep(header, refusal, frame, address):
            return None
        self.absence.over()
        ORDER_MESSAGES.labels(refusal.answer if refusal else TAKEN).inc()
        log().info(
            "order_message",
            address=address,
            outcome=outcome,
            status=refusal.answer if refusal else TAKEN,
            problem=f"{refusal.where}: {refusal.problem}" if refusal else None,
            seconds=time.monotonic() - began,
        )
        return acknowledge(header, refusal)

    def _take(self, header: Header, frame: Frame, address: str) -> str:
        if not frame.is_whole:
            raise RefusalError("AR", 207, "MSH", "message larger than hl7_message_kib_max")
        said = orders_in(header, self.accession_fields)
        message = Message(sha256=digest(header, frame.content), who=header.who, address=address)
        return self.orders.take(message, said, Word(who=header.who or address, source=SOURCE)).value

    def _keep(self, header: Header | None, refusal: RefusalError, frame: Frame, address: str) -> bool:
        message = Message(sha256=digest(header, frame.content), who=header.who if header else "", address=address)
        problem = f"{refusal.where}: {refusal.problem}"
        try:
            self.orders.refuse(message, refusal.answer, problem, frame.content)
        except DatabaseError as error:
            self._unable(error, header)
            return False
        return True

    def _unable(self, error: DatabaseError, header: Header | None) -> bytes | None:
        """Nothing was committed. What the database will refuse again is not to be sent for ever."""
        if is_away(error) or isinstance(error, OperationError):
            self.absence.noticed(error)
            return None
        log().error("order_failed", **describe(error))
        return acknowledge(header, RefusalError("AR", 207, "MSH", "not kept: the database refused it"))
