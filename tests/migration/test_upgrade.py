"""A database of an earlier release keeps what it holds."""

from __future__ import annotations

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from triage.records import schema
from triage.records.store import open_engine
from triage.study import workitem_uid

STUDY = """
INSERT INTO studies (study_instance_uid, received_at, waiting_since, overdue_at, waiting_limit_minutes,
    clinical_priority, episode, status, changed_while_reading, analysis, flagged, words, policy_version,
    identity_conflict)
VALUES (:uid, '2026-01-05 08:00:00', '2026-01-05 08:00:00', '2026-01-05 12:00:00', 240, 2, 1, 'unread', false,
    'pending', false, 'pending', 'default-1', false)"""
INSTANCE = """
INSERT INTO instances (instance_id, study_instance_uid, sop_instance_uid, sop_class_uid, sha256, size_bytes,
    received_at, identity_conflict, episode, quarantined)
VALUES (:number, :uid, :uid, '1.2.840.10008.5.1.4.1.1.1', :uid, 1, '2026-01-05 08:00:00', false, 1, false)"""
JOB = """
INSERT INTO jobs (job_id, instance_id, state, attempts, available_at, created_at)
VALUES (:number, :number, 'queued', 0, '2026-01-05 08:00:00', '2026-01-05 08:00:00')"""


def at_revision(database_url: str, revision: str) -> Engine:
    engine = open_engine(database_url)
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    return engine


@pytest.mark.fault(119)
def test_each_study_of_the_first_release_gets_its_workitem_and_stays_on_the_list(database_url: str) -> None:
    engine = at_revision(database_url, "0001")
    with engine.begin() as connection:
        for number in range(3):
            held = {"uid": f"1.2.{number}", "number": number + 1}
            connection.execute(text(STUDY), {"uid": held["uid"]})
            connection.execute(text(INSTANCE), held)
            connection.execute(text(JOB), {"number": held["number"]})
    schema.upgrade(engine)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT study_instance_uid, workitem_uid FROM studies")).all()
        ranks = connection.execute(text("SELECT study_instance_uid FROM reading_worklist ORDER BY rank")).scalars()
        assert {row[0]: row[1] for row in found} == {f"1.2.{n}": workitem_uid(f"1.2.{n}", 1) for n in range(3)}
        assert list(ranks) == ["1.2.0", "1.2.1", "1.2.2"]
        assert connection.execute(text("SELECT count(*) FROM jobs JOIN instances USING (instance_id)")).scalar() == 3
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(text(JOB), {"number": 9})  # keys are held to again
    engine.dispose()
