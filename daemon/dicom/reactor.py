"""pynetdicom's upper layer, for the negotiation alone: it ends with a traceback nowhere, and hands its socket on.

Overrides private names of pynetdicom 3.0.4; a test holds the version and those names.
"""

from __future__ import annotations

import time
from copy import copy
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import StateMachine
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.timer import Timer

from daemon.dicom.guard import GuardedSocket, Journal, ListenerLimits, Outcome

if TYPE_CHECKING:
    from pynetdicom.association import Association
    from pynetdicom.pdu_primitives import A_ASSOCIATE

_A_ASSOCIATE_RQ = 1
# storescu proposes 128 contexts in 10 kB.
_USUAL_BYTES_MAX = 16 * 1024
# How its item begins (PS3.7 D.3.3.7): nobody's password is remembered.
_USER_IDENTITY = b"\x58\0"
# PS3.8 table 9-3: association established and ready for data transfer.
ESTABLISHED = "Sta6"


class MonotonicTimer(Timer):
    """A step of the wall clock neither ends an association nor keeps a silent one."""

    def start(self) -> None:
        self._start_time = time.monotonic()
        self._end_time = None

    def stop(self) -> None:
        self._end_time = time.monotonic()

    @property
    def elapsed(self) -> float:
        return 0.0 if self._start_time is None else (self._end_time or time.monotonic()) - self._start_time

    @property
    def remaining(self) -> float:
        return 1.0 if self.timeout is None else self.timeout - self.elapsed


class JournalledStateMachine(StateMachine):
    """Notes why an association ended before it was one (PS3.8 table 9-10)."""

    _OUTCOMES = {  # noqa: RUF012 - constant
        "Evt8": Outcome.REJECTED,
        "Evt17": Outcome.CLOSED,
        "Evt18": Outcome.TIMEOUT,
    }

    def __init__(self, dul: DULServiceProvider, journal: Journal) -> None:
        super().__init__(dul)
        self._journal = journal

    def do_action(self, event: str) -> None:
        super().do_action(event)
        if self.current_state in {"Sta1", "Sta13"}:
            self._journal.note(self._OUTCOMES.get(event, Outcome.ABORTED))


class _Request(A_ASSOCIATE_RQ):
    """A-ASSOCIATE-RQ that a sender says again for each association: it is taken apart once. Nobody changes it."""

    @cached_property
    def _primitive(self) -> A_ASSOCIATE:
        return super().to_primitive()

    def to_primitive(self) -> A_ASSOCIATE:
        return copy(self._primitive)


@lru_cache(maxsize=32)
def _request(content: bytes) -> _Request:
    made = _Request()
    made.decode(content)
    return made


class GuardedDUL(DULServiceProvider):
    """The thread that reads and writes the socket until the association is established, or comes to nothing."""

    socket: GuardedSocket

    def __init__(self, assoc: Association, limits: ListenerLimits, journal: Journal) -> None:
        super().__init__(assoc)
        self.daemon = True
        self.has_established = False
        self._journal = journal
        self._run_loop_delay = 0  # GuardedSocket.ready does the waiting
        self.artim_timer = MonotonicTimer(limits.acse_seconds)
        self.state_machine = JournalledStateMachine(self, journal)

    def run_reactor(self) -> None:
        try:
            super().run_reactor()
        except Exception:  # noqa: BLE001 - bytes or a state nobody foresaw cost this connection only
            self._journal.note(Outcome.ABORTED)
        finally:
            self._kill_thread = True
            if not self.has_established:
                self.socket._shutdown_socket()  # noqa: SLF001 - our override
            # The association waits for a first request: it need not wait out its time.
            self.to_user_queue.put(None)  # type: ignore[arg-type]  # what a timed-out get gives

    def _is_transport_event(self) -> bool:
        """From the acceptance on nothing more is read here: what comes is for the association's own thread."""
        if self.state_machine.current_state == ESTABLISHED:
            self.has_established = self._kill_thread = True
            return False
        return super()._is_transport_event()

    def _decode_pdu(self, bytestream: bytearray) -> Any:  # noqa: ANN401 - a PDU and its event
        """A hundred proposals take 5 ms: of those that are usual, at most once."""
        is_usual = len(bytestream) <= _USUAL_BYTES_MAX and _USER_IDENTITY not in bytestream
        if bytestream[0] == _A_ASSOCIATE_RQ and is_usual:
            return _request(bytes(bytestream)), "Evt6"
        return super()._decode_pdu(bytestream)

    def _read_pdu_data(self) -> None:
        self.socket.begin_pdu()
        super()._read_pdu_data()
