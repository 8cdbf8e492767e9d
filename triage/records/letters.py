"""Texts of patients compared whatever the case of their letters, of all scripts.

SQLite folds ASCII alone; PostgreSQL what the locale of its database knows.
"""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import ColumnElement, String, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction


class folded(GenericFunction[str]):  # noqa: N801 - a function of SQL, which takes its name
    """A text without the difference of capitals."""

    type = String()
    inherit_cache = True


@compiles(folded, "postgresql")
def _lower(element: Any, compiler: SQLCompiler, **how: Any) -> str:  # noqa: ANN401 - as the library hands it over
    return f"lower{compiler.function_argspec(element, **how)}"


def teach_folding(connection: Any) -> None:  # noqa: ANN401 - the driver has no types
    """SQLite, on this connection."""
    connection.create_function("folded", 1, _fold, deterministic=True)


def _fold(text: str | None) -> str | None:
    return None if text is None else text.casefold()


def stands_in(column: ColumnElement[str], word: str) -> ColumnElement[bool]:
    """Whether the word is a part of the column's text, letter by letter but for their case."""
    if word.isascii():  # which every database folds by itself, in a tenth of the time
        return column.icontains(word, autoescape=True)
    escaped = re.sub(r"[\\%_]", r"\\\g<0>", word)
    return folded(column).like(folded(literal(f"%{escaped}%", String())), escape="\\")
