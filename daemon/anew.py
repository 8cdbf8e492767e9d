"""The site's policy, read anew at SIGHUP: without stopping anything, and kept as it was where the new one is bad."""

from __future__ import annotations

import time
from collections.abc import Callable

from daemon.environment import read_settings
from daemon.house import House, refuse_mismatch
from daemon.metrics import RELOADS
from daemon.telemetry import describe, log
from triage.errors import TriageError
from triage.policy import Policy
from triage.records.postgresql import is_away
from triage.records.store import DatabaseError

_PAUSE_SECONDS = 2.0


def policy_reader(house: House, check: Callable[[Policy], object] = lambda _: None) -> Callable[[], None]:
    """What `lifecycle.on_reload` is given. ``check`` raises SettingsError where this process cannot judge by it.

    The other settings are read as well, and refused where they are senseless; they count from the next start on.
    """

    def read() -> None:
        try:
            settings, policy = read_settings()
            refuse_mismatch(settings, policy)
            check(policy)
            _adopt(house, policy)
        except TriageError as error:
            _refused(problem=str(error))
        except DatabaseError as error:
            _refused(**describe(error))
        else:
            house.queue.policy = policy
            RELOADS.labels("adopted").inc()
            log().info("policy_adopted", policy=policy.version)

    return read


def _adopt(house: House, policy: Policy) -> None:
    """Once the database is there: else processes would judge by different policies after a short absence of it."""
    while True:
        try:
            house.intake.adopt(policy)
        except DatabaseError as error:
            if not is_away(error):
                raise
            log().error("policy_waits", policy=policy.version, **describe(error))
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def _refused(**fields: str) -> None:
    RELOADS.labels("refused").inc()
    log().error("policy_refused", **fields)
