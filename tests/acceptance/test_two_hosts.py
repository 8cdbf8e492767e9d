"""Two hosts, one database: one is cut off while it works, and nobody is lost, doubled or left lying."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import chests
import obstore
import psutil
import pytest
from hosts import Host, Site, daemon_on, postgresql, site
from obstore.store import S3Store
from pydicom.uid import generate_uid
from running import Daemon, wait_for
from sending import send

from stores import BUCKET, KEYS, s3_server

STUDIES, SENDERS_A_HOST = 80, 2
PROGRAM = Path(__file__).with_name("ledger_sender.py")
OPEN_JOBS = "SELECT 1 FROM jobs WHERE state IN ('queued', 'leased')"
LEASES = "SELECT job_id FROM jobs WHERE state = 'leased' AND worker LIKE :host"


@pytest.fixture(scope="module")
def place() -> Iterator[Site]:
    with site() as made:
        yield made


@pytest.fixture(autouse=True)
def plugged_in(place: Site) -> None:
    """Whatever a test before left cut."""
    for host in place.hosts:
        host.mend()


@pytest.fixture
def database_url(place: Site) -> Iterator[str]:
    with postgresql(place.address, place.network) as url:
        yield url


@pytest.fixture(params=["a shared folder", "a bucket"])
def where(
    request: pytest.FixtureRequest, place: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, object]]:
    """Settings that say where films are kept, the same for both hosts."""
    if request.param == "a shared folder":
        yield {"data_dir": tmp_path / "share"}
        return
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with s3_server(place.address) as url:
        yield {"pixel_store": f"s3://{BUCKET}", "pixel_store_endpoint": url, "pixel_store_seconds": 5}


@pytest.fixture
def daemons(
    place: Site, database_url: str, where: dict[str, object], tmp_path: Path
) -> Iterator[tuple[Daemon, Daemon]]:
    common = {
        "database_url": database_url,
        "dicom_peers": f"PACS@{place.network},LEDGER@{place.network}",
        "receivers": 2,
        "lease_seconds": 3,
        "attempts_max": 20,
        **where,
    }
    upper, lower = place.hosts
    with daemon_on(upper, tmp_path / "upper", **common) as one, daemon_on(lower, tmp_path / "lower", **common) as other:
        one.serve()
        other.serve()
        for daemon in (one, other):
            daemon.wait_for_log("model_loaded")
        yield one, other


@contextmanager
def senders(
    daemons: tuple[Daemon, Daemon], made: list[chests.Film], home: Path
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """As many for each host; none gives up."""
    started = []
    for number in range(SENDERS_A_HOST * len(daemons)):
        daemon = daemons[number % len(daemons)]
        files = [film.path for film in made[number :: SENDERS_A_HOST * len(daemons)]]
        to = f"{daemon.address}:{daemon.dicom_port}"
        command = [sys.executable, PROGRAM, home / f"ledger-{number}", to, "0.2", *files]
        started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def leases(daemon: Daemon, host: Host) -> list[tuple[int]]:
    return daemon.rows(LEASES, host=f"{host.name}/%")


def cut_off(daemon: Daemon, host: Host, worker: psutil.Process | None) -> list[tuple[int]]:
    """At a moment when it holds leases, which are returned. ``worker``: frozen in that moment, too."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if leases(daemon, host):
            if worker is not None:
                worker.suspend()
            host.cut()
            held = leases(daemon, host)
            if held:
                return held
            host.mend()
            if worker is not None:
                worker.resume()
        time.sleep(0.005)
    raise TimeoutError("it never held a lease when it was cut off")


