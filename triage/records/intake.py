"""A received instance enters the database: study, instance and job in one transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from functools import cache, cached_property
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    Table,
    bindparam,
    insert,
    literal,
    select,
    true,
    update,
)

from triage import policy as rules
from triage.errors import Reason, SettingsError
from triage.jobs import JobState
from triage.policy import Policy
from triage.records.history import History
from triage.records.past import retire
from triage.records.store import JOBS_CHANNEL, Store, study_columns
from triage.records.tables import KEPT_FOR_STUDY, instances, jobs, orders, policies, studies
from triage.study import ClinicalPriority, EventKind, Finding, Header, Priority, ReceivedInstance, Status, workitem_uid
from triage.workitem import StepState

_HASHES_A_QUERY = 500
_IDENTITY = ("patient_id", "patient_birth_date", "accession_number")
_SHOWN = (*_IDENTITY, "patient_name", "patient_sex", "age_years", "study_date", "study_description")
_KEYS = ("study_instance_uid", "workitem_uid")
_PRIORITY = tuple(each.name for each in fields(Priority))
_INSTANCE = (
    "study_instance_uid", "series_instance_uid", "sop_instance_uid", "sop_class_uid", "transfer_syntax_uid", "sha256",
    "size_bytes", "calling_ae", "identity_conflict", "episode", "quarantined", "modality",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What the database made of a received instance. ``queued``: a worker should wake up.

    ``deferred``: the database is away, it will be asked later.
    """

    duplicate: bool = False
    conflict: bool = False
    reopened: bool = False
    queued: bool = False
    deferred: bool = False


def _content(policy: Policy) -> dict[str, Any]:
    """As JSON gives it back."""
    return asdict(policy) | {"accept_unknown": list(policy.accept_unknown)}


