"""A received instance enters the database: study, instance and job in one transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, Table, insert, select, text, update

from triage import policy as rules
from triage.errors import Reason, SettingsError
from triage.jobs import JobState
from triage.policy import Policy
from triage.records.store import JOBS_CHANNEL, Store, study_columns
from triage.records.tables import instances, jobs, policies, studies
from triage.study import Finding, Header, ReceivedInstance, Status

_HASHES_A_QUERY = 500


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What the database made of a received instance. ``queued``: a worker should wake up."""

    duplicate: bool = False
    conflict: bool = False
    reopened: bool = False
    queued: bool = False


def _content(policy: Policy) -> dict[str, Any]:
    """As JSON gives it back."""
    return asdict(policy) | {"accept_unknown": list(policy.accept_unknown)}


class Intake:
    """Receives on behalf of one policy."""

    def __init__(self, store: Store, policy: Policy) -> None:
        self._store = store
        self._policy = policy

    def receive(self, received: ReceivedInstance) -> Receipt:
        """Put study, instance and job (or the reason why there is none) in one transaction.

        The file must be durable before. The same file again changes nothing; the same SOP Instance UID with other
        content is kept beside the first, and both studies are marked.
        """
        header = received.header
        with self._store.writing() as connection:
            self._ensure_policy(connection)
            is_new = self._ensure_study(connection, header)
            study = self._store.lock_study(connection, header.study_instance_uid)
            if self._is_duplicate(connection, received):
                return Receipt(duplicate=True)
            conflict = self._mark_conflict(connection, header.sop_instance_uid)
            reopened = study["status"] == Status.READ and rules.reopens(header.sop_class_uid)
            episode = study["episode"] + (1 if reopened else 0)
            if reopened:
                self._reopen(connection, header.study_instance_uid, episode)
            instance_id = self._insert_instance(connection, received, episode, conflict=conflict)
            self._queue_or_explain(connection, instance_id, received)
            self._update_study(connection, study, received, conflict=conflict, is_new=is_new)
            self._store.settle(connection, [header.study_instance_uid], self._policy)
            return Receipt(conflict=conflict, reopened=reopened, queued=received.not_analysed is None)

    def check_policy(self) -> None:
        """Raise SettingsError if this version of the policy has made priorities with other content."""
        query = select(policies.c.content).where(policies.c.version == self._policy.version)
        with self._store.reading() as connection:
            known = connection.execute(query).scalar_one_or_none()
        # A setting that an earlier release did not have stood at its default.
        if known is not None and _content(Policy()) | json.loads(known) != _content(self._policy):
            raise SettingsError(f"[policy] has changed since version {self._policy.version!r}: give it a new version")

    def _ensure_policy(self, connection: Connection) -> None:
        content = json.dumps(_content(self._policy), sort_keys=True)
        row = {"version": self._policy.version, "content": content, "first_used_at": self._store.now()}
        connection.execute(self._store.insert_if_absent(policies).values(row))

    def _ensure_study(self, connection: Connection, header: Header) -> bool:
        """Whether it was not held before."""
        row = {
            "study_instance_uid": header.study_instance_uid,
            "received_at": self._store.now(),
            "waiting_since": self._store.now(),
            "overdue_at": self._store.after(self._policy.waiting_limit_minutes * 60),
            "waiting_limit_minutes": self._policy.waiting_limit_minutes,
            "clinical_priority": int(header.clinical_priority),
            "episode": 0,
            "status": Status.UNREAD,
            "changed_while_reading": False,
            "identity_conflict": False,
            **study_columns(rules.pending(self._policy)),
        }
        return connection.execute(self._store.insert_if_absent(studies).values(row)).rowcount > 0

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
                status=Status.UNREAD,
                reader=None,
                status_at=self._store.now(),
                waiting_since=self._store.now(),
                overdue_at=self._store.after(self._policy.waiting_limit_minutes * 60),
                waiting_limit_minutes=self._policy.waiting_limit_minutes,
            )
        )

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
            "received_at": self._store.now(),
            "identity_conflict": conflict,
            "episode": episode,
            "quarantined": received.quarantined,
        }
        inserted = connection.execute(insert(instances).values(_fit(instances, row)).returning(instances.c.instance_id))
        return int(inserted.scalar_one())

    def _queue_or_explain(self, connection: Connection, instance_id: int, received: ReceivedInstance) -> None:
        if received.not_analysed is not None:
            finding = Finding(reason=received.not_analysed)
            priority = rules.not_analysed(received.not_analysed, self._policy)
            self._store.write_findings(connection, [(instance_id, finding, priority)])
            return
        row = {
            "instance_id": instance_id,
            "state": JobState.QUEUED,
            "attempts": 0,
            "available_at": self._store.now(),
            "created_at": self._store.now(),
        }
        connection.execute(insert(jobs).values(row))
        if self._store.engine.dialect.name == "postgresql":
            connection.execute(text(f"NOTIFY {JOBS_CHANNEL}"))

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
            values["clinical_priority"] = min(study["clinical_priority"], int(header.clinical_priority))
        if is_new or not (contradicts or received.quarantined):
            values |= _shown(study, received)
        unclear = conflict or contradicts or received.not_analysed is Reason.IDENTITY_CONFLICT or received.quarantined
        values["identity_conflict"] = study["identity_conflict"] or unclear
        seen_too_early = study["status"] == Status.READING and rules.reopens(header.sop_class_uid)
        values["changed_while_reading"] = study["changed_while_reading"] or seen_too_early
        same = studies.c.study_instance_uid == header.study_instance_uid
        connection.execute(update(studies).where(same).values(_fit(studies, values)))


_IDENTITY = ("patient_id", "patient_birth_date", "accession_number")


def _contradicts(study: RowMapping, header: Header) -> bool:
    """Whether this object names another patient or order than the study does; what is absent contradicts nothing."""
    named = _fit(studies, {name: getattr(header, name) for name in _IDENTITY})
    return any(study[name] and named[name] and study[name] != named[name] for name in _IDENTITY)


def _shown(study: RowMapping, received: ReceivedInstance) -> dict[str, Any]:
    """What the worklist shows of the study, from its latest object; what is absent there stays."""
    header = received.header
    names = (*_IDENTITY, "patient_name", "patient_sex", "age_years", "study_date", "study_description")
    shown = {name: getattr(header, name) for name in names}
    shown["modality"] = header.modality if received.not_analysed is None else study["modality"] or header.modality
    return {name: value for name, value in shown.items() if value not in ("", None)}


def _fit(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    """Cut received text to the width of its column; the file keeps it whole."""
    widths = {column.name: getattr(column.type, "length", None) for column in table.columns}
    return {name: value[: widths[name]] if isinstance(value, str) else value for name, value in row.items()}


def known_hashes(store: Store, hashes: Sequence[str]) -> set[str]:
    """Those of ``hashes`` (sha256 of files) that an instance names."""
    known: set[str] = set()
    with store.reading() as connection:
        for start in range(0, len(hashes), _HASHES_A_QUERY):
            some = instances.c.sha256.in_(hashes[start : start + _HASHES_A_QUERY])
            known.update(connection.execute(select(instances.c.sha256).where(some)).scalars())
    return known
