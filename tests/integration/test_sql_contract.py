"""What SQL consumers may rely on: the view as its document has it, and a role that can read the view alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, make_url, text

from making import POLICY, received
from triage.errors import Reason, TriageError
from triage.policy import not_analysed
from triage.records import schema
from triage.records.intake import Intake
from triage.records.queue import Queue, Result
from triage.records.reading import Reading
from triage.records.store import DatabaseError, Store, open_engine
from triage.records.viewer import make_viewer
from triage.study import Analysis, Etiology, Finding, Priority, Tier

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "deploy" / "SQL.md").read_text(encoding="utf-8")
COLUMNS = [
    tuple(cell.strip(" `") for cell in line.strip("|").split("|"))[:4]
    for line in DOCUMENT.splitlines()
    if line.startswith("| `")
]
PASSWORD = "correct horse 'battery' \"staple\""
FLAGGED = Priority(
    analysis=Analysis.ANALYSED,
    flagged=True,
    tier=Tier.LIKELY,
    etiology=Etiology.BACTERIAL,
    p_pneumonia=0.9,
    words="flagged: pneumonia likely",
    policy_version=POLICY.version,
)


def fill(engine: Engine) -> None:
    """One study that was analysed and is being read, one that cannot be analysed, one that waits."""
    store = Store(engine)
    queue = Queue(store, POLICY)
    for number in (1, 2):
        Intake(store, POLICY).receive(received(number))
        (job,) = queue.claim("test", 60.0)
        found = Finding(weights_sha256="0" * 64, p_normal=0.1, p_bacterial=0.6, p_viral=0.3)
        other = not_analysed(Reason.AGE_UNKNOWN, POLICY)
        shown = (found, FLAGGED) if number == 1 else (Finding(reason=Reason.AGE_UNKNOWN), other)
        queue.finish([Result(job=job, finding=shown[0], priority=shown[1])])
    Intake(store, POLICY).receive(received(3, age_years=None))
    Reading(store).start_reading("1.2.1", "Dr Adler")


# -- the document --------------------------------------------------------------------------------------------------


def test_the_document_names_the_columns_of_the_view_in_their_order(engine: Engine) -> None:
    with engine.connect() as connection:
        found = connection.execute(text("SELECT * FROM reading_worklist"))
        assert [name for name, *_ in COLUMNS] == list(found.keys())


def test_the_document_names_the_types_of_the_view(engine: Engine) -> None:
    fill(engine)
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            stated = {name: kind.lower() for name, kind, _, _ in COLUMNS}
            for name, kind in stated.items():
                found = connection.execute(text(f"SELECT typeof({name}) FROM reading_worklist"))
                assert set(found.scalars()) <= {kind, "null"}, name
            return
        types = text(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = 'reading_worklist'::regclass AND attnum > 0 ORDER BY attnum"
        )
        short = {"character varying": "varchar", "timestamp with time zone": "timestamptz"}
        found = {
            name: re.sub("|".join(short), lambda match: short[match[0]], kind)
            for name, kind in connection.execute(types)
        }
        assert found == {name: kind for name, _, kind, _ in COLUMNS}


def test_what_the_document_says_is_never_null_never_is(engine: Engine) -> None:
    fill(engine)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT * FROM reading_worklist")).mappings().all()
    nulls = {name for row in rows for name, value in row.items() if value is None}
    filled = {name for row in rows for name, value in row.items() if value is not None}
    assert len(rows) == 3
    assert nulls == {name for name, _, _, may_be in COLUMNS if may_be == "yes"}
    assert filled == {name for name, *_ in COLUMNS}


def test_the_statements_of_the_document_run(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE your_worklist (study_instance_uid VARCHAR(64), arrived_at INTEGER)"))
        for statement in re.findall(r"```sql\n(.*?)```", DOCUMENT, re.DOTALL):
            connection.execute(text(statement)).all()


# -- order and joining ---------------------------------------------------------------------------------------------


@pytest.mark.fault(132)
def test_the_order_is_total_and_the_same_each_time_even_for_studies_that_came_at_once(engine: Engine) -> None:
    store = Store(engine)
    for number in range(20):
        Intake(store, POLICY).receive(received(number))
    with engine.begin() as connection:
        at_once = "SELECT max(waiting_since) FROM studies"
        connection.execute(text(f"UPDATE studies SET waiting_since = ({at_once})"))
        asked = text("SELECT rank, study_instance_uid FROM reading_worklist ORDER BY rank")
        first, again = connection.execute(asked).all(), connection.execute(asked).all()
    assert first == again
    assert [rank for rank, _ in first] == list(range(1, 21))
    assert [uid for _, uid in first] == sorted(f"1.2.{number}" for number in range(20))


def test_a_left_join_loses_no_study_of_the_consumer_and_doubles_none(engine: Engine) -> None:
    fill(engine)
    Reading(Store(engine)).close("1.2.2")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE your_worklist (study_instance_uid VARCHAR(64), arrived_at INTEGER)"))
        for number in (9, 8, 3, 2, 1):
            insert = text("INSERT INTO your_worklist VALUES (:uid, :at)")
            connection.execute(insert, {"uid": f"1.2.{number}", "at": -number})
        (join,) = [each for each in re.findall(r"```sql\n(.*?)```", DOCUMENT, re.DOTALL) if "LEFT JOIN" in each]
        rows = [row.study_instance_uid for row in connection.execute(text(join))]
    # Those of the worklist first; what was read, and what never came here, in the consumer's own order.
    assert rows == ["1.2.1", "1.2.3", "1.2.9", "1.2.8", "1.2.2"]


# -- a role for viewers --------------------------------------------------------------------------------------------


@pytest.fixture
def owner(postgresql_url: str) -> Iterator[Engine]:
    engine = open_engine(postgresql_url)
    schema.upgrade(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def role(owner: Engine) -> Iterator[str]:
    name = f"viewer_{uuid4().hex[:12]}"
    yield name
    with owner.begin() as connection:
        if connection.execute(text("SELECT 1 FROM pg_roles WHERE rolname = :name"), {"name": name}).first():
            connection.execute(text(f"DROP OWNED BY {name}"))
            connection.execute(text(f"DROP ROLE {name}"))


@contextmanager
def acting(owner: Engine, role: str) -> Iterator[Connection]:
    """With the rights of the role, logged in as it."""
    url = owner.url.set(username=role, password=PASSWORD)
    engine = open_engine(url.render_as_string(hide_password=False))
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def refused(connection: Connection, statement: str) -> bool:
    """And undone, if it was not."""
    try:
        connection.execute(text(statement))
    except DatabaseError as error:
        return any(words in str(error) for words in ("permission denied", "must be owner", "cannot update view"))
    finally:
        connection.rollback()
    return False


def test_the_role_reads_the_view_and_can_neither_read_tables_nor_write(owner: Engine, role: str) -> None:
    fill(owner)
    assert make_viewer(Store(owner), role, PASSWORD)
    with acting(owner, role) as connection:
        assert connection.execute(text("SELECT current_user")).scalar_one() == role
        assert len(connection.execute(text("SELECT * FROM reading_worklist ORDER BY rank")).all()) == 3
        connection.rollback()
        connection.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE"))  # as anybody could
        connection.commit()
        with owner.connect() as ours:
            listed = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            tables = list(ours.execute(text(listed)).scalars())
        assert len(tables) > 5
        for table in tables:
            assert refused(connection, f"SELECT count(*) FROM {table}"), table
            assert refused(connection, f"DELETE FROM {table}"), table
        assert refused(connection, "UPDATE reading_worklist SET status = 'read'")
        assert refused(connection, "CREATE TABLE public.mine (a int)")
        assert refused(connection, "DROP VIEW reading_worklist")


def test_making_the_role_again_changes_its_password_alone(owner: Engine, role: str) -> None:
    assert make_viewer(Store(owner), role, PASSWORD)
    secret = text("SELECT rolpassword FROM pg_authid WHERE rolname = :name")
    with owner.connect() as connection:
        first = connection.execute(secret, {"name": role}).scalar_one()
    assert not make_viewer(Store(owner), role, "another password")
    with owner.connect() as connection:
        again = connection.execute(secret, {"name": role}).scalar_one()
    assert first.startswith("SCRAM-SHA-256$")
    assert again.startswith("SCRAM-SHA-256$")
    assert first != again
    with acting(owner, role) as connection:
        assert connection.execute(text("SELECT * FROM reading_worklist")).all() == []


def test_a_role_that_was_not_made_here_is_left_alone(owner: Engine) -> None:
    mine = str(make_url(str(owner.url)).username)
    with pytest.raises(TriageError, match="was not made by this command"):
        make_viewer(Store(owner), mine, PASSWORD)


def test_a_role_that_could_do_more_is_not_made(owner: Engine, role: str) -> None:
    with owner.begin() as connection:
        connection.execute(text("GRANT SELECT ON studies TO PUBLIC"))
    with pytest.raises(TriageError, match="could also use studies"):
        make_viewer(Store(owner), role, PASSWORD)
    with owner.connect() as connection:
        assert not connection.execute(text("SELECT 1 FROM pg_roles WHERE rolname = :name"), {"name": role}).all()


@pytest.mark.parametrize("name", ["", "Viewer", "a b", 'a"; DROP TABLE studies; --', "pg_mine", "v" * 64, "1a"])
def test_a_name_that_is_none_of_a_role_is_refused(owner: Engine, name: str) -> None:
    with pytest.raises(TriageError, match="a role's name"):
        make_viewer(Store(owner), name, PASSWORD)


def test_sqlite_says_what_to_do_instead(sqlite_url: str) -> None:
    engine = open_engine(sqlite_url)
    with pytest.raises(TriageError, match="mode=ro"):
        make_viewer(Store(engine), "viewer", PASSWORD)
    engine.dispose()


def test_an_upgrade_keeps_who_may_read_the_view(postgresql_url: str) -> None:
    engine, role = open_engine(postgresql_url), f"viewer_{uuid4().hex[:12]}"
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        schema.create_view(connection)
    make_viewer(Store(engine), role, PASSWORD)
    schema.upgrade(engine)
    with acting(engine, role) as connection:
        assert connection.execute(text("SELECT * FROM reading_worklist")).all() == []
    with engine.begin() as connection:
        connection.execute(text(f"DROP OWNED BY {role}"))
        connection.execute(text(f"DROP ROLE {role}"))
    engine.dispose()


def test_the_command_takes_the_password_from_standard_input_and_shows_it_nowhere(
    owner: Engine, role: str, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    url = owner.url.render_as_string(hide_password=False)
    done = subprocess.run(
        [sys.executable, "-m", "daemon.cli", "sql-role", role, "--password-stdin"],
        input=f"{PASSWORD}\n",
        text=True,
        capture_output=True,
        check=True,
        env={**os.environ, "TRIAGE_DATABASE_URL": url, "TRIAGE_DATA_DIR": str(folder)},
    )
    assert f"role {role} made" in done.stdout
    assert PASSWORD not in done.stdout + done.stderr
    with acting(owner, role) as connection:
        assert connection.execute(text("SELECT * FROM reading_worklist")).all() == []
