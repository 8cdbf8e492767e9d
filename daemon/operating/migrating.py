"""The schema changed by hand, up or down, while nothing runs on it."""

from __future__ import annotations

from daemon.complaint import complaint
from daemon.house import House
from daemon.operating.databases import need_store
from daemon.operating.running import here
from daemon.presence import alive
from triage.errors import TriageError
from triage.records import schema
from triage.records.inspection import others
from triage.records.schema import Change
from triage.records.store import DatabaseError


def upgraded(house: House) -> Change | None:
    """None if there was nothing to do. Raise TriageError."""
    store = need_store(house.settings, "schema")
    try:
        return schema.upgrade(store.engine)
    except DatabaseError as error:
        raise TriageError(f"the database was not upgraded: {complaint(error)}") from None
    finally:
        store.engine.dispose()


def downgraded(house: House, revision: str) -> Change:
    """Raise TriageError, also while anything runs: it would upgrade the database again, or fail at once."""
    store = need_store(house.settings, "schema")
    try:
        running = {*here(alive(house.settings.data_dir)), *others(store)}
        running = {name for name in running if not name.startswith("schema")}
        if running:
            raise TriageError(f"{', '.join(sorted(running))} still run: stop the daemon first, everywhere")
        return schema.downgrade(store.engine, revision)
    except DatabaseError as error:
        raise TriageError(f"the database was not changed: {complaint(error)}") from None
    finally:
        store.engine.dispose()
