"""The tables, and the ``reading_worklist`` view. `migrations/` builds the same; a test holds them equal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    UniqueConstraint,
    bindparam,
    literal_column,
    or_,
    text,
)
from sqlalchemy.types import TypeDecorator

NAMES = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = MetaData(naming_convention=NAMES)


class UtcDateTime(TypeDecorator[datetime]):
    """Aware datetimes in UTC on both databases (SQLite stores text 'YYYY-MM-DD HH:MM:SS.ffffff')."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:  # noqa: ANN401, ARG002
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _text(name: str, width: int) -> Column[str]:
    return Column(name, String(width), nullable=False, server_default="")


def _priority_columns() -> list[Column[Any]]:
    """The fields of `triage.study.Priority`: of one finding, and of a study the highest so far."""
    return [
        Column("analysis", String(16), nullable=False),
        Column("reason", String(32)),
        Column("flagged", Boolean, nullable=False),
        Column("tier", String(16)),
        Column("etiology", String(16)),
        Column("p_pneumonia", Float),
        Column("words", String(256), nullable=False),
        Column("policy_version", String(64), nullable=False),
    ]


# SQLite increments only INTEGER primary keys by itself.
RowId = BigInteger().with_variant(Integer(), "sqlite")

studies = Table(
    "studies",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    _text("accession_number", 64),
    _text("patient_id", 64),
    _text("patient_name", 256),
    _text("patient_birth_date", 16),
    _text("patient_sex", 16),
    Column("age_years", Float),
    _text("modality", 16),
    _text("study_date", 16),
    _text("study_description", 64),
    Column("received_at", UtcDateTime, nullable=False),
    Column("waiting_since", UtcDateTime, nullable=False),
    Column("overdue_at", UtcDateTime, nullable=False),
    Column("waiting_limit_minutes", Integer, nullable=False),
    Column("clinical_priority", SmallInteger, nullable=False),
    # Counts readings: an image that arrives after the study was read opens the next one.
    Column("episode", Integer, nullable=False),
    Column("status", String(16), nullable=False),
    Column("reader", String(64)),
    Column("status_at", UtcDateTime),
    # The workitem of the current reading in the Unified Procedure Step service, and the lock of who has claimed it.
    Column("workitem_uid", String(64), nullable=False, unique=True),
    Column("transaction_uid", String(64)),
    # An image came after the reader had started: the study cannot be closed before it has been looked at again.
    Column("changed_while_reading", Boolean, nullable=False),
    *_priority_columns(),
    Column("analysed_at", UtcDateTime),
    Column("identity_conflict", Boolean, nullable=False),
)
# What queries look studies up by. Each ends in the order of answers: the first of many are found without sorting.
Index("ix_studies_study_date", studies.c.study_date, studies.c.study_instance_uid)
Index("ix_studies_patient_id", studies.c.patient_id, studies.c.study_date, studies.c.study_instance_uid)
Index("ix_studies_accession_number", studies.c.accession_number, studies.c.study_date, studies.c.study_instance_uid)
# The worklist never looks at studies that have been read, however many there are. Written out, as for jobs below.
IS_UNREAD = studies.c.status != literal_column("'read'")
Index(
    "ix_studies_open",
    studies.c.clinical_priority,
    studies.c.waiting_since,
    sqlite_where=text("status <> 'read'"),
    postgresql_where=text("status <> 'read'"),
)
# Those that were read, as their page shows them: the last first.
Index(
    "ix_studies_read",
    studies.c.status_at,
    studies.c.study_instance_uid,
    sqlite_where=text("status = 'read'"),
    postgresql_where=text("status = 'read'"),
)


