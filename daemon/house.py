"""The composition root: builds the objects from the settings and hands them to each other. Nothing else does.

Heavy imports stand inside the functions that need them: only the worker and the commands that score films load torch.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from daemon import telemetry
from daemon.complaint import DatabaseUnavailableError, absent, refusal
from daemon.environment import read_settings
from daemon.lifecycle import EXIT_AGAIN, leave_no_core
from daemon.metrics import MODEL
from daemon.notation import split_peer
from daemon.settings import Settings
from daemon.share import refuse_share
from daemon.telemetry import log
from daemon.tls import Credentials, serving
from triage.card import read_card
from triage.errors import CardMismatchError, SettingsError, TriageError
from triage.jobs import RetryRule
from triage.policy import Policy, expected, thresholds

if TYPE_CHECKING:
    from daemon.arrival import Arrivals
    from daemon.bell import Ringer
    from daemon.dicom.association import AssociationSummary, Listener
    from daemon.dicom.exchange import Handlers
    from daemon.noting import Noting
    from daemon.outage import Outage
    from daemon.sandbox import Limits
    from daemon.spool import Spool
    from daemon.stepping import Stepping
    from daemon.trail import Trail
    from triage.records.archive import Archive
    from triage.records.audit import Audit
    from triage.records.intake import Intake
    from triage.records.orders import Orders
    from triage.records.processes import Processes
    from triage.records.queue import Queue
    from triage.records.reading import Reading
    from triage.records.schema import Change
    from triage.records.store import Store
    from triage.records.users import Users
    from triage.vision.classifier import Classifier

# A job that nobody has taken for so long means that all workers are far behind, or hang.
WORKER_ABSENT_SECONDS = 60.0
_DATABASE_PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class House:
    """The objects that processes share, built when first asked for. Raise TriageError where a person must mend it."""

    settings: Settings
    policy: Policy
    process: str = "triage"

    @cached_property
    def spool(self) -> Spool:
        from daemon.keeping import kept_of
        from daemon.spool import Spool

        spool = Spool(self.settings.data_dir, kept_of(self.settings))
        try:
            spool.prepare()
        except OSError as error:
            raise TriageError(f"data_dir {self.settings.data_dir}: {error.strerror}") from error
        return spool

    @cached_property
    def store(self) -> Store:
        from triage.records import schema
        from triage.records.postgresql import Site
        from triage.records.store import DatabaseError, Store, open_engine, shown_url

        shown_url(self.settings.url)  # refuses what is none of ours
        if not self.settings.database_url:
            self.spool  # noqa: B018 - SQLite's folder has to be there
        if self.settings.sqlite_file is not None:
            refuse_share(self.settings.sqlite_file)
        settings = self.settings
        site = Site(process=self.process, seconds=settings.database_seconds, most=settings.database_connections_max)
        try:
            engine = open_engine(settings.url, site)
        except DatabaseError as error:
            raise refusal(error, settings) from None
        try:
            _tell(schema.upgrade(engine), engine.dialect.name)
        except DatabaseError as error:
            engine.dispose()
            raise refusal(error, settings) from None
        return Store(engine)

    def look_at_database(self) -> None:
        """Open it and ask it something. Raise TriageError; DatabaseUnavailableError where that may pass."""
        from triage.records.store import DatabaseError

        try:
            self.intake.check_policy()
        except DatabaseError as error:
            raise refusal(error, self.settings) from None

    def refuse_damaged(self) -> None:
        """Raise TriageError. A database that is damaged may answer for a long time, and leave studies out."""
        from triage.records.schema import is_sound
        from triage.records.store import DatabaseError

        try:
            sound = is_sound(self.store.engine)
        except DatabaseError as error:
            raise refusal(error, self.settings) from None
        if not sound:
            raise refusal(DatabaseError("malformed"), self.settings)

    @cached_property
    def queue(self) -> Queue:
        from triage.records.queue import Queue

        return Queue(self.store, self.policy)

    @cached_property
    def reading(self) -> Reading:
        from triage.records.reading import Reading

        return Reading(self.store)

    @cached_property
    def archive(self) -> Archive:
        from triage.records.archive import Archive

        return Archive(self.store)

    @cached_property
    def stepping(self) -> Stepping:
        from daemon.stepping import Stepping

        return Stepping(self.settings, self.store, self.reading)

    @cached_property
    def orders(self) -> Orders:
        from triage.records.orders import Orders

        return Orders(self.store)

    @cached_property
    def intake(self) -> Intake:
        from triage.records.intake import Intake

        return Intake(self.store, self.policy)

    @cached_property
    def arrivals(self) -> Arrivals:
        from daemon.arrival import Arrivals

        return Arrivals(kept=self.spool.kept, intake=self.intake)

    @cached_property
    def outage(self) -> Outage | None:
        """What receives while PostgreSQL is away; SQLite never is. Its thread is started by the receiver."""
        from daemon.ledger import Ledger
        from daemon.outage import Bounds, Outage

        settings = self.settings
        if self.store.backend == "sqlite":
            return None
        bounds = Bounds(instances=settings.outage_instances_max, seconds=settings.outage_seconds_max)
        return Outage(self.intake, self.spool.kept, Ledger(settings.data_dir), bounds)

    @cached_property
    def users(self) -> Users:
        from triage.records.users import Users

        return Users(self.store)

    @cached_property
    def audit(self) -> Audit:
        from triage.records.audit import Audit

        return Audit(self.store, forwards=bool(self.settings.audit_repository))

    @cached_property
    def trail(self) -> Trail:
        """Its thread is started by the process that notes more than one access."""
        from daemon.trail import Trail

        return Trail(self.audit, self.settings.data_dir)

    @cached_property
    def processes(self) -> Processes:
        from triage.records.processes import Processes

        return Processes(self.store)

    @cached_property
    def noting(self) -> Noting:
        from daemon.noting import Noting

        return Noting(self.trail, tells_queries=bool(self.settings.audit_repository))

    @cached_property
    def ringer(self) -> Ringer:
        from daemon.bell import Ringer

        return Ringer(self.store, self.settings.data_dir)

    @cached_property
    def pseudonym(self) -> telemetry.Pseudonym:
        return telemetry.Pseudonym(self.spool.root)

    @cached_property
    def dicom_tls(self) -> Credentials | None:
        return serving(self.settings, "dicom")

    @property
    def rule(self) -> RetryRule:
        return RetryRule(attempts_max=self.settings.attempts_max, delay_seconds=self.settings.retry_seconds)


def _tell(change: Change | None, backend: str) -> None:
    """Only of a database that held something."""
    if change is None or change.before is None:
        return
    back = f"a copy lies beside it: {change.copy.name}" if change.copy else f"{backend}: back by the site's own dump"
    log().warning("schema_upgraded", schema_before=change.before, schema=change.after, problem=back)


def look_at_kept(house: House) -> None:
    """Receiving starts although the pixel store is away: it may come back. Raise TriageError if it refuses us."""
    try:
        house.spool.kept.check()
    except OSError as error:
        log().error("pixel_store_unavailable", **telemetry.describe(error))


def open_house(process: str) -> House:
    """Read the settings and set up logging: the first thing each process does. Its files are its own from then on."""
    os.umask(0o077)
    leave_no_core()
    settings, policy = read_settings()
    telemetry.configure(settings.log_format, settings.log_level, process)
    return House(settings, policy, process)


def open_house_with_database(process: str) -> House:
    """For commands that look at what a daemon keeps: they must not begin a new database. Raise TriageError."""
    house = open_house(process)
    file = house.settings.sqlite_file
    if file is not None and not file.exists():
        raise absent(house.settings)
    return house


def await_database(house: House, stop: threading.Event) -> bool:
    """Whether it was there before ``stop``: a database server may start after us. Raise TriageError if it is wrong."""
    while not stop.is_set():
        try:
            house.refuse_damaged()
            house.look_at_database()
        except DatabaseUnavailableError as error:
            log().error("database_unavailable", problem=str(error), retry_seconds=_DATABASE_PAUSE_SECONDS)
            stop.wait(_DATABASE_PAUSE_SECONDS)
        else:
            return True
    return False


def need_database(house: House) -> None:
    """End this process if the database is away: who supervises it starts it again, with growing pauses."""
    try:
        house.look_at_database()
    except DatabaseUnavailableError as error:
        log().error("database_unavailable", problem=str(error))
        raise SystemExit(EXIT_AGAIN) from None


def build_listener(house: House, beat: Callable[[], None]) -> Listener:
    from daemon.dicom.association import Listener, Peer
    from daemon.dicom.guard import ListenerLimits
    from daemon.receiver import Receiver, Watermark, log_association

    def end(summary: AssociationSummary) -> None:
        log_association(summary)
        house.noting.ended(summary)

    settings = house.settings
    arrivals = replace(house.arrivals, intake=house.outage) if house.outage else house.arrivals
    receiver = Receiver(
        spool=house.spool,
        arrivals=arrivals,
        ringer=house.ringer,
        pseudonym=house.pseudonym,
        on_stored=house.noting.stored,
    )
    limits = ListenerLimits(
        pdu_seconds=settings.dicom_pdu_seconds,
        idle_seconds=settings.dicom_idle_seconds,
        acse_seconds=settings.dicom_acse_seconds,
        instance_bytes_max=settings.dicom_instance_mib_max * 2**20,
        connections_max=settings.dicom_connections_max,
        connections_per_address_max=settings.dicom_connections_per_address_max,
    )
    peers = tuple(Peer(ae_title=name, network=network) for name, network in map(split_peer, settings.dicom_peers))
    return Listener(
        ae_title=settings.dicom_ae_title,
        host=settings.dicom_host,
        port=settings.dicom_port,
        limits=limits,
        peers=peers,
        strict_loopback=settings.dicom_strict_loopback,
        shares_port=settings.receivers > 1,
        tls=house.dicom_tls,
        on_store=receiver.begin,
        on_association_end=end,
        refuse=Watermark(house.spool, settings.disk_free_mib_min),
        handlers=house.noting.handlers(_handlers(house)),
        beat=beat,
    )


def _handlers(house: House) -> Handlers:
    """Who answers the questions that are asked beside C-STORE."""
    from daemon.dicom.command import C_FIND_RQ
    from daemon.dicom.study_root import STUDY_ROOT_FIND, StudyRoot

    return {
        (STUDY_ROOT_FIND, C_FIND_RQ): StudyRoot(archive=house.archive).find,
        **house.stepping.ups(house.pseudonym).handlers(),
    }


def decoding_limits(settings: Settings) -> Limits:
    """What decoding one film may cost."""
    from daemon.sandbox import Limits

    return Limits(
        seconds=settings.decode_seconds, memory_bytes=settings.decode_mib * 2**20, films=settings.decode_films
    )


def load(settings: Settings) -> Classifier:
    """Raise CardMismatchError, also where the network does not say here what its card holds of the golden films."""
    from triage.vision.classifier import found_device, load_classifier, set_threads
    from triage.vision.golden import refuse_wrong

    set_threads(settings.torch_threads or max(1, (os.cpu_count() or 1) - 1))
    classifier = load_classifier(settings.weights_card, found_device(settings.device))
    refuse_wrong(classifier)
    return classifier


def refuse_mismatch(settings: Settings, policy: Policy) -> None:
    """Raise SettingsError if policy and network do not go together, whoever is to judge with them.

    A card that cannot be read is told elsewhere, and does not stop the receiver.
    """
    with suppress(CardMismatchError):
        thresholds(read_card(settings.weights_card), policy)


def operating_point(settings: Settings, policy: Policy) -> dict[str, float | str]:
    """What settings and policy come to: the thresholds, and the forecast where the site's prevalence is known.

    Raise SettingsError as `refuse_mismatch`.
    """
    try:
        card = read_card(settings.weights_card)
    except CardMismatchError as error:
        return {"network": str(error)}
    limits, forecast = thresholds(card, policy), expected(card, policy)
    missing = "set prevalence to see it" if card.curve else "the network's card has no operating curve"
    foreseen = asdict(forecast) if forecast else {"threshold": limits.flag, "forecast": missing}
    return {"weights": card.sha256[:12], "possible": limits.possible, "likely": limits.likely, **foreseen}


def load_or_none(settings: Settings, policy: Policy) -> Classifier | None:
    """Without a network the worker goes on: studies then say that they were not analysed, and keep their place."""
    try:
        classifier = load(settings)
        thresholds(classifier.card, policy)  # the weights may have been replaced since the start
    except (CardMismatchError, SettingsError) as error:
        log().error("model_unavailable", error=type(error).__name__, problem=str(error))
        return None
    weights, device = classifier.card.sha256[:12], str(classifier.device)
    MODEL.clear()
    MODEL.labels(weights, device).set(1)
    log().info("model_loaded", weights=weights, device=device)
    return classifier
