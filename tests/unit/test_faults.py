"""The catalogue of faults and the tests' marks say the same."""

from __future__ import annotations

import pytest

from faults.catalogue import FAULTS, NOT_SHOWN, PAGE, column, renewed, rows
from faults.marks import shown

TEXT = PAGE.read_text(encoding="utf-8")


def test_every_fault_stands_in_it_once_and_in_its_order() -> None:
    assert [number for number, *_ in rows(TEXT)] == list(FAULTS)


@pytest.mark.parametrize(("number", "by"), [(number, by) for number, _, _, by in rows(TEXT)])
def test_it_names_the_tests_that_carry_the_number_or_says_why_there_are_none(number: int, by: str) -> None:
    if number in shown():
        assert by == column(shown()[number])
    else:
        assert len(by.removeprefix(NOT_SHOWN)) > 20
        assert by.startswith(NOT_SHOWN)


def test_no_test_carries_a_number_that_it_does_not_have() -> None:
    assert shown().keys() <= set(FAULTS)


def test_renewing_it_changes_nothing() -> None:
    assert renewed(TEXT) == TEXT
