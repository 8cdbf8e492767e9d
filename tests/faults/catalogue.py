"""`deploy/FAULTS.md`: what the daemon does is written by people; ``python -m tests.faults.catalogue`` names the tests.

Where no test shows a fault the column says why, after ``not shown:``; that stays until a test carries the number.
"""

from __future__ import annotations

import re
from pathlib import Path

if __package__ == "faults":
    from faults.marks import shown
else:
    from tests.faults.marks import shown

PAGE = Path(__file__).resolve().parents[2] / "deploy" / "FAULTS.md"
FAULTS = range(1, 136)
_ROW = re.compile(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \| ([^|]*) \|$", re.MULTILINE)
NOT_SHOWN = "not shown: "


def rows(text: str) -> list[tuple[int, str, str, str]]:
    """(number, fault, what the daemon does, tests or why there are none)."""
    return [(int(number), fault, does, by) for number, fault, does, by in _ROW.findall(text)]


def column(tests: list[str]) -> str:
    return "<br>".join(f"`{test}`" for test in tests)


def renewed(text: str) -> str:
    """With the tests that carry the marks now."""
    by = shown()

    def renew(row: re.Match[str]) -> str:
        number, fault, does, last = row.groups()
        kept = last if last.startswith(NOT_SHOWN) else f"{NOT_SHOWN}say why"
        return f"| {number} | {fault} | {does} | {column(by[int(number)]) if int(number) in by else kept} |"

    return _ROW.sub(renew, text)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
