"""Workitems that have ended, subscribers and their subscriptions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "workitems",
        sa.Column("workitem_uid", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=True),
        sa.Column("reader", sa.String(length=64), nullable=True),
        sa.Column("transaction_uid", sa.String(length=64), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_event_id", sa.BigInteger(), nullable=True),
        sa.Column("progress", sa.String(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(
            ["study_instance_uid"], ["studies.study_instance_uid"], name=op.f("fk_workitems_study_instance_uid")
        ),
        sa.PrimaryKeyConstraint("workitem_uid", name=op.f("pk_workitems")),
    )
    op.create_index(op.f("ix_workitems_study_instance_uid"), "workitems", ["study_instance_uid"], unique=False)
    op.create_table(
        "subscribers",
        sa.Column("ae_title", sa.String(length=16), nullable=False),
        sa.Column("event_id", sa.BigInteger(), nullable=False),
        sa.Column("instance_id", sa.BigInteger(), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("ae_title", name=op.f("pk_subscribers")),
    )
    op.create_table(
        "subscriptions",
        sa.Column("ae_title", sa.String(length=16), nullable=False),
        sa.Column("workitem_uid", sa.String(length=64), nullable=False),
        sa.Column("excluded", sa.Boolean(), nullable=False),
        sa.Column("suspended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("told", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["ae_title"], ["subscribers.ae_title"], name=op.f("fk_subscriptions_ae_title")),
        sa.PrimaryKeyConstraint("ae_title", "workitem_uid", name=op.f("pk_subscriptions")),
    )


def downgrade() -> None:
    """Workitems that have ended and subscriptions are lost: subscribers have to subscribe again."""
    op.drop_table("subscriptions")
    op.drop_table("subscribers")
    op.drop_index(op.f("ix_workitems_study_instance_uid"), table_name="workitems")
    op.drop_table("workitems")
