"""The disk is full: the sender is told so, nothing is half kept, and all is well again afterwards."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import chests
import pytest
from running import Daemon
from sending import associated, send


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
