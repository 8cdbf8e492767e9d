"""Users, their sessions and tokens, and the accesses to studies."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("user_name", sa.String(length=64), nullable=False),
        sa.Column("folded_name", sa.String(length=192), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("password_hash", sa.String(length=256), nullable=True),
        sa.Column("issuer", sa.String(length=256), server_default="", nullable=False),
        sa.Column("subject", sa.String(length=256), nullable=False),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("user_name", name=op.f("pk_users")),
        sa.UniqueConstraint("folded_name", name=op.f("uq_users_folded_name")),
        sa.UniqueConstraint("issuer", "subject", name=op.f("uq_users_issuer")),
    )
    _add_keys()
    op.create_table(
        "accesses",
        sa.Column("access_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("line_id", sa.String(length=32), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("who", sa.String(length=64), nullable=False),
        sa.Column("verb", sa.String(length=32), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("access_id", name=op.f("pk_accesses")),
        sa.UniqueConstraint("line_id", name=op.f("uq_accesses_line_id")),
    )
    for column in ("at", "study_instance_uid"):
        op.create_index(op.f(f"ix_accesses_{column}"), "accesses", [column], unique=False)


def _add_keys() -> None:
    op.create_table(
        "sessions",
        sa.Column("session_sha256", sa.String(length=64), nullable=False),
        sa.Column("user_name", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["user_name"], ["users.user_name"], name=op.f("fk_sessions_user_name")),
        sa.PrimaryKeyConstraint("session_sha256", name=op.f("pk_sessions")),
    )
    op.create_index(op.f("ix_sessions_user_name"), "sessions", ["user_name"], unique=False)
    op.create_table(
        "tokens",
        sa.Column("token_id", sa.String(length=16), nullable=False),
        sa.Column("token_sha256", sa.String(length=64), nullable=False),
        sa.Column("user_name", sa.String(length=64), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["user_name"], ["users.user_name"], name=op.f("fk_tokens_user_name")),
        sa.PrimaryKeyConstraint("token_id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("token_sha256", name=op.f("uq_tokens_token_sha256")),
    )
    op.create_index(op.f("ix_tokens_user_name"), "tokens", ["user_name"], unique=False)


def downgrade() -> None:
    """Users and the audit are lost: the page is open to this machine again, and to no other."""
    for column in ("study_instance_uid", "at"):
        op.drop_index(op.f(f"ix_accesses_{column}"), table_name="accesses")
    op.drop_table("accesses")
    for table in ("tokens", "sessions"):
        op.drop_index(op.f(f"ix_{table}_user_name"), table_name=table)
        op.drop_table(table)
    op.drop_table("users")
