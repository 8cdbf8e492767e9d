"""The fault suite: ``python -m tests.faults [1,11-14 | WORD]``. Figures go to build/faults.json.

Numbers choose faults of `deploy/FAULTS.md`, a word chooses tests by their names. ROUNDS: how often the ledger kills.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.faults.table import Table

ROOT = Path(__file__).resolve().parents[2]


def numbers(chosen: str) -> frozenset[int]:
    """Of ``1,11-14``; none of a word."""
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", chosen):
        return frozenset()
    spans = [part.partition("-") for part in chosen.split(",")]
    return frozenset(n for first, _, last in spans for n in range(int(first), int(last or first) + 1))


def main(chosen: str = "") -> int:
    """As pytest exits."""
    only = numbers(chosen)
    word = ["-k", chosen] if chosen and not only else []
    table = Table(out=ROOT / "build" / "faults.json", only=only)
    return int(pytest.main(["-m", "fault", *word, str(ROOT / "tests")], plugins=[table]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
