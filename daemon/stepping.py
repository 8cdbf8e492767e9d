"""The parts of the Unified Procedure Step service, put together from the settings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from daemon.dicom.finding import Finding
from daemon.dicom.ups import Ups
from daemon.notation import split_application
from daemon.settings import Settings
from daemon.telemetry import Pseudonym
from daemon.tls import Credentials, calling
from triage.records.reading import Reading
from triage.records.store import Store
from triage.records.subscriptions import Subscriptions
from triage.records.workitems import Workitems

if TYPE_CHECKING:
    from daemon.dicom.reporting import Reporter


@dataclass(frozen=True)
class Stepping:
    """Built when first asked for."""

    settings: Settings
    store: Store
    reading: Reading

    @cached_property
    def workitems(self) -> Workitems:
        return Workitems(self.store, self.reading)

    @cached_property
    def subscriptions(self) -> Subscriptions:
        return Subscriptions(self.store)

    @cached_property
    def finding(self) -> Finding:
        settings = self.settings
        return Finding(workitems=self.workitems, most=settings.ups_most, retrieve_ae=settings.ups_retrieve_ae)

    def ups(self, pseudonym: Pseudonym) -> Ups:
        return Ups(
            workitems=self.workitems, subscriptions=self.subscriptions, finding=self.finding, pseudonym=pseudonym
        )

    @cached_property
    def called(self) -> Credentials | None:
        """What we speak to subscribers over, if with TLS."""
        return calling(self.settings, "dicom_calling")

    def reporter(self) -> Reporter | None:
        """None where no subscriber has an address."""
        settings = self.settings
        if not settings.ups_subscribers:
            return None
        from daemon.dicom.reporting import Reporter  # noqa: PLC0415 - pynetdicom, only where it is needed

        return Reporter(
            subscriptions=self.subscriptions,
            ae_title=settings.dicom_ae_title,
            addresses=dict(split_application(each, "ups_subscribers") for each in settings.ups_subscribers),
            tls=self.called,
        )
