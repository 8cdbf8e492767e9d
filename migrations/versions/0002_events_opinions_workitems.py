"""Events and opinions of studies; the workitem of each reading."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from triage.study import workitem_uid

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ROWS_AT_ONCE = 1000


def upgrade() -> None:
    _add_workitems()
    op.create_table(
        "events",
        sa.Column("event_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("who", sa.String(length=64), server_default="", nullable=False),
        sa.Column("words", sa.String(length=320), server_default="", nullable=False),
        sa.Column("rank_from", sa.Integer(), nullable=True),
        sa.Column("rank_to", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["study_instance_uid"], ["studies.study_instance_uid"], name=op.f("fk_events_study_instance_uid")
        ),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_events")),
    )
    op.create_index(op.f("ix_events_study_instance_uid"), "events", ["study_instance_uid"], unique=False)
    op.create_table(
        "opinions",
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("episode", sa.Integer(), nullable=False),
        sa.Column("reader", sa.String(length=64), nullable=False),
        sa.Column("opinion", sa.String(length=16), nullable=False),
        sa.Column("flagged", sa.Boolean(), nullable=False),
        sa.Column("policy_version", sa.String(length=64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_instance_uid"], ["studies.study_instance_uid"], name=op.f("fk_opinions_study_instance_uid")
        ),
        sa.PrimaryKeyConstraint("study_instance_uid", "episode", "reader", name=op.f("pk_opinions")),
    )


def _add_workitems() -> None:
    """Each study that is held gets its own before the column may no longer be empty."""
    op.add_column("studies", sa.Column("workitem_uid", sa.String(length=64), nullable=True))
    op.add_column("studies", sa.Column("transaction_uid", sa.String(length=64), nullable=True))
    connection = op.get_bind()
    studies = sa.table("studies", sa.column("study_instance_uid"), sa.column("episode"), sa.column("workitem_uid"))
    fill = (
        sa.update(studies)
        .where(studies.c.study_instance_uid == sa.bindparam("uid"))
        .values(workitem_uid=sa.bindparam("own"))
    )
    held = connection.execute(sa.select(studies.c.study_instance_uid, studies.c.episode)).all()
    for start in range(0, len(held), _ROWS_AT_ONCE):
        some = held[start : start + _ROWS_AT_ONCE]
        connection.execute(fill, [{"uid": uid, "own": workitem_uid(uid, episode)} for uid, episode in some])
    with op.batch_alter_table("studies") as batch:
        batch.alter_column("workitem_uid", existing_type=sa.String(length=64), nullable=False)
        batch.create_unique_constraint(op.f("uq_studies_workitem_uid"), ["workitem_uid"])


def downgrade() -> None:
    """Histories and opinions are lost."""
    op.drop_table("opinions")
    op.drop_index(op.f("ix_events_study_instance_uid"), table_name="events")
    op.drop_table("events")
    with op.batch_alter_table("studies") as batch:
        batch.drop_constraint(op.f("uq_studies_workitem_uid"), type_="unique")
        batch.drop_column("transaction_uid")
        batch.drop_column("workitem_uid")