instances = Table(
    "instances",
    metadata,
    Column("instance_id", RowId, primary_key=True),
    Column("study_instance_uid", ForeignKey("studies.study_instance_uid"), nullable=False, index=True),
    _text("series_instance_uid", 64),
    Column("sop_instance_uid", String(64), nullable=False),
    Column("sop_class_uid", String(64), nullable=False),
    _text("transfer_syntax_uid", 64),
    Column("sha256", String(64), nullable=False, index=True),
    Column("size_bytes", BigInteger, nullable=False),
    _text("calling_ae", 16),
    Column("received_at", UtcDateTime, nullable=False),
    Column("identity_conflict", Boolean, nullable=False),
    Column("episode", Integer, nullable=False),
    Column("quarantined", Boolean, nullable=False),
    Column("pixels_deleted_at", UtcDateTime, index=True),
    _text("modality", 16),
    UniqueConstraint("sop_instance_uid", "sha256"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", RowId, primary_key=True),
    Column("instance_id", ForeignKey("instances.instance_id"), nullable=False, unique=True),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("available_at", UtcDateTime, nullable=False),
    Column("worker", String(64)),
    Column("token", String(32)),
    Column("lease_until", UtcDateTime),
    Column("reason", String(32)),
    Column("created_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
)
# Written out, never bound: only so does either database see that the partial index below will do.
IS_OPEN = jobs.c.state.in_([literal_column("'queued'"), literal_column("'leased'")])
IS_QUEUED = IS_OPEN & (jobs.c.state == literal_column("'queued'"))
IS_LEASED = IS_OPEN & (jobs.c.state == literal_column("'leased'"))
Index(
    "ix_jobs_open",
    jobs.c.state,
    jobs.c.available_at,
    sqlite_where=text("state IN ('queued', 'leased')"),
    postgresql_where=text("state IN ('queued', 'leased')"),
)

findings = Table(
    "findings",
    metadata,
    Column("instance_id", ForeignKey("instances.instance_id"), primary_key=True),
    Column("weights_sha256", String(64), primary_key=True),
    Column("p_normal", Float),
    Column("p_bacterial", Float),
    Column("p_viral", Float),
    *_priority_columns(),
    Column("found_at", UtcDateTime, nullable=False),
)

# Every policy that ever made a priority, as JSON, under its version.
policies = Table(
    "policies",
    metadata,
    Column("version", String(64), primary_key=True),
    Column("content", String, nullable=False),
    Column("first_used_at", UtcDateTime, nullable=False),
)

# What happened to a study, but for its receipt, which `instances` tells. Only ever added to.
events = Table(
    "events",
    metadata,
    Column("event_id", RowId, primary_key=True),
    Column("study_instance_uid", ForeignKey("studies.study_instance_uid"), nullable=False, index=True),
    Column("at", UtcDateTime, nullable=False),
    Column("kind", String(16), nullable=False),
    # A user, an application entity or a program; empty: the daemon itself.
    _text("who", 64),
    _text("words", 320),
    Column("rank_from", Integer),
    Column("rank_to", Integer),
)

# What readers think of the analysis: the last word of each, for each reading.
opinions = Table(
    "opinions",
    metadata,
    Column("study_instance_uid", ForeignKey("studies.study_instance_uid"), primary_key=True),
    Column("episode", Integer, primary_key=True),
    Column("reader", String(64), primary_key=True),
    Column("opinion", String(16), nullable=False),
    Column("flagged", Boolean, nullable=False),
    Column("policy_version", String(64), nullable=False),
    Column("at", UtcDateTime, nullable=False),
)
# Those on flagged studies are counted, and no others looked at.
Index("ix_opinions_flagged", opinions.c.flagged, opinions.c.opinion)

# Workitems that have ended, and those whose performer has said something of them. Without a state: still the study's.
workitems = Table(
    "workitems",
    metadata,
    Column("workitem_uid", String(64), primary_key=True),
    Column("study_instance_uid", ForeignKey("studies.study_instance_uid"), nullable=False, index=True),
    Column("state", String(16)),
    Column("reader", String(64)),
    Column("transaction_uid", String(64)),
    Column("ended_at", UtcDateTime),
    # The last event of the study that happened to this workitem.
    Column("last_event_id", BigInteger),
    # A data set in the DICOM JSON model.
    Column("progress", String, nullable=False, server_default=""),
)
# The last to end are asked for, however many have.
Index(
    "ix_workitems_ended",
    workitems.c.ended_at,
    sqlite_where=text("state IS NOT NULL"),
    postgresql_where=text("state IS NOT NULL"),
)

# Who wants to be told of changes, up to which event and instance it has been, and who is telling it just now.
subscribers = Table(
    "subscribers",
    metadata,
    Column("ae_title", String(16), primary_key=True),
    Column("event_id", BigInteger, nullable=False),
    Column("instance_id", BigInteger, nullable=False),
    Column("lease_until", UtcDateTime),
)

# Of one workitem, or of all under the UID that the standard has for it. Excluded: of all but this one.
subscriptions = Table(
    "subscriptions",
    metadata,
    Column("ae_title", ForeignKey("subscribers.ae_title"), primary_key=True),
    Column("workitem_uid", String(64), primary_key=True),
    Column("excluded", Boolean, nullable=False),
    # Of workitems that come later nothing is told.
    Column("suspended_at", UtcDateTime),
    # Whether the state has been told that it found when it began.
    Column("told", Boolean, nullable=False),
)

# The last word of each order, kept for images that have not come yet. A patient ID that was not given is "".
orders = Table(
    "orders",
    metadata,
    Column("order_id", RowId, primary_key=True),
    Column("accession_number", String(64), nullable=False),
    Column("patient_id", String(64), nullable=False),
    Column("clinical_priority", SmallInteger, nullable=False),
    Column("cancelled", Boolean, nullable=False),
    _text("who", 64),
    _text("source", 64),
    Column("at", UtcDateTime, nullable=False, index=True),
    UniqueConstraint("accession_number", "patient_id"),
)

# Messages that came over HL7: of those that were used only what tells that one comes again, the others whole.
hl7_messages = Table(
    "hl7_messages",
    metadata,
    Column("message_id", RowId, primary_key=True),
    # Of sender, control ID and content, but not of the time it was sent.
    Column("sha256", String(64), nullable=False, unique=True),
    Column("at", UtcDateTime, nullable=False, index=True),
    Column("answer", String(2), nullable=False),
    _text("who", 64),
    _text("address", 64),
    _text("problem", 128),
    Column("times", Integer, nullable=False),
    Column("content", LargeBinary),
)
Index(
    "ix_hl7_messages_refused",
    hl7_messages.c.message_id,
    sqlite_where=text("content IS NOT NULL"),
    postgresql_where=text("content IS NOT NULL"),
)

# Which studies the modality worklist was asked about, how often, and when it may be asked again.
enquiries = Table(
    "enquiries",
    metadata,
    Column("study_instance_uid", ForeignKey("studies.study_instance_uid"), primary_key=True),
    Column("asked", Integer, nullable=False),
    Column("next_at", UtcDateTime, nullable=False),
)

# Every process says every few seconds that it lives; who ends in good order takes its row along.
processes = Table(
    "processes",
    metadata,
    Column("process", String(128), primary_key=True),
    Column("kind", String(16), nullable=False),
    # Of a worker: whether it could not load the network.
    Column("without_network", Boolean, nullable=False),
    Column("beat_at", UtcDateTime, nullable=False),
)


def _kept_for_study() -> ColumnElement[bool]:
    patient = bindparam("patient_id", type_=orders.c.patient_id.type)
    return (
        (orders.c.accession_number == bindparam("accession_number", type_=orders.c.accession_number.type))
        & or_(patient == "", orders.c.patient_id == "", orders.c.patient_id == patient)
        & ~orders.c.cancelled
    )


# Of the order kept for a study, by its accession number and patient ID.
KEPT_FOR_STUDY = _kept_for_study()
