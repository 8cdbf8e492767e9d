"""Films in a bucket, the whole way: what was acknowledged is kept and analysed, whatever the store does meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import chests
import obstore
import pytest
from obstore.store import S3Store
from pydicom.uid import generate_uid
from running import Daemon, wait_for
from sending import send, send_as

from stores import BUCKET, KEYS, Bad, Fault, bad_store, s3_server

PREFIX = "site-1"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def bad(server: str) -> Iterator[Bad]:
    with bad_store(server) as bad:
        yield bad


@pytest.fixture
def objects(server: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Names in a room, asked for beside the daemon."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    store = S3Store(BUCKET, prefix=PREFIX, config={"endpoint": server}, client_options={"allow_http": True})
    obstore.delete(store, [each["path"] for each in obstore.list(store).collect()])
    return lambda room: sorted(Path(each["path"]).stem for each in obstore.list(store, room).collect())


@pytest.fixture
def daemon(make_daemon: Callable[..., Daemon], bad: Bad, objects: Callable[[str], list[str]]) -> Daemon:
    del objects
    where = f"s3://{BUCKET}/{PREFIX}"
    daemon = make_daemon(pixel_store=where, pixel_store_endpoint=bad.url, pixel_store_seconds=4, explanations=True)
    return daemon.serve()


def files(daemon: Daemon) -> list[Path]:
    return [path for room in ("incoming", "fetched", "instances", "quarantine") for path in daemon.files(room)]


def test_films_go_to_the_bucket_and_are_analysed_from_there(
    daemon: Daemon, tmp_path: Path, objects: Callable[[str], list[str]]
) -> None:
    made = [chests.chest(tmp_path, side=512) for _ in range(4)]
    assert send(daemon, *(film.dataset for film in made)) == [0, 0, 0, 0]
    assert [daemon.settled(film.study)["analysis"] for film in made] == ["analysed"] * 4
    assert objects("instances") == sorted(sha256 for (sha256,) in daemon.rows("SELECT sha256 FROM instances"))
    picture = daemon.get(f"/api/studies/{made[0].study}/explanation?kind=gradient")
    assert picture.headers["content-type"] == "image/png", picture.text
    assert send_as(daemon, made[0].dataset, sop_instance_uid=generate_uid()) == 0xA900
    assert len(objects("quarantine")) == 1
    assert len(objects("instances")) == 4
    assert files(daemon) == []


def test_what_the_store_does_not_take_is_never_success(
    daemon: Daemon, tmp_path: Path, bad: Bad, objects: Callable[[str], list[str]]
) -> None:
    film = chests.chest(tmp_path, side=512)
    for fault in (bad.fails, bad.stalls, bad.cuts_what_it_keeps):
        bad.faults = [Fault("PUT", fault)]
        assert send(daemon, film.dataset) == [0xA700]
    bad.faults = []
    assert [line["error"] for line in daemon.lines("instance_refused")] == ["PixelStoreError"] * 3
    assert daemon.rows("SELECT count(*) FROM studies") == [(0,)]
    assert objects("instances") == []
    bad.faults = [Fault("PUT", bad.keeps_and_says_nothing, times=1)]
    assert send(daemon, film.dataset, film.dataset) == [0, 0]
    assert daemon.settled(film.study)["analysis"] == "analysed"
    assert len(objects("instances")) == 1
    for table in ("studies", "instances", "jobs", "findings"):
        assert daemon.rows(f"SELECT count(*) FROM {table}") == [(1,)], table
    assert files(daemon) == []


def test_a_film_that_cannot_be_read_back_waits_and_one_that_was_altered_is_never_decoded(
    daemon: Daemon, tmp_path: Path, bad: Bad
) -> None:
    waiting, altered = chests.chest(tmp_path, side=512), chests.chest(tmp_path, side=512)
    bad.faults = [Fault("GET", bad.fails)]
    assert send(daemon, waiting.dataset) == [0]
    wait_for(lambda: daemon.entry(waiting.study)["reason"] == "pixels_unreadable")
    assert "cannot be read from where they are kept" in daemon.get("/api/health/ready").text
    bad.faults = []
    wait_for(lambda: daemon.entry(waiting.study)["analysis"] == "analysed")
    bad.faults = [Fault("GET", bad.alters_its_answer)]
    assert send(daemon, altered.dataset) == [0]
    wait_for(lambda: daemon.entry(altered.study)["reason"] == "pixels_damaged")
    assert [line["reason"] for line in daemon.lines("job_put_back")][-2:] == ["pixels_damaged"] * 2
    assert daemon.rows("SELECT state, attempts FROM jobs WHERE reason = 'pixels_damaged'") == [("buried", 3)]
    assert daemon.get(f"/api/studies/{waiting.study}/explanation?kind=gradient").status_code == 503
    assert files(daemon) == []


def test_a_store_that_refuses_us_is_told_at_the_start(daemon: Daemon) -> None:
    daemon.settings["pixel_store"] = "s3://nobodys"
    daemon.settings["dicom_port"] = 0
    ended = daemon.run("receive")
    assert ended.returncode == 2
    assert "pixel_store s3://nobodys: the store answers 404 Not Found" in ended.stderr
