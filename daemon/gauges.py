"""What the database says, as gauges: set by the one scheduler that holds the turn."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from daemon import metrics
from daemon.pulse import SILENT_SECONDS
from triage.card import read_card
from triage.drift import drift
from triage.errors import CardMismatchError, Reason
from triage.records.processes import Processes
from triage.records.queue import Queue
from triage.records.state import State, read_state, recent_scores
from triage.records.store import Store

# Kinds of processes that are shown as 0 where there is none.
KINDS = ("receiver", "worker", "scheduler", "web", "orders")
# Drift is told of the last so many films, once there are enough.
DRIFT_FILMS_MAX = 500
DRIFT_FILMS_MIN = 100


@dataclass(frozen=True, kw_only=True)
class Gauges:
    """``weights_card``: of the network whose scores are watched."""

    store: Store
    queue: Queue
    weights_card: Path

    def show(self) -> None:
        """Read them all anew. Raise DatabaseError: then those of before stay, and their time with them."""
        said = read_state(self.store)
        alive = Processes(self.store).alive(SILENT_SECONDS)
        for kind in KINDS:
            metrics.ALIVE.labels(kind).set(alive.kinds.get(kind, 0))
        metrics.WITHOUT_NETWORK.set(alive.without_network)
        _show(said)
        with suppress(CardMismatchError):  # the workers say so
            self._show_drift()
        metrics.STATE_AT.set(said.now.timestamp())
        metrics.state.is_known = True

    def _show_drift(self) -> None:
        card = read_card(self.weights_card)
        recent = recent_scores(self.store, card.sha256, DRIFT_FILMS_MAX) if card.scores else []
        metrics.DRIFT_FILMS.set(len(recent))
        if card.scores is None or len(recent) < DRIFT_FILMS_MIN:
            metrics.DRIFT.set(float("nan"))
            metrics.DRIFT_PREVALENCE.set(float("nan"))
            return
        found = drift(recent, card.scores, self.queue.policy.prevalence)
        metrics.DRIFT.set(found.index)
        metrics.DRIFT_PREVALENCE.set(found.prevalence)

    def hide(self) -> None:
        """Another scheduler has the turn."""
        metrics.state.is_known = False


def _show(said: State) -> None:
    for reading, count in said.readings.items():
        metrics.WORKLIST.labels(reading).set(count)
    for state, count in said.jobs.items():
        metrics.OPEN_JOBS.labels(state).set(count)
    for reason in Reason:
        metrics.SHOWN_NOT_ANALYSED.labels(reason.value).set(said.not_analysed.get(reason.value, 0))
    metrics.PENDING.set(said.pending)
    metrics.PENDING_SECONDS.set(said.pending_seconds)
    metrics.FLAGGED.set(said.flagged)
    metrics.OVERDUE.set(said.overdue)
    metrics.DUE_SECONDS.set(said.due_seconds)
    metrics.RECEIVED_AT.set(said.received_at.timestamp() if said.received_at else 0.0)
