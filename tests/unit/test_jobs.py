"""What happens after a failure."""

from __future__ import annotations

import pytest

from triage.errors import Reason
from triage.jobs import PASSING, RetryRule, retry_after

RULE = RetryRule(attempts_max=3, delay_seconds=2.0)


@pytest.mark.parametrize(
    ("reason", "attempts", "seconds"),
    [
        (Reason.DECODE_CRASH, 1, 2.0),
        (Reason.DECODE_CRASH, 2, 4.0),
        (Reason.DECODE_CRASH, 3, None),
        (Reason.INTERNAL_ERROR, 1, 2.0),
        (Reason.DECODE_ERROR, 1, None),
        (Reason.PIXELS_DAMAGED, 1, 2.0),
        (Reason.PIXELS_DAMAGED, 3, None),
        (Reason.AGE_OUT_OF_RANGE, 1, None),
        (Reason.MODEL_OUTPUT_INVALID, 1, None),
    ],
)
def test_only_what_may_pass_is_tried_again_and_each_time_later(
    reason: Reason, attempts: int, seconds: float | None
) -> None:
    assert retry_after(reason, attempts, RULE) == seconds


def test_every_reason_has_words_that_name_no_value() -> None:
    assert all(reason.words and "%" not in reason.words and "{" not in reason.words for reason in Reason)
    assert len({reason.value for reason in Reason}) == len(list(Reason))
    assert set(Reason) >= PASSING