class Intake:
    """Receives on behalf of one policy."""

    def __init__(self, store: Store, policy: Policy) -> None:
        self._store = store
        self._history = History(store)
        self._policy = policy
        self._policy_is_known = False

    def receive(self, received: ReceivedInstance) -> Receipt:
        """Put study, instance and job (or the reason why there is none) in one transaction.

        The file must be durable before. The same file again changes nothing; the same SOP Instance UID with other
        content is kept beside the first, and both studies are marked.
        """
        with self._store.writing() as connection:
            self._ensure_policy(connection)
            is_known, order = self._look(connection, received.header)
            is_new = self._insert_study(connection, received)
            if is_new and order is not None:
                self._heed(connection, received.header.study_instance_uid, received.header.clinical_priority, order)
            if is_new and received.not_analysed is None and not is_known:
                # The usual film, in a third of the time: nothing was there that it could contradict or change.
                self._queue(connection, self._insert_instance(connection, received, 0, conflict=False))
                receipt = Receipt(queued=True)
            else:
                receipt = self._receive_beside(connection, received, order, is_new=is_new)
            if received.arrived_at and (is_new or receipt.reopened):
                self._predate(connection, received, received.arrived_at, is_new=is_new)
        self._policy_is_known = True
        return receipt

    def _receive_beside(
        self, connection: Connection, received: ReceivedInstance, order: RowMapping | None, *, is_new: bool
    ) -> Receipt:
        """Into a study that is held, or under an UID that is known, or something that is not analysed."""
        header = received.header
        study = self._store.lock_study(connection, header.study_instance_uid)
        if self._is_duplicate(connection, received):
            return Receipt(duplicate=True)
        conflict = self._mark_conflict(connection, header.sop_instance_uid)
        reopened = study["status"] == Status.READ and rules.reopens(header.sop_class_uid)
        episode = study["episode"] + (1 if reopened else 0)
        if reopened:
            retire(self._store, connection, study, StepState.COMPLETED)
            self._reopen(connection, header.study_instance_uid, episode)
        instance_id = self._insert_instance(connection, received, episode, conflict=conflict)
        self._queue_or_explain(connection, instance_id, received)
        self._update_study(connection, study, received, conflict=conflict, is_new=is_new)
        if order is not None and not is_new and not received.quarantined:
            self._heed_late(connection, study, received.header, order)
        self._store.settle(connection, [header.study_instance_uid], self._policy)
        return Receipt(conflict=conflict, reopened=reopened, queued=received.not_analysed is None)

    def now(self) -> datetime:
        """By the database's clock."""
        return self._store.read_clock()

    def _predate(self, connection: Connection, received: ReceivedInstance, then: datetime, *, is_new: bool) -> None:
        """It came before it could be listed: its waiting began then."""
        values = {"waiting_since": then}
        if is_new:
            values["received_at"] = then
        if not received.found:
            values["overdue_at"] = then + timedelta(minutes=self._policy.waiting_limit_minutes)
        same = studies.c.study_instance_uid == received.header.study_instance_uid
        connection.execute(update(studies).where(same).values(values))

    def check_policy(self) -> None:
        """Raise SettingsError if this version of the policy has made priorities with other content."""
        self._check(self._policy)

    def adopt(self, policy: Policy) -> None:
        """Receive on behalf of this one from now on. Raise SettingsError as above: then nothing has changed."""
        self._check(policy)
        with self._store.writing() as connection:
            self._write_policy(connection, policy)
        self._policy = policy
        vars(self).pop("_inserts", None)  # they hold the limit of the one before

    def _check(self, policy: Policy) -> None:
        query = select(policies.c.content).where(policies.c.version == policy.version)
        with self._store.reading() as connection:
            known = connection.execute(query).scalar_one_or_none()
        # A setting that an earlier release did not have stood at its default.
        if known is not None and _content(Policy()) | json.loads(known) != _content(policy):
            raise SettingsError(f"[policy] has changed since version {policy.version!r}: give it a new version")

    def _ensure_policy(self, connection: Connection) -> None:
        if not self._policy_is_known:
            self._write_policy(connection, self._policy)

    def _write_policy(self, connection: Connection, policy: Policy) -> None:
        content = json.dumps(_content(policy), sort_keys=True)
        row = {"version": policy.version, "content": content, "first_used_at": self._store.now()}
        connection.execute(self._store.insert_if_absent(policies).values(row))

    def _insert_study(self, connection: Connection, received: ReceivedInstance) -> bool:
        """Whether it was not held before. As it stands while its first film waits."""
        header = received.header
        shown = _fit(studies, {name: getattr(header, name) for name in (*_SHOWN, "modality", "study_instance_uid")})
        priority = {"clinical_priority": int(header.clinical_priority), **study_columns(rules.pending(self._policy))}
        shown["workitem_uid"] = workitem_uid(shown["study_instance_uid"], 0)
        counted = {"preserve_rowcount": True}  # else PostgreSQL's is -1 after an insert
        return connection.execute(self._inserts["study"], shown | priority, execution_options=counted).rowcount > 0

    def _look(self, connection: Connection, header: Header) -> tuple[bool, RowMapping | None]:
        """Whether the instance's UID is held, and the order that was kept for its study: one question."""
        named = _fit(orders, {name: getattr(header, name) for name in ("accession_number", "patient_id")})
        self._store.meet(connection, named["accession_number"], alone=False)
        asked = named | {"sop_instance_uid": header.sop_instance_uid}
        found = connection.execute(self._inserts["look"], asked).mappings().one()
        return found["known"] is not None, None if found["order_id"] is None else found

    def _heed(
        self, connection: Connection, study_instance_uid: str, stands_at: ClinicalPriority, order: RowMapping
    ) -> None:
        """An order that came before may raise a study; if the object is more urgent, that counts."""
        ordered = ClinicalPriority(order["clinical_priority"])
        self._raise(connection, study_instance_uid, (stands_at, ordered), who=order["who"], source=order["source"])

    def _raise(
        self,
        connection: Connection,
        study_instance_uid: str,
        change: tuple[ClinicalPriority, ClinicalPriority],
        *,
        who: str = "",
        source: str,
    ) -> None:
        """``change``: from, to; nothing if it would not raise. A study that has been read has no place to tell."""
        stands_at, raised = change
        if raised >= stands_at:
            return
        before = self._history.rank(connection, study_instance_uid)
        same = studies.c.study_instance_uid == study_instance_uid
        connection.execute(update(studies).where(same).values(clinical_priority=int(raised)))
        ranks = (before, self._history.rank(connection, study_instance_uid)) if before else None
        words = f"{stands_at.name} to {raised.name} by {source}"
        self._history.note(connection, study_instance_uid, EventKind.PRIORITISED, who=who, words=words, ranks=ranks)

    def _heed_late(self, connection: Connection, study: RowMapping, header: Header, order: RowMapping) -> None:
        """Where this object is the first to name the order, or the order came after the study had been read."""
        is_named_now = not study["accession_number"] and not _contradicts(study, header)
        came_after = study["status"] == Status.READ and study["status_at"] and order["at"] > study["status_at"]
        if is_named_now or came_after:
            stands_at = min(ClinicalPriority(study["clinical_priority"]), header.clinical_priority)
            self._heed(connection, header.study_instance_uid, stands_at, order)

    @cached_property
    def _inserts(self) -> dict[str, Any]:
        """Made once: to put them together for each film would take longer than to run them."""
        now, limit_minutes = self._store.now(), self._policy.waiting_limit_minutes
        times = {
            "received_at": now,
            "waiting_since": self._store.arrival,
            "overdue_at": self._store.after(limit_minutes * 60),
        }
        study = {
            **_parameters(studies, *_SHOWN, "modality", *_KEYS, "clinical_priority", *_PRIORITY),
            **times,
            "waiting_limit_minutes": limit_minutes,
            "episode": 0,
            "status": Status.UNREAD,
            "changed_while_reading": False,
            "identity_conflict": False,
        }
        instance = _parameters(instances, *_INSTANCE) | {"received_at": now}
        job = {"instance_id": bindparam("instance_id"), "available_at": now, "created_at": now}
        return {
            "study": self._store.insert_if_absent(studies).values(study),
            "look": _looking(),
            "instance": insert(instances).values(instance).returning(instances.c.instance_id),
            "job": insert(jobs).values({**job, "state": JobState.QUEUED, "attempts": 0}),
        }

    def _is_duplicate(self, connection: Connection, received: ReceivedInstance) -> bool:
        same = (instances.c.sop_instance_uid == received.header.sop_instance_uid) & (
            instances.c.sha256 == received.sha256
        )
        # The file has just been written again, should retention have removed it.
        found = connection.execute(update(instances).where(same).values(pixels_deleted_at=None))
        return found.rowcount > 0

    def _mark_conflict(self, connection: Connection, sop_instance_uid: str) -> bool:
        """Mark the studies that hold other content under this UID; True if there are any."""
        same_uid = instances.c.sop_instance_uid == sop_instance_uid
        holders = select(instances.c.study_instance_uid).where(same_uid)
        marked = connection.execute(
            update(studies).where(studies.c.study_instance_uid.in_(holders)).values(identity_conflict=True)
        )
        connection.execute(update(instances).where(same_uid).values(identity_conflict=True))
        return marked.rowcount > 0

    def _reopen(self, connection: Connection, study_instance_uid: str, episode: int) -> None:
        connection.execute(
            update(studies)
            .where(studies.c.study_instance_uid == study_instance_uid)
            .values(
                episode=episode,
                workitem_uid=workitem_uid(study_instance_uid, episode),
                transaction_uid=None,
                status=Status.UNREAD,
                reader=None,
                status_at=self._store.now(),
                waiting_since=self._store.arrival,
                overdue_at=self._store.after(self._policy.waiting_limit_minutes * 60),
                waiting_limit_minutes=self._policy.waiting_limit_minutes,
            )
        )
        words = "images came after it was read: to be read again"
        self._history.note(connection, study_instance_uid, EventKind.REOPENED, words=words)

    def _insert_instance(
        self, connection: Connection, received: ReceivedInstance, episode: int, *, conflict: bool
    ) -> int:
        header = received.header
        row = {
            "study_instance_uid": header.study_instance_uid,
            "series_instance_uid": header.series_instance_uid,
            "sop_instance_uid": header.sop_instance_uid,
            "sop_class_uid": header.sop_class_uid,
            "transfer_syntax_uid": header.transfer_syntax_uid,
            "sha256": received.sha256,
            "size_bytes": received.size_bytes,
            "calling_ae": received.calling_ae,
            "identity_conflict": conflict,
            "episode": episode,
            "quarantined": received.quarantined,
            "modality": header.modality,
        }
        inserted = connection.execute(self._inserts["instance"], _fit(instances, row))
        return int(inserted.scalar_one())

    def _queue_or_explain(self, connection: Connection, instance_id: int, received: ReceivedInstance) -> None:
        if received.not_analysed is not None:
            finding = Finding(reason=received.not_analysed)
            priority = rules.not_analysed(received.not_analysed, self._policy)
            self._store.write_findings(connection, [(instance_id, finding, priority)])
            return
        self._queue(connection, instance_id)

    def _queue(self, connection: Connection, instance_id: int) -> None:
        connection.execute(self._inserts["job"], {"instance_id": instance_id})
        if self._store.backend == "postgresql":
            connection.exec_driver_sql(f"NOTIFY {JOBS_CHANNEL}")

    def _update_study(
        self, connection: Connection, study: RowMapping, received: ReceivedInstance, *, conflict: bool, is_new: bool
    ) -> None:
        """Later objects fill in what was missing and may raise the clinical priority, never lower it.

        An object of another patient or order marks the study and changes nothing else of it: whoever is looked for
        under the first name is still found. So does one that was refused.
        """
        header = received.header
        contradicts = not is_new and _contradicts(study, header)
        values: dict[str, Any] = {}
        if is_new or not received.quarantined:
            change = ClinicalPriority(study["clinical_priority"]), header.clinical_priority
            self._raise(connection, header.study_instance_uid, change, source="an image")
        if is_new or not (contradicts or received.quarantined):
            values |= _shown(study, received)
        unclear = conflict or contradicts or received.not_analysed is Reason.IDENTITY_CONFLICT or received.quarantined
        values["identity_conflict"] = study["identity_conflict"] or unclear
        seen_too_early = study["status"] == Status.READING and rules.reopens(header.sop_class_uid)
        values["changed_while_reading"] = study["changed_while_reading"] or seen_too_early
        same = studies.c.study_instance_uid == header.study_instance_uid
        connection.execute(update(studies).where(same).values(_fit(studies, values)))


