"""Studies that were read are paged, the last first, by an index of their own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_studies_read",
        "studies",
        ["status_at", "study_instance_uid"],
        unique=False,
        sqlite_where=sa.text("status = 'read'"),
        postgresql_where=sa.text("status = 'read'"),
    )


def downgrade() -> None:
    op.drop_index("ix_studies_read", table_name="studies")
