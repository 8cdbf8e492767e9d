"""A PostgreSQL role for viewers, which can read the view ``reading_worklist`` and nothing else of ours."""

from __future__ import annotations

import re
from typing import Any, LiteralString

from psycopg import Connection as Driver
from psycopg import sql
from sqlalchemy import Connection, text

from triage.errors import SettingsError, TriageError
from triage.records.store import Store

VIEW = "reading_worklist"
_MARK = "worklist triage: may read reading_worklist"
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_PASSWORD_MIN = 8
_CREATE: LiteralString = "CREATE ROLE {role}"
_STATEMENTS: tuple[LiteralString, ...] = (
    "ALTER ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD {verifier}",
    "COMMENT ON ROLE {role} IS {mark}",
    "REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {role}",
    "GRANT CONNECT ON DATABASE {database} TO {role}",
    "GRANT USAGE ON SCHEMA {schema} TO {role}",
    "GRANT SELECT ON {view} TO {role}",
    # For convenience: whoever logs in can set them otherwise. What is not granted stays out of reach.
    "ALTER ROLE {role} SET default_transaction_read_only = on",
    "ALTER ROLE {role} SET statement_timeout = '30s'",
    "ALTER ROLE {role} SET search_path = {schema}",
)
# What the role can do besides.
_MORE = """
SELECT quote_ident(c.relname) FROM pg_class AS c
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  AND CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(:name, c.oid, 'SELECT, USAGE, UPDATE')
           WHEN c.relname = :view THEN has_table_privilege(:name, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
           ELSE has_table_privilege(:name, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')
             OR has_any_column_privilege(:name, c.oid, 'SELECT, INSERT, UPDATE') END
UNION ALL SELECT 'schema ' || current_schema() WHERE has_schema_privilege(:name, current_schema(), 'CREATE')
UNION ALL SELECT 'role ' || quote_ident(r.rolname) FROM pg_auth_members AS m
JOIN pg_roles AS r ON r.oid = m.roleid WHERE m.member = (SELECT oid FROM pg_roles WHERE rolname = :name)
"""


def make_viewer(store: Store, name: str, password: str) -> bool:
    """Make the role, or bring one of ours to this state with this password; whether it is new. One transaction.

    Raise TriageError for a database, a name or a password that will not do, and for a role that is not ours: it may
    own or be able to do what a viewer must not.
    """
    if store.backend != "postgresql":
        raise TriageError("SQLite has no roles: viewers open the file with mode=ro")
    if not _NAME.fullmatch(name) or name.startswith("pg_"):
        raise SettingsError("a role's name is of a-z, 0-9 and _, at most 63, and begins with none of 0-9 and not pg_")
    if len(password) < _PASSWORD_MIN or not password.isprintable():
        raise SettingsError(f"a password has at least {_PASSWORD_MIN} characters, none of them a control character")
    with store.writing() as connection:
        is_new = _is_new(connection, name)
        _make(_driver(connection), name, password, is_new=is_new)
        _refuse_more(connection, name)
    return is_new


def _is_new(connection: Connection, name: str) -> bool:
    """Raise TriageError if there is a role of this name that was not made here."""
    mark = text("SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = :name")
    found = connection.execute(mark, {"name": name}).all()
    if found and found[0][0] != _MARK:
        raise TriageError(f"role {name} is there already, and was not made by this command: choose another name")
    return not found


def _make(driver: Driver[Any], name: str, password: str, *, is_new: bool) -> None:
    """The server gets a verifier instead of the password: its log may keep statements."""
    verifier = driver.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()
    database, schema = driver.execute("SELECT current_database(), current_schema()").fetchone() or ("", "")
    names = {"role": name, "database": database, "schema": schema, "view": VIEW}
    words: dict[str, sql.Composable] = {each: sql.Identifier(value) for each, value in names.items()}
    words |= {"verifier": sql.Literal(verifier), "mark": sql.Literal(_MARK)}
    for statement in (_CREATE, *_STATEMENTS) if is_new else _STATEMENTS:
        driver.execute(sql.SQL(statement).format(**words))


def _refuse_more(connection: Connection, name: str) -> None:
    """Rights may come from elsewhere: everybody's (PUBLIC), or another role's. Raise TriageError."""
    found = connection.execute(text(_MORE), {"name": name, "view": VIEW}).scalars().all()
    if found:
        raise TriageError(f"role {name} could also use {', '.join(found[:5])}: revoke what PUBLIC or its roles may")


def _driver(connection: Connection) -> Driver[Any]:
    driver = connection.connection.driver_connection
    if not isinstance(driver, Driver):
        raise TypeError(driver)
    return driver
