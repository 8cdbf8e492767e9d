"""Everything that can be wrong with an installation, looked at once. Nothing is changed, nothing is of a patient."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from daemon.house import House, decoding_limits
from daemon.operating.certificates import look_at_certificates
from daemon.operating.databases import look_at_database, seen, store_of
from daemon.operating.entrances import look_at_provider, look_at_web
from daemon.operating.peers import look_at_peers
from daemon.operating.places import is_ours, look_at_folder, look_at_store
from daemon.operating.ports import look_at_ports
from daemon.operating.running import look_at_processes
from daemon.operating.sense import look_at_settings
from daemon.operating.verdict import Area, Verdict, fail, looked, warn
from daemon.presence import alive
from triage.errors import TriageError
from triage.records.users import Users


def examine(house: House, *, quick: bool = False) -> Iterator[Verdict]:
    """``quick``: without decoding films and without loading the network."""
    settings = house.settings
    running = alive(settings.data_dir)
    yield from looked(Area.SETTINGS, partial(look_at_settings, settings, house.policy))
    yield from looked(Area.PROCESSES, partial(look_at_processes, settings, running, should_run=False))
    yield from looked(Area.DATA_FOLDER, partial(look_at_folder, settings))
    if is_ours(settings):
        yield from looked(Area.PIXEL_STORE, lambda: look_at_store(settings, house.spool))
    yield from looked(Area.DATABASE, partial(_look_at_records, house))
    yield from looked(Area.PORTS, partial(look_at_ports, settings, running))
    yield from looked(Area.PEERS, partial(look_at_peers, settings))
    yield from looked(Area.CERTIFICATES, partial(look_at_certificates, settings))
    if not quick:
        from daemon.operating.codecs import look_at_codecs
        from daemon.operating.weighing import look_at_network

        yield from looked(Area.CODECS, partial(look_at_codecs, decoding_limits(settings)))
        yield from looked(Area.NETWORK, partial(look_at_network, settings))


def _look_at_records(house: House) -> Iterator[Verdict]:
    settings = house.settings
    try:
        store = store_of(settings, house.process)
    except TriageError as error:
        yield fail(Area.DATABASE, str(error), "see database_url")
        return
    if store is None:
        yield warn(Area.DATABASE, f"no database at {settings.sqlite_file}", "it is made at the first start")
        return
    try:
        found = seen(store, settings)
        if isinstance(found, Verdict):
            yield found
            return
        yield from look_at_database(settings, house.policy, store, found)
        if found.is_current:
            yield from looked(Area.WEB, partial(look_at_web, settings, Users(store)))
        yield from looked(Area.IDENTITY_PROVIDER, partial(look_at_provider, settings, Users(store)))
    finally:
        store.engine.dispose()


def nothing_but(error: TriageError) -> list[Verdict]:
    """Where the settings themselves cannot be read."""
    return [fail(Area.SETTINGS, str(error), "`triage settings` lists all that there are")]
