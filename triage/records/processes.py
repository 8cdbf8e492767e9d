"""Who lives: a row for each process on any host, renewed every few seconds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from sqlalchemy import delete, insert, select, update

from triage.records.store import Store
from triage.records.tables import processes

_FORGOTTEN_SECONDS = 86400.0


@dataclass(frozen=True, kw_only=True)
class Heard:
    """How many processes of each kind were heard of lately; of the workers, how many have no network.

    ``names``: HOST/PROCESS of each.
    """

    names: list[str]
    kinds: dict[str, int]
    without_network: int

    @property
    def workers(self) -> int:
        return self.kinds.get("worker", 0)

    @property
    def are_blind(self) -> bool:
        """Whether workers live and none of them has a network."""
        return 0 < self.workers <= self.without_network


class Processes:
    """Verbs on them, by the database's clock."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def beat(self, process: str, kind: str, *, without_network: bool = False) -> None:
        """Say that it lives."""
        values = {"kind": kind, "without_network": without_network, "beat_at": self._store.now()}
        with self._store.at_once() as connection:
            mine = update(processes).where(processes.c.process == process)
            if connection.execute(mine.values(values)).rowcount == 0:
                connection.execute(insert(processes).values(process=process, **values))

    def leave(self, process: str) -> None:
        """Say that it has ended in good order."""
        with self._store.at_once() as connection:
            connection.execute(delete(processes).where(processes.c.process == process))

    def alive(self, silent_seconds: float) -> Heard:
        """Those that were heard of within so many seconds."""
        query = (
            select(processes.c.process, processes.c.kind, processes.c.without_network)
            .where(processes.c.beat_at > self._store.after(-silent_seconds))
            .order_by(processes.c.process)
        )
        with self._store.reading() as connection:
            rows = connection.execute(query).all()
        return Heard(
            names=[row.process for row in rows],
            kinds=dict(Counter(row.kind for row in rows)),
            without_network=sum(row.without_network for row in rows),
        )

    def forget(self) -> None:
        """Those that have been silent for a day."""
        silent = processes.c.beat_at <= self._store.after(-_FORGOTTEN_SECONDS)
        with self._store.at_once() as connection:
            connection.execute(delete(processes).where(silent))
