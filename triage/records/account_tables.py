"""The tables of users, their sessions and tokens, and of accesses. Secrets are kept as digests alone."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, ForeignKey, Index, String, Table, Text, UniqueConstraint, false, text

from triage.records.tables import RowId, UtcDateTime, metadata

users = Table(
    "users",
    metadata,
    Column("user_name", String(64), primary_key=True),
    # Two names that differ only in their case would be taken for one.
    Column("folded_name", String(192), nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    # Argon2id. None: the site's identity provider knows who it is.
    Column("password_hash", String(256)),
    # Of the identity provider; for a user with a password here "" and the name.
    Column("issuer", String(256), nullable=False, server_default=""),
    Column("subject", String(256), nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # Attempts to sign in before this do not count: they are remembered by each web process alone.
    Column("unlocked_at", UtcDateTime),
    UniqueConstraint("issuer", "subject"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("session_sha256", String(64), primary_key=True),
    Column("user_name", ForeignKey("users.user_name"), nullable=False, index=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("token_id", String(16), primary_key=True),
    Column("token_sha256", String(64), nullable=False, unique=True),
    Column("user_name", ForeignKey("users.user_name"), nullable=False, index=True),
    Column("label", String(64), nullable=False),
    Column("role", String(16)),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("used_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
)

# Who did what to which study. Only ever added to; no foreign keys, so that it holds whatever becomes of the rest.
accesses = Table(
    "accesses",
    metadata,
    Column("access_id", RowId, primary_key=True),
    # Given by who noted it: the same line entered twice is one row.
    Column("line_id", String(32), nullable=False, unique=True),
    Column("at", UtcDateTime, nullable=False, index=True),
    Column("who", String(64), nullable=False),
    Column("verb", String(32), nullable=False),
    Column("study_instance_uid", String(64), nullable=False, index=True),
    Column("outcome", String(16), nullable=False),
    Column("address", String(64), nullable=False),
    # JSON of what else is told of accesses over DICOM.
    Column("details", Text, nullable=False, server_default=""),
    # For the site's audit repository.
    Column("waits", Boolean, nullable=False, server_default=false()),
    # What one has done, the last first.
    Index("ix_accesses_who", "who", "access_id"),
    Index("ix_accesses_waits", "access_id", sqlite_where=text("waits"), postgresql_where=text("waits")),
)
