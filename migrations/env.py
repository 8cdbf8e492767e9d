"""Alembic's entry. `triage.records.schema.upgrade` hands over its connection, locked and in one transaction."""

from __future__ import annotations

from alembic import context

from triage.records.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
