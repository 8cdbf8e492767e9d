"""Accesses say more where peers need it, and which of them still wait to be told to an audit repository."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("accesses", sa.Column("details", sa.Text(), server_default="", nullable=False))
    # None of those that are there: a repository is told what happens from now on.
    op.add_column("accesses", sa.Column("waits", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_index(
        "ix_accesses_waits",
        "accesses",
        ["access_id"],
        unique=False,
        sqlite_where=sa.text("waits"),
        postgresql_where=sa.text("waits"),
    )


def downgrade() -> None:
    """What waited for the repository is not sent any more."""
    op.drop_index("ix_accesses_waits", table_name="accesses")
    op.drop_column("accesses", "waits")
    op.drop_column("accesses", "details")
