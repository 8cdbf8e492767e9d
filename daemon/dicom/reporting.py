"""UPS Event, SCP (PS3.4 CC.2.4): State Reports to subscribers, over associations of our own.

What has been told is noted once the peer has answered; one that is away is tried again, with growing pauses, and then
told all that it has missed. Several hosts may run this: a subscriber is told by one of them at a time.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_role
from pynetdicom.association import Association

from daemon.dicom.silence import silence_libraries
from daemon.dicom.workitem import UPS_PUSH, event_information, event_type
from daemon.metrics import UPS_REPORTS
from daemon.telemetry import describe, log
from triage.records.store import DatabaseError
from triage.records.subscriptions import Notice, Subscriptions

UPS_EVENT = "1.2.840.10008.5.1.4.34.6.4"
SUCCESS = 0x0000
_LOOK_SECONDS = 0.5
_PAUSE_SECONDS_MAX = 60.0
# Longer than any batch takes: another host takes over from one that died after this.
_TURN_SECONDS = 120.0
_ANSWER_SECONDS = 15.0


class UnheardError(Exception):
    """The subscriber was not reached, or did not take a report."""


@dataclass(kw_only=True)
class Reporter:
    """Runs in a thread of its own, from ``start`` to ``stop``. ``addresses``: host and port by AE title.

    ``tls``: what they are told over, and have to show a certificate for their host.
    """

    subscriptions: Subscriptions
    ae_title: str
    addresses: Mapping[str, tuple[str, int]]
    tls: Callable[[], ssl.SSLContext] | None = None
    _pauses: dict[str, float] = field(default_factory=dict)
    _not_before: dict[str, float] = field(default_factory=dict)
    _ending: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        silence_libraries()
        self._thread = threading.Thread(target=self._run, name="ups-events", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        self._thread.join(_ANSWER_SECONDS)

    def _run(self) -> None:
        while not self._ending.wait(_LOOK_SECONDS):
            try:
                for ae_title in self.subscriptions.subscribed():
                    self._try_to_tell(ae_title)
            except DatabaseError as error:
                log().error("database_unavailable", **describe(error))

    def _try_to_tell(self, ae_title: str) -> None:
        """One that cannot be told must not keep the others from it."""
        try:
            self.tell(ae_title)
        except DatabaseError:
            raise
        except Exception as error:  # noqa: BLE001 - see above
            log().error("reporting_failed", **describe(error))

    def tell(self, ae_title: str) -> None:
        """All that is due, unless it has just been found to be away."""
        if ae_title not in self.addresses or time.monotonic() < self._not_before.get(ae_title, 0.0):
            return
        if self.subscriptions.due(ae_title) is None or not self.subscriptions.take_turn(ae_title, _TURN_SECONDS):
            return
        try:
            self._tell_all(ae_title)
            self._pauses.pop(ae_title, None)
        except UnheardError as error:
            UPS_REPORTS.labels("failed").inc()
            pause = self._pauses[ae_title] = min(_PAUSE_SECONDS_MAX, 2 * self._pauses.get(ae_title, _LOOK_SECONDS))
            self._not_before[ae_title] = time.monotonic() + pause
            log().warning("subscriber_unheard", subscriber=ae_title, problem=str(error), retry_seconds=pause)
        finally:
            self.subscriptions.end_turn(ae_title)

    def _tell_all(self, ae_title: str) -> None:
        """Raise UnheardError. At most a turn long: what is left then is for the next look."""
        end = time.monotonic() + _TURN_SECONDS / 2
        with self._associated(ae_title) as association:
            while time.monotonic() < end and not self._ending.is_set():
                batch = self.subscriptions.due(ae_title)
                if batch is None:
                    return
                for number, notice in enumerate(batch.notices):
                    _report(association, notice, number % 65535 + 1)
                    UPS_REPORTS.labels("delivered").inc()
                self.subscriptions.told(ae_title, batch)

    @contextmanager
    def _associated(self, ae_title: str) -> Iterator[Association]:
        host, port = self.addresses[ae_title]
        ae = AE(self.ae_title)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = _ANSWER_SECONDS
        ae.add_requested_context(UPS_EVENT, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        # Who asks for an association is SCU unless another role is agreed on (PS3.7 D.3.3.4).
        roles = [build_role(UPS_EVENT, scu_role=True, scp_role=True)]
        secure = (self.tls(), host) if self.tls else None
        association = ae.associate(host, port, ae_title=ae_title, ext_neg=roles, tls_args=secure)  # type: ignore[arg-type]
        if not association.is_established:
            raise UnheardError("no association")
        try:
            yield association
        finally:
            association.release()


def _report(association: Association, notice: Notice, message_id: int) -> None:
    try:
        status, _ = association.send_n_event_report(
            event_information(notice), event_type(notice), UPS_PUSH, notice.workitem_uid, message_id, UPS_EVENT
        )
    except (RuntimeError, ValueError) as error:
        raise UnheardError("UPS Event was not accepted, or the association ended") from error
    found = status.get("Status")
    if found != SUCCESS:
        raise UnheardError("no answer" if found is None else f"status {found:04X}")
