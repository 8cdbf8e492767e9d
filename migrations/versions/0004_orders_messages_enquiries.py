"""Orders, the messages they come in, and what the modality worklist was asked."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_orders()
    _create_messages()
    op.create_table(
        "enquiries",
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("asked", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_instance_uid"], ["studies.study_instance_uid"], name=op.f("fk_enquiries_study_instance_uid")
        ),
        sa.PrimaryKeyConstraint("study_instance_uid", name=op.f("pk_enquiries")),
    )


def _create_orders() -> None:
    op.create_table(
        "orders",
        sa.Column("order_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("accession_number", sa.String(length=64), nullable=False),
        sa.Column("patient_id", sa.String(length=64), nullable=False),
        sa.Column("clinical_priority", sa.SmallInteger(), nullable=False),
        sa.Column("cancelled", sa.Boolean(), nullable=False),
        sa.Column("who", sa.String(length=64), server_default="", nullable=False),
        sa.Column("source", sa.String(length=64), server_default="", nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("order_id", name=op.f("pk_orders")),
        sa.UniqueConstraint("accession_number", "patient_id", name=op.f("uq_orders_accession_number")),
    )
    op.create_index(op.f("ix_orders_at"), "orders", ["at"], unique=False)


def _create_messages() -> None:
    op.create_table(
        "hl7_messages",
        sa.Column("message_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("answer", sa.String(length=2), nullable=False),
        sa.Column("who", sa.String(length=64), server_default="", nullable=False),
        sa.Column("address", sa.String(length=64), server_default="", nullable=False),
        sa.Column("problem", sa.String(length=128), server_default="", nullable=False),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("message_id", name=op.f("pk_hl7_messages")),
        sa.UniqueConstraint("sha256", name=op.f("uq_hl7_messages_sha256")),
    )
    op.create_index(op.f("ix_hl7_messages_at"), "hl7_messages", ["at"], unique=False)
    op.create_index(
        "ix_hl7_messages_refused",
        "hl7_messages",
        ["message_id"],
        unique=False,
        sqlite_where=sa.text("content IS NOT NULL"),
        postgresql_where=sa.text("content IS NOT NULL"),
    )


def downgrade() -> None:
    """Orders whose images have not come are lost, and refused messages; what was applied stays."""
    op.drop_table("enquiries")
    op.drop_index("ix_hl7_messages_refused", table_name="hl7_messages")
    op.drop_index(op.f("ix_hl7_messages_at"), table_name="hl7_messages")
    op.drop_table("hl7_messages")
    op.drop_index(op.f("ix_orders_at"), table_name="orders")
    op.drop_table("orders")
