"""The threads of one association: upper layer and DIMSE, without busy waiting, tracebacks or unbounded memory.

Overrides private names of pynetdicom 3.0.4; a test holds the version and those names.
"""

from __future__ import annotations

import io
import queue
import time
from typing import TYPE_CHECKING

from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import StateMachine
from pynetdicom.timer import Timer

from daemon.dicom.guard import QUIET_SECONDS, GuardedSocket, Journal, ListenerLimits, Outcome

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer
    from pynetdicom.association import Association
    from pynetdicom.dimse import _QueueItem
    from pynetdicom.pdu_primitives import P_DATA

COMMAND_SET_BYTES_MAX = 64 * 1024


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
    """Notes why an association ended (PS3.8 table 9-10) and wakes the thread that serves it."""

    _OUTCOMES = {  # noqa: RUF012 - constant
        "Evt8": Outcome.REJECTED,
        "Evt14": Outcome.RELEASED,
        "Evt17": Outcome.CLOSED,
        "Evt18": Outcome.TIMEOUT,
    }

    def __init__(self, dul: DULServiceProvider, journal: Journal) -> None:
        super().__init__(dul)
        self._journal = journal

    def do_action(self, event: str) -> None:
        before = self.current_state
        super().do_action(event)
        if self.current_state in {"Sta1", "Sta13"}:
            self._journal.note(self._OUTCOMES.get(event, Outcome.ABORTED))
        if before == "Sta6" != self.current_state:
            self.dul.assoc.dimse.msg_queue.put((None, None))


class GuardedDUL(DULServiceProvider):
    """The thread that reads and writes the socket. It ends without a traceback and tells the association."""

    socket: GuardedSocket

    def __init__(self, assoc: Association, limits: ListenerLimits, journal: Journal) -> None:
        super().__init__(assoc)
        self.daemon = True
        self._journal = journal
        self._run_loop_delay = 0  # GuardedSocket.ready does the waiting
        self._idle_timer: MonotonicTimer = MonotonicTimer(limits.idle_seconds)
        self.artim_timer = MonotonicTimer(limits.acse_seconds)
        self.state_machine = JournalledStateMachine(self, journal)

    def run_reactor(self) -> None:
        try:
            super().run_reactor()
        except Exception:  # noqa: BLE001 - bytes or a state nobody foresaw cost this connection only
            self._journal.note(Outcome.ABORTED)
        finally:
            self._kill_thread = True
            self.socket._shutdown_socket()  # noqa: SLF001 - our override
            # The association waits for a first request: it need not wait out its time.
            self.to_user_queue.put(None)  # type: ignore[arg-type]  # what a timed-out get gives
            self.assoc.dimse.msg_queue.put((None, None))

    def _read_pdu_data(self) -> None:
        self.socket.begin_pdu()
        super()._read_pdu_data()

    def idle_timer_expired(self) -> bool:
        expired = super().idle_timer_expired()
        if expired:
            self._journal.note(Outcome.TIMEOUT)
        return expired

    def touch(self) -> None:
        """Time spent by us on an answer is not idleness of the peer."""
        self._idle_timer.restart()

    @property
    def idle_seconds(self) -> float:
        return self._idle_timer.elapsed


class BoundedBuffer(io.BytesIO):
    """Past its bound it lets go of what it holds and takes no more."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__()
        self._bytes_max = bytes_max
        self.overflowed = False

    def write(self, data: Buffer, /) -> int:
        size = memoryview(data).nbytes
        if self.overflowed or self.tell() + size > self._bytes_max:
            self.overflowed = True
            self.seek(0)
            self.truncate()
            return size
        return super().write(data)


class GuardedDIMSE(DIMSEServiceProvider):
    """Bounds what a message may hold and how long it may take; waits for messages instead of polling."""

    def __init__(self, assoc: Association, limits: ListenerLimits, journal: Journal) -> None:
        super().__init__(assoc)
        self._limits = limits
        self._journal = journal
        self._began = 0.0
        self._serving = False

    def get_msg(self, block: bool = False) -> _QueueItem:  # noqa: ARG002, FBT001, FBT002 - pynetdicom's
        if self._serving:
            self.msg_queue.task_done()
        self._serving = False
        try:
            found = self.msg_queue.get(timeout=QUIET_SECONDS)
        except queue.Empty:
            return None, None
        self._serving = True
        return found

    def receive_primitive(self, primitive: P_DATA) -> None:
        try:
            if self.message is None:
                self._begin_message()
            self._check_time()
            super().receive_primitive(primitive)
        except Exception:  # noqa: BLE001 - a malformed message aborts its association (PS3.8 Evt19), and nothing else
            self.dul.event_queue.put("Evt19")

    def _check_time(self) -> None:
        if time.monotonic() - self._began > self._limits.dimse_seconds:
            self._journal.note(Outcome.TIMEOUT)
            raise TimeoutError

    def _begin_message(self) -> None:
        self._began = time.monotonic()
        self.message = DIMSEMessage()
        self.message.encoded_command_set = BoundedBuffer(COMMAND_SET_BYTES_MAX)
        self.message.data_set = BoundedBuffer(self._limits.instance_bytes_max)
