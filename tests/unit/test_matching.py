"""Attribute matching: what the standard says of each kind of key, at a cost that no key can drive up."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.dicom.matching import matches


@pytest.mark.parametrize(
    ("vr", "key", "value", "found"),
    [
        ("LO", "", "P1", True),
        ("LO", "*", "", True),
        ("LO", "P1", "P1", True),
        ("LO", "p1", "P1", False),
        ("LO", "P", "P1", False),
        ("LO", "P?", "P1", True),
        ("LO", "P?", "P", False),
        ("LO", "*1", "P1", True),
        ("LO", "a*b*a", "aba", True),
        ("LO", "a*a", "a", False),
        ("LO", "P.", "P1", False),
        ("LO", "P[1]*", "P[1]x", True),
        ("PN", "invented^*", "Invented^Child", True),
        ("PN", "INVENTED^CHILD^^", "Invented^Child", True),
        ("UI", "1.2\\1.3", "1.3", True),
        ("UI", "1.2", "1.23", False),
        ("UI", "1.*", "1.2", False),
        ("DA", "20260101-20261231", "20260601", True),
        ("DA", "20260101-20261231", "20270101", False),
        ("DA", "-20260101", "", False),
        ("DT", "20260101-", "20260101120000.000000+0000", True),
        ("DT", "-2026", "20260601", True),
        ("LO", "x" * 400, "x" * 400, False),
    ],
)
def test_a_key_of_each_kind(vr: str, key: str, value: str, *, found: bool) -> None:
    assert matches(vr, key, value) is found


@given(st.text("ab*?", min_size=1, max_size=10), st.text("ab", max_size=10))
def test_wild_cards_are_what_a_regular_expression_makes_of_them(key: str, value: str) -> None:
    pattern = "".join({"*": ".*", "?": "."}.get(character, character) for character in key)
    assert matches("LO", key, value) is (re.fullmatch(pattern, value) is not None)


@pytest.mark.fault(133)
def test_no_pattern_runs_away() -> None:
    """Those that a backtracking matcher would not finish with this year."""
    began = time.monotonic()
    for key in ("*a" * 150 + "b", "*?" * 150 + "b", "a*" * 150 + "b"):
        assert not matches("LO", key, "a" * 300)
    assert time.monotonic() - began < 60