@pytest.mark.fault(99)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("frozen", [False, True], ids=["cut off", "cut off and frozen"])
def test_a_host_that_is_cut_off_loses_its_leases_to_the_other_and_nothing_else(
    place: Site, daemons: tuple[Daemon, Daemon], tmp_path: Path, *, frozen: bool
) -> None:
    upper, lower = place.hosts
    made = [chests.chest(tmp_path / "films", side=256, PatientID=f"INV-{number}") for number in range(STUDIES)]
    one, other = daemons
    with senders(daemons, made, tmp_path) as sending:
        wait_for(lambda: other.rows("SELECT 1 FROM jobs WHERE state = 'done'"))
        worker = one.child("work") if frozen else None
        held = cut_off(one, upper, worker)
        # The other takes them over, and goes on with whatever comes.
        wait_for(lambda: not other.rows(OPEN_JOBS) and sending[1].poll() == sending[3].poll() == 0, 150, pause=0.5)
        taken = {job: (worker, state) for job, worker, state in other.rows("SELECT job_id, worker, state FROM jobs")}
        assert {taken[job] for (job,) in held} == {(f"{lower.name}/worker-1", "done")}
        before = other.rows("SELECT * FROM findings ORDER BY instance_id")
        upper.mend()
        if worker is not None:
            worker.resume()
            wait_for(lambda: one.lines("lease_lost"))
            after = other.rows("SELECT * FROM findings ORDER BY instance_id")
            assert [row for row in after if row in before] == before
        wait_for(lambda: sending[0].poll() == sending[2].poll() == 0, 120, pause=0.5)
    wait_for(lambda: not other.rows(OPEN_JOBS), 120, pause=0.5)
    assert_nothing_lost_or_doubled(daemons, made, tmp_path)
    assert_it_goes_on_working(one, upper, other, tmp_path)


@pytest.mark.fault(99)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("where", ["a shared folder"], indirect=True)
def test_the_turn_to_sweep_is_given_up_by_a_host_that_is_cut_off_while_an_answer_is_on_its_way_there(
    place: Site, daemons: tuple[Daemon, Daemon]
) -> None:
    """A connection with bytes on their way is asked for no sign of life: keepalive alone ends it after 15 minutes."""
    upper, _ = place.hosts
    one, other = daemons
    one.wait_for_log("sweeping")
    assert not other.lines("sweeping")
    upper.deafen()
    time.sleep(1.5)  # it asks every second whether it is still its turn, and waits for an answer for 3
    upper.cut()
    other.wait_for_log("sweeping", 90)


def assert_nothing_lost_or_doubled(daemons: tuple[Daemon, Daemon], made: list[chests.Film], home: Path) -> None:
    one, other = daemons
    acknowledged = {line for path in home.glob("ledger-*") for line in path.read_text().split()}
    held = dict(one.rows("SELECT sop_instance_uid, study_instance_uid FROM instances"))
    assert acknowledged == held.keys() == {film.sop for film in made}
    for daemon in daemons:
        wait_for(daemon.live)
        shown = [(entry["study_instance_uid"], entry["analysis"]) for entry in daemon.worklist()]
        assert sorted(shown) == sorted((film.study, "analysed") for film in made)
    for table, key in (("instances", "sop_instance_uid"), ("jobs", "instance_id"), ("findings", "instance_id")):
        (counted,) = one.rows(f"SELECT count(*), count(DISTINCT {key}) FROM {table}")
        assert counted == (STUDIES, STUDIES), table
    # A worker says so once its result is in the database; one that was cut off in between may not have heard of it.
    assert len(one.lines("study_ranked") + other.lines("study_ranked")) in range(STUDIES - 16, STUDIES + 1)
    hashes = {sha256 for (sha256,) in one.rows("SELECT sha256 FROM instances")}
    assert kept(one) == hashes
    for daemon in daemons:
        wait_for(lambda daemon=daemon: not daemon.files("incoming") and not daemon.files("fetched"))


def kept(daemon: Daemon) -> set[str]:
    """Names of all that is kept, wherever that is."""
    if "pixel_store" not in daemon.settings:
        return {path.stem for path in daemon.files("instances")}
    config = {"endpoint": str(daemon.settings["pixel_store_endpoint"])}
    store = S3Store(BUCKET, config=config, client_options={"allow_http": True})
    return {Path(each["path"]).stem for each in obstore.list(store, "instances").collect()}


def assert_it_goes_on_working(one: Daemon, host: Host, other: Daemon, home: Path) -> None:
    """The one that had been cut off receives a film, and is the only one who can analyse it."""
    film = chests.chest(home, side=256, StudyInstanceUID=generate_uid())
    resting = other.child("work")
    resting.suspend()
    try:
        assert send(one, film.dataset) == [0]
        assert one.settled(film.study)["analysis"] == "analysed"
    finally:
        resting.resume()
    query = "SELECT worker FROM jobs JOIN instances USING (instance_id) WHERE sop_instance_uid = :sop"
    assert one.rows(query, sop=film.sop) == [(f"{host.name}/worker-1",)]
