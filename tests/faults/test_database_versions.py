"""Databases of other versions: a newer one is refused, an older one is upgraded once, whole, whoever dies or meets."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.synchronize import Barrier

import pytest
from alembic import command
from alembic.config import Config
from running import Daemon
from sqlalchemy import Engine, text

from triage.records import schema
from triage.records.store import open_engine

SPAWN = multiprocessing.get_context("spawn")
STUDY = """
INSERT INTO studies (study_instance_uid, received_at, waiting_since, overdue_at, waiting_limit_minutes,
    clinical_priority, episode, status, changed_while_reading, analysis, flagged, words, policy_version,
    identity_conflict)
VALUES (:uid, '2026-01-05 08:00:00', '2026-01-05 08:00:00', '2026-01-05 12:00:00', 240, 2, 1, 'unread', false,
    'pending', false, 'pending', 'default-1', false)"""


def of_the_first_release(database_url: str) -> Engine:
    """With three studies."""
    engine = open_engine(database_url)
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for number in range(3):
            connection.execute(text(STUDY), {"uid": f"1.2.{number}"})
    return engine


def version(engine: Engine) -> str | None:
    with engine.connect() as connection:
        return schema.versions(connection)[0]


def newest(engine: Engine) -> str:
    with engine.connect() as connection:
        return schema.versions(connection)[1][0]


def assert_upgraded(engine: Engine) -> None:
    assert version(engine) == newest(engine)
    with engine.connect() as connection:
        listed = connection.execute(text("SELECT study_instance_uid FROM reading_worklist ORDER BY rank")).scalars()
        assert list(listed) == ["1.2.0", "1.2.1", "1.2.2"]


def die_upgrading(database_url: str) -> None:
    """All tables are changed, nothing is committed."""
    schema.create_view = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
    schema.upgrade(open_engine(database_url))


def upgrade_at_once(database_url: str, at_once: Barrier) -> None:
    engine = open_engine(database_url)
    at_once.wait(60)
    schema.upgrade(engine)
    engine.dispose()


@pytest.mark.fault(89)
def test_an_upgrade_that_is_killed_has_changed_nothing_and_the_next_one_is_whole(database_url: str) -> None:
    engine = of_the_first_release(database_url)
    engine.dispose()
    dying = SPAWN.Process(target=die_upgrading, args=(database_url,))
    dying.start()
    dying.join(60)
    assert dying.exitcode == -signal.SIGKILL
    assert version(engine) == "0001"
    schema.upgrade(engine)
    assert_upgraded(engine)
    engine.dispose()


@pytest.mark.fault(89, 119)
def test_processes_that_start_at_once_upgrade_one_database_once(database_url: str) -> None:
    engine = of_the_first_release(database_url)
    engine.dispose()
    at_once = SPAWN.Barrier(3)
    starting = [SPAWN.Process(target=upgrade_at_once, args=(database_url, at_once)) for _ in range(3)]
    for each in starting:
        each.start()
    for each in starting:
        each.join(120)
    assert [each.exitcode for each in starting] == [0, 0, 0]
    assert_upgraded(engine)
    engine.dispose()


@pytest.mark.fault(89, 120)
def test_a_database_of_a_newer_version_is_refused_in_one_line_that_names_both_and_left_as_it_is(
    make_daemon: Callable[..., Daemon], sqlite_url: str
) -> None:
    engine = open_engine(sqlite_url)
    schema.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    ended = make_daemon(database_url=sqlite_url).run("serve")
    assert ended.returncode == 2
    (line,) = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
    assert "9999" in line
    assert newest(engine) in line
    assert version(engine) == "9999"
    engine.dispose()
