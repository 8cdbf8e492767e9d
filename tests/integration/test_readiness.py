"""What is missing is said in words, on the page and where a load balancer asks, by the site as the daemon builds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Column, update

from daemon.decoder import Decoder
from daemon.house import WORKER_ABSENT_SECONDS, House
from daemon.pulse import SILENT_SECONDS
from daemon.settings import Settings
from daemon.site import build_site
from making import POLICY
from ports import free_port, served
from triage.errors import Reason
from triage.records.tables import jobs, processes
from triage.study import Header, ReceivedInstance

NO_RECEIVER = "No receiver runs: no new studies come in."
NO_WORKER = "No worker looks at the films: the order is first come, first served."
BLIND = (
    "The network cannot be loaded: films that come now stand by arrival, not analysed; "
    "the order is first come, first served."
)
NO_SCHEDULER = "No scheduler runs: leases, time limits and old files are not looked after."
CAME_BLIND = (
    "Films came while the network could not be loaded: they stand by arrival, not analysed, first come, first served."
)
UNREAD = (
    "Films cannot be read from where they are kept: they stand by arrival until they can, first come, first served."
)
FULL = "The disk is nearly full: no new studies are received."
LEDGER = "Films that came while the database was away are still being entered."


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """In which a receiver, a worker and a scheduler live, on another host as well as here."""
    house = House(Settings(data_dir=tmp_path / "data", http_host="127.0.0.1", disk_free_mib_min=1), POLICY)
    house.processes.beat("there/receiver", "receiver")
    house.processes.beat("here/worker-1", "worker")
    house.processes.beat("here/scheduler", "scheduler")
    yield house
    house.ringer.close()
    house.store.engine.dispose()


def aged(house: House, column: Column[Any], seconds: float) -> None:
    """In every row."""
    with house.store.writing() as connection:
        connection.execute(update(column.table).values({column: house.store.after(-seconds)}))


def received(house: House, reason: Reason | None = None) -> None:
    header = Header(sop_class_uid="1.2", sop_instance_uid="1.2.3.1", study_instance_uid="1.2.3")
    house.intake.receive(ReceivedInstance(header=header, sha256=f"{1:064}", size_bytes=1, not_analysed=reason))


def worker_silent(house: House) -> None:
    aged(house, processes.c.beat_at, SILENT_SECONDS + 1)
    house.processes.beat("there/receiver", "receiver")
    house.processes.beat("here/scheduler", "scheduler")


def receiver_gone(house: House) -> None:
    house.processes.leave("there/receiver")


def worker_hangs(house: House) -> None:
    """It lives, and a film has waited for it for a minute."""
    received(house)
    aged(house, jobs.c.available_at, WORKER_ABSENT_SECONDS + 1)


def network_gone(house: House) -> None:
    house.processes.beat("here/worker-1", "worker", without_network=True)


def scheduler_gone(house: House) -> None:
    house.processes.leave("here/scheduler")


def came_without_network(house: House) -> None:
    received(house, Reason.MODEL_UNAVAILABLE)


def film_gone(house: House) -> None:
    received(house, Reason.PIXELS_UNREADABLE)


def ledger_open(house: House) -> None:
    (house.settings.data_dir / "ledger").mkdir()
    (house.settings.data_dir / "ledger" / "one").write_text("{}\n")


def disk_full(house: House) -> None:
    house.spool.free_mib = lambda: 0  # type: ignore[method-assign]


STATES = [
    (receiver_gone, NO_RECEIVER),
    (worker_silent, NO_WORKER),
    (worker_hangs, NO_WORKER),
    (network_gone, BLIND),
    (scheduler_gone, NO_SCHEDULER),
    (came_without_network, CAME_BLIND),
    (film_gone, UNREAD),
    (disk_full, FULL),
    (ledger_open, LEDGER),
]


def shown(house: House) -> tuple[httpx.Response, str]:
    """The answer to whoever asks whether it is ready, and the words of the page."""
    with Decoder() as decoder, served(build_site(house, decoder), free_port()) as url:
        return httpx.get(f"{url}/api/health/ready"), unescape(httpx.get(url).text)


@pytest.mark.parametrize(("happens", "words"), STATES, ids=[happens.__name__ for happens, _ in STATES])
def test_what_is_missing_is_said_on_the_page_and_to_who_asks(
    house: House, happens: Callable[[House], None], words: str
) -> None:
    happens(house)
    ready, page = shown(house)
    assert (ready.status_code, ready.json()["missing"]) == (503, [words])
    assert words in page


def test_where_nothing_is_missing_nothing_is_said(house: House) -> None:
    ready, page = shown(house)
    assert (ready.status_code, ready.json()["missing"]) == (200, [])
    assert [words for _, words in STATES if words in page] == []
