"""How the database would find what it is asked for."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, event

# Where a table is small PostgreSQL reads and sorts it whole, whatever indexes there are.
_AS_IF_LARGE = "SET enable_seqscan = off; SET enable_sort = off; SET enable_bitmapscan = off"


def plans(engine: Engine, ask: Any, *, as_if_large: bool = False) -> list[str]:
    """Of every statement that ``ask`` makes the database run."""
    given: dict[str, Any] = {}

    def note(_: object, __: object, statement: str, parameters: Any, *___: object) -> None:
        if statement.lstrip().startswith("SELECT"):
            given.setdefault(statement, parameters)

    event.listen(engine, "before_cursor_execute", note)
    ask()
    event.remove(engine, "before_cursor_execute", note)
    is_postgresql = engine.dialect.name == "postgresql"
    how = "EXPLAIN " if is_postgresql else "EXPLAIN QUERY PLAN "
    with engine.connect() as connection:
        if as_if_large and is_postgresql:
            connection.exec_driver_sql(_AS_IF_LARGE)  # rolled back with the transaction
        return [
            "\n".join(str(line[-1]) for line in connection.exec_driver_sql(how + statement, parameters))
            for statement, parameters in given.items()
        ]
