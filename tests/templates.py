"""Databases that are migrated once and then copied: a test that begins with an empty one need not migrate it again."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from sqlalchemy import Engine, make_url, text

from triage.records import schema
from triage.records.store import open_engine


@cache
def _sqlite() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "template.db"
        _migrate(f"sqlite:///{path}")
        return path.read_bytes()


def sqlite_engine(path: Path) -> Engine:
    """Of a new file."""
    assert not path.exists()
    path.write_bytes(_sqlite())
    return open_engine(f"sqlite:///{path}")


@cache
def postgresql_template(server: str) -> str:
    """Its name; it stays as long as the server."""
    name = "triage_template"
    execute(server, f"DROP DATABASE IF EXISTS {name}", f"CREATE DATABASE {name}")
    _migrate(make_url(server).set(database=name).render_as_string(hide_password=False))
    return name


def execute(server: str, *statements: str) -> None:
    """Outside of a transaction."""
    engine = open_engine(server).execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def _migrate(url: str) -> None:
    engine = open_engine(url)
    schema.upgrade(engine)
    engine.dispose()
