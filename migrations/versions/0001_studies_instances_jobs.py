"""Studies, instances, jobs, findings, policies."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "policies",
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("content", sa.String(), nullable=False),
        sa.Column("first_used_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_policies")),
    )
    op.create_table(
        "studies",
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("accession_number", sa.String(length=64), server_default="", nullable=False),
        sa.Column("patient_id", sa.String(length=64), server_default="", nullable=False),
        sa.Column("patient_name", sa.String(length=256), server_default="", nullable=False),
        sa.Column("patient_birth_date", sa.String(length=16), server_default="", nullable=False),
        sa.Column("patient_sex", sa.String(length=16), server_default="", nullable=False),
        sa.Column("age_years", sa.Float(), nullable=True),
        sa.Column("modality", sa.String(length=16), server_default="", nullable=False),
        sa.Column("study_date", sa.String(length=16), server_default="", nullable=False),
        sa.Column("study_description", sa.String(length=64), server_default="", nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("waiting_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("overdue_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("waiting_limit_minutes", sa.Integer(), nullable=False),
        sa.Column("clinical_priority", sa.SmallInteger(), nullable=False),
        sa.Column("episode", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("reader", sa.String(length=64), nullable=True),
        sa.Column("status_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("changed_while_reading", sa.Boolean(), nullable=False),
        sa.Column("analysis", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=True),
        sa.Column("flagged", sa.Boolean(), nullable=False),
        sa.Column("tier", sa.String(length=16), nullable=True),
        sa.Column("etiology", sa.String(length=16), nullable=True),
        sa.Column("p_pneumonia", sa.Float(), nullable=True),
        sa.Column("words", sa.String(length=256), nullable=False),
        sa.Column("policy_version", sa.String(length=64), nullable=False),
        sa.Column("analysed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("identity_conflict", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("study_instance_uid", name=op.f("pk_studies")),
    )
    op.create_index(
        "ix_studies_open",
        "studies",
        ["clinical_priority", "waiting_since"],
        unique=False,
        sqlite_where=sa.text("status <> 'read'"),
        postgresql_where=sa.text("status <> 'read'"),
    )
    op.create_table(
        "instances",
        sa.Column("instance_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), server_default="", nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), server_default="", nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), server_default="", nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("identity_conflict", sa.Boolean(), nullable=False),
        sa.Column("episode", sa.Integer(), nullable=False),
        sa.Column("quarantined", sa.Boolean(), nullable=False),
        sa.Column("pixels_deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["study_instance_uid"], ["studies.study_instance_uid"], name=op.f("fk_instances_study_instance_uid")
        ),
        sa.PrimaryKeyConstraint("instance_id", name=op.f("pk_instances")),
        sa.UniqueConstraint("sop_instance_uid", "sha256", name=op.f("uq_instances_sop_instance_uid")),
    )
    op.create_index(op.f("ix_instances_pixels_deleted_at"), "instances", ["pixels_deleted_at"], unique=False)
    op.create_index(op.f("ix_instances_sha256"), "instances", ["sha256"], unique=False)
    op.create_index(op.f("ix_instances_study_instance_uid"), "instances", ["study_instance_uid"], unique=False)
    op.create_table(
        "findings",
        sa.Column("instance_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("weights_sha256", sa.String(length=64), nullable=False),
        sa.Column("p_normal", sa.Float(), nullable=True),
        sa.Column("p_bacterial", sa.Float(), nullable=True),
        sa.Column("p_viral", sa.Float(), nullable=True),
        sa.Column("analysis", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=True),
        sa.Column("flagged", sa.Boolean(), nullable=False),
        sa.Column("tier", sa.String(length=16), nullable=True),
        sa.Column("etiology", sa.String(length=16), nullable=True),
        sa.Column("p_pneumonia", sa.Float(), nullable=True),
        sa.Column("words", sa.String(length=256), nullable=False),
        sa.Column("policy_version", sa.String(length=64), nullable=False),
        sa.Column("found_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["instance_id"], ["instances.instance_id"], name=op.f("fk_findings_instance_id")),
        sa.PrimaryKeyConstraint("instance_id", "weights_sha256", name=op.f("pk_findings")),
    )
    op.create_table(
        "jobs",
        sa.Column("job_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("instance_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("available_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("worker", sa.String(length=64), nullable=True),
        sa.Column("token", sa.String(length=32), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.String(length=32), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["instance_id"], ["instances.instance_id"], name=op.f("fk_jobs_instance_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("instance_id", name=op.f("uq_jobs_instance_id")),
    )
    op.create_index(
        "ix_jobs_open",
        "jobs",
        ["state", "available_at"],
        unique=False,
        sqlite_where=sa.text("state IN ('queued', 'leased')"),
        postgresql_where=sa.text("state IN ('queued', 'leased')"),
    )


def downgrade() -> None:
    op.drop_index(
        "ix_jobs_open",
        table_name="jobs",
        sqlite_where=sa.text("state IN ('queued', 'leased')"),
        postgresql_where=sa.text("state IN ('queued', 'leased')"),
    )
    op.drop_table("jobs")
    op.drop_table("findings")
    op.drop_index(op.f("ix_instances_study_instance_uid"), table_name="instances")
    op.drop_index(op.f("ix_instances_sha256"), table_name="instances")
    op.drop_index(op.f("ix_instances_pixels_deleted_at"), table_name="instances")
    op.drop_table("instances")
    op.drop_index(
        "ix_studies_open",
        table_name="studies",
        sqlite_where=sa.text("status <> 'read'"),
        postgresql_where=sa.text("status <> 'read'"),
    )
    op.drop_table("studies")
    op.drop_table("policies")