def _contradicts(study: RowMapping, header: Header) -> bool:
    """Whether this object names another patient or order than the study does; what is absent contradicts nothing."""
    named = _fit(studies, {name: getattr(header, name) for name in _IDENTITY})
    return any(study[name] and named[name] and study[name] != named[name] for name in _IDENTITY)


def _shown(study: RowMapping, received: ReceivedInstance) -> dict[str, Any]:
    """What the worklist shows of the study, from its latest object; what is absent there stays."""
    header = received.header
    shown = {name: getattr(header, name) for name in _SHOWN}
    shown["modality"] = header.modality if received.not_analysed is None else study["modality"] or header.modality
    return {name: value for name, value in shown.items() if value not in ("", None)}


def _looking() -> Select[Any]:
    """Always one row."""
    same_uid = instances.c.sop_instance_uid == bindparam("sop_instance_uid")
    known = select(instances.c.instance_id).where(same_uid).limit(1).scalar_subquery().label("known")
    latest = select(orders).where(KEPT_FOR_STUDY).order_by(orders.c.at.desc(), orders.c.order_id.desc()).limit(1)
    kept, once = latest.subquery(), select(literal(1)).subquery()
    return select(known, kept).select_from(once.outerjoin(kept, true()))


def _parameters(table: Table, *names: str) -> dict[str, ColumnElement[Any]]:
    return {name: bindparam(name, type_=table.columns[name].type) for name in names}


def _fit(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    """Cut received text to the width of its column; the file keeps it whole."""
    widths = _widths(table)
    return {name: value[: widths[name]] if isinstance(value, str) else value for name, value in row.items()}


@cache
def _widths(table: Table) -> dict[str, int | None]:
    return {column.name: getattr(column.type, "length", None) for column in table.columns}


def known_hashes(store: Store, hashes: Sequence[str]) -> set[str]:
    """Those of ``hashes`` (sha256 of files) that an instance names."""
    known: set[str] = set()
    with store.reading() as connection:
        for start in range(0, len(hashes), _HASHES_A_QUERY):
            some = instances.c.sha256.in_(hashes[start : start + _HASHES_A_QUERY])
            known.update(connection.execute(select(instances.c.sha256).where(some)).scalars())
    return known
