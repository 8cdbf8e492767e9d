"""The disk is full: the sender is told so, nothing is half kept, and all is well again afterwards."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import chests
import pytest
from running import Daemon, wait_for
from sending import associated, send


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """As a share becomes whose server lets nobody write any more; what is open stays open."""
    if os.geteuid() != 0 or _mount("--bind", folder, folder) != 0:
        pytest.skip("mounting a folder needs root, and a machine that lets it")
    try:
        assert _mount("-o", "remount,bind,ro", folder) == 0
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _mount(*arguments: str | Path) -> int:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode


@pytest.mark.fault(76)
def test_below_the_watermark_peers_are_told_to_try_again_later(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    film = chests.chest(tmp_path)
    daemon = make_daemon(disk_free_mib_min=2**40)
    daemon.start("receive")
    daemon.wait_for_log("receiving")
    with associated(daemon, film.dataset) as association:
        assert association.is_rejected
        answer = association.acceptor.primitive
        # PS3.8 9.3.4: rejected-transient, presentation service provider, local limit exceeded.
        assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 2)
    assert daemon.lines("disk_full")
    assert not daemon.files("instances")


@pytest.mark.fault(75)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_write_that_fails_is_a700_and_leaves_nothing_behind(
    make_daemon: Callable[..., Daemon], tmp_path: Path, request: pytest.FixtureRequest, database: str
) -> None:
    url = request.getfixturevalue(f"{database}_url")
    daemon = make_daemon(database_url=url)
    daemon.start("receive")
    daemon.wait_until_up(web=False)
    film = chests.chest(tmp_path, side=1024)
    receiver = daemon.child("receive")
    usual = receiver.rlimit(resource.RLIMIT_FSIZE)
    receiver.rlimit(resource.RLIMIT_FSIZE, (1_000_000, usual[1]))  # write(2) then fails in the middle of a file
    assert send(daemon, film.dataset) == [0xA700]
    assert not daemon.files("incoming")
    assert not daemon.files("instances")
    assert daemon.rows("SELECT count(*) FROM studies") == [(0,)]
    receiver.rlimit(resource.RLIMIT_FSIZE, usual)
    assert send(daemon, film.dataset) == [0]
    assert daemon.rows("SELECT study_instance_uid FROM studies") == [(film.study,)]
    assert len(daemon.files("instances")) == 1
    assert not daemon.files("incoming")


@pytest.mark.fault(77)
def test_a_share_that_becomes_read_only_is_a700_until_it_can_be_written_and_films_on_it_are_still_analysed(
    make_daemon: Callable[..., Daemon], tmp_path: Path, postgresql_url: str
) -> None:
    before, after = (chests.chest(tmp_path, side=512) for _ in range(2))
    daemon = make_daemon(database_url=postgresql_url)
    daemon.start("receive")
    daemon.wait_until_up(web=False)
    assert send(daemon, before.dataset) == [0]
    analysed = "SELECT 1 FROM studies WHERE study_instance_uid = :uid AND analysis = 'analysed'"
    with read_only(daemon.data_dir):
        assert send(daemon, after.dataset) == [0xA700]
        assert [line["error"] for line in daemon.lines("instance_refused")] == ["OSError"]
        daemon.start("work")
        wait_for(lambda: daemon.rows(analysed, uid=before.study))
    assert send(daemon, after.dataset) == [0]
    wait_for(lambda: daemon.rows(analysed, uid=after.study))
    assert daemon.rows("SELECT count(*) FROM instances") == [(2,)]
    assert len(daemon.files("instances")) == 2
    assert not daemon.files("incoming")
