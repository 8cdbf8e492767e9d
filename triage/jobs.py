"""A job: look at one instance. Its states, and what happens after a failure.

    queued --claim--> leased --finish--> done
      ^                 |
      +--retry, expiry--+--attempts used up--> buried

A claim is a lease with a deadline and a token; it deletes nothing. Attempts are counted by the claim itself, before
any work starts, so that an instance that kills its worker is counted too.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from triage.errors import Reason


class JobState(StrEnum):
    """See the diagram above. ``done`` and ``buried`` are final."""

    QUEUED = "queued"
    LEASED = "leased"
    DONE = "done"
    BURIED = "buried"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A leased job. ``token`` fences its result: after expiry another worker holds another token.

    ``last_reason`` says why the attempt before was no good; None at the first.
    """

    job_id: int
    instance_id: int
    study_instance_uid: str
    sha256: str
    attempts: int
    token: str
    queued_seconds: float
    last_reason: Reason | None = None

    @property
    def is_suspect(self) -> bool:
        """Whether its last worker died, or failed at it: nothing says that it was not this film that did it."""
        return self.last_reason is Reason.INTERNAL_ERROR


@dataclass(frozen=True, kw_only=True)
class RetryRule:
    """``delay_seconds`` doubles with each attempt."""

    attempts_max: int = 3
    delay_seconds: float = 2.0

    @property
    def longest_seconds(self) -> float:
        """No delay is longer."""
        return self.delay_seconds * 2.0**self.attempts_max


# What another attempt may mend. Everything else would end the same way and is recorded at once.
PASSING = frozenset(
    {
        Reason.PIXELS_DAMAGED,
        Reason.DECODE_CRASH,
        Reason.DECODE_TIMEOUT,
        Reason.RESOURCE_EXHAUSTED,
        Reason.INTERNAL_ERROR,
    },
)
# No fault of the film, nor of the attempt: it does not count, and there are as many as it takes.
WAITING = frozenset({Reason.MODEL_UNAVAILABLE, Reason.PIXELS_UNREADABLE})


def retry_after(reason: Reason, attempts: int, rule: RetryRule) -> float | None:
    """Seconds until the next attempt, or None: give up and record the reason."""
    if reason not in PASSING or attempts >= rule.attempts_max:
        return None
    return rule.delay_seconds * 2.0 ** (attempts - 1)
