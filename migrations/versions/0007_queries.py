"""What queries need: the modality of each instance, and studies by date, patient and order."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_ORDER = ["study_date", "study_instance_uid"]


def upgrade() -> None:
    op.add_column("instances", sa.Column("modality", sa.String(length=16), server_default="", nullable=False))
    # Those that are held came with the study's own; a report or a presentation state among films is not told apart.
    op.execute(
        "UPDATE instances SET modality = (SELECT s.modality FROM studies AS s "
        "WHERE s.study_instance_uid = instances.study_instance_uid)"
    )
    op.create_index("ix_studies_study_date", "studies", _ORDER, unique=False)
    op.create_index("ix_studies_patient_id", "studies", ["patient_id", *_ORDER], unique=False)
    op.create_index("ix_studies_accession_number", "studies", ["accession_number", *_ORDER], unique=False)


def downgrade() -> None:
    for column in ("accession_number", "patient_id", "study_date"):
        op.drop_index(f"ix_studies_{column}", table_name="studies")
    op.drop_column("instances", "modality")
