"""Which test shows which fault: read from the tests' text, nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent


@cache
def shown() -> dict[int, list[str]]:
    """By number of the fault ``file.py::test``, in the order of their names."""
    found: dict[int, set[str]] = {}
    for path in TESTS.rglob("test_*.py"):
        for name, number in _marked(ast.parse(path.read_text(encoding="utf-8"))):
            found.setdefault(number, set()).add(f"{path.name}::{name}")
    return {number: sorted(found[number]) for number in sorted(found)}


def _marked(module: ast.Module) -> Iterator[tuple[str, int]]:
    """(test, number): of a decorator, of a parameter in it, or of the whole file's ``pytestmark``."""
    whole = [number for statement in module.body if _is_pytestmark(statement) for number in _numbers(statement)]
    for statement in module.body:
        if isinstance(statement, ast.FunctionDef) and statement.name.startswith("test_"):
            own = [number for decorator in statement.decorator_list for number in _numbers(decorator)]
            yield from ((statement.name, number) for number in (*whole, *own))


def _is_pytestmark(statement: ast.stmt) -> bool:
    if not isinstance(statement, ast.Assign):
        return False
    return any(isinstance(target, ast.Name) and target.id == "pytestmark" for target in statement.targets)


def _numbers(node: ast.AST) -> Iterator[int]:
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "fault":
            yield from (ast.literal_eval(argument) for argument in call.args)
