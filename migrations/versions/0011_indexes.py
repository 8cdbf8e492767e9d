"""What grows with the years has its indexes: workitems that ended, opinions, and accesses by who."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_workitems_ended",
        "workitems",
        ["ended_at"],
        unique=False,
        sqlite_where=sa.text("state IS NOT NULL"),
        postgresql_where=sa.text("state IS NOT NULL"),
    )
    op.create_index("ix_opinions_flagged", "opinions", ["flagged", "opinion"], unique=False)
    op.create_index("ix_accesses_who", "accesses", ["who", "access_id"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_accesses_who", table_name="accesses")
    op.drop_index("ix_opinions_flagged", table_name="opinions")
    op.drop_index("ix_workitems_ended", table_name="workitems")
