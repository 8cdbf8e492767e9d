"""What was acknowledged is listed, once, whoever dies when: kill -9 over and over under load, on both databases."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from running import Daemon

from daemon.settings import DEFAULT_WEIGHTS
from faults.deaths import RANDOM, Deaths
from faults.dying import POINTS
from faults.ledger import Ledger
from faults.readers import Readers
from faults.senders import Senders
from triage.card import read_card
from triage.records import schema
from triage.records.store import Store, open_engine

# A round is a death; `make faults` asks for 200 of them on each database.
ROUNDS = int(os.environ.get("ROUNDS", "10"))
# After so many all is left alone until it is quiet.
_ROUNDS_A_STRETCH = 25
_SEED = 20261127
# Every finding flags, so that a flag that is lost would be seen.
POLICY = (
    '[policy]\nversion = "all-flagged"\nthreshold = 1e-12\n'
    f'threshold_weights = "{read_card(DEFAULT_WEIGHTS).sha256[:12]}"\n'
)
# Pending studies time out, leases run out and are taken back, and no film is given up because its workers were shot.
SETTINGS = {"attempts_max": 20, "lease_seconds": 4, "pending_seconds": 3, "retention_days": 1000}


@contextmanager
def told(request: pytest.FixtureRequest, database: str, ledger: Ledger, deaths: Deaths) -> Iterator[None]:
    """The figures, also of a run that ends badly."""
    try:
        yield
    finally:
        rounds = sum(deaths.counted.values())
        acknowledged, lost, doubled = len(ledger.books.acknowledged), len(ledger.lost), len(ledger.doubled)
        figures = {"rounds": rounds, "instances": acknowledged, "lost": lost, "doubled": doubled}
        for name, value in {"database": database, **figures}.items():
            request.node.user_properties.append((name, value))
        print(f"{database}: {figures}")  # noqa: T201 - what the suite is run for
        for (command, how), count in sorted(deaths.counted.items()):
            print(f"  {command:8} {count:4}  {how}")  # noqa: T201


@pytest.mark.fault(11, 32, 34, 80, 82, 95, 115, 117, 118)
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_whatever_was_acknowledged_is_listed_once_whoever_is_killed_when(
    make_daemon: Callable[..., Daemon], dcmtk: Path, tmp_path: Path, request: pytest.FixtureRequest, database: str
) -> None:
    (tmp_path / "site.toml").write_text(POLICY, encoding="utf-8")
    url = request.getfixturevalue(f"{database}_url")
    daemon = make_daemon(database_url=url, config_file=tmp_path / "site.toml", **SETTINGS)
    senders = Senders(dcmtk, tmp_path / "films", daemon.dicom_port, _SEED)
    readers = Readers(daemon, senders.books.whole_studies)
    engine = open_engine(url)
    schema.upgrade(engine)
    ledger, deaths = Ledger(daemon, Store(engine), senders.books, readers), Deaths(daemon, _SEED)
    with told(request, database, ledger, deaths):
        deaths.begin()
        while sum(deaths.counted.values()) < ROUNDS:
            stretch(ledger, deaths, senders)
        assert_most_points_were_reached(deaths)
    engine.dispose()


def stretch(ledger: Ledger, deaths: Deaths, senders: Senders) -> None:
    """Some rounds under load, then quiet."""
    rounds = min(_ROUNDS_A_STRETCH, ROUNDS - sum(deaths.counted.values()))
    with senders.sending(), ledger.readers.reading():
        for _ in range(max(1, rounds - len(POINTS))):
            deaths.one()
            ledger.look()
            assert_nothing_broken(ledger)
        deaths.end()
    ledger.settle()
    ledger.look()
    assert_nothing_broken(ledger)
    ledger.assert_settled()


def assert_nothing_broken(ledger: Ledger) -> None:
    assert not ledger.lost
    assert not ledger.doubled
    assert not ledger.fallen
    assert not ledger.unread


def assert_most_points_were_reached(deaths: Deaths) -> None:
    """In a long run; some moments of a sweep seldom come."""
    reached = {how for (_, how), count in deaths.counted.items() if count and how != RANDOM}
    points = {point for command in POINTS.values() for point in command}
    if ROUNDS >= 200:
        assert len(reached) >= 2 / 3 * len(points), points - reached
