"""Many films wait: decoded side by side, through the network together, and none is lost by kill -9 of the worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import chests
import pytest
from running import Daemon, wait_for
from sending import send

FILMS = 24
NAME = ("--name", "worker-1")


@pytest.mark.fault(95)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_kill_9_with_a_batch_in_hand_loses_nothing_and_doubles_nothing(
    make_daemon: Callable[..., Daemon], tmp_path: Path, request: pytest.FixtureRequest, database: str
) -> None:
    daemon = make_daemon(database_url=request.getfixturevalue(f"{database}_url"), decoders=4, lease_seconds=5)
    daemon.start("receive")
    daemon.start("web")
    daemon.wait_until_up()
    assert send(daemon, *[chests.chest(tmp_path, side=1024).dataset for _ in range(FILMS)]) == [0] * FILMS
    daemon.start("work", *NAME)
    wait_for(lambda: leased(daemon) >= 3, pause=0.001)
    daemon.kill("work")
    in_hand = leased(daemon)
    daemon.start("work", *NAME)
    wait_for(lambda: not daemon.rows("SELECT 1 FROM jobs WHERE state IN ('queued', 'leased')"))
    assert 1 <= in_hand <= 4 + 2 * 16
    assert [entry["analysis"] for entry in daemon.worklist()] == ["analysed"] * FILMS
    assert daemon.rows("SELECT count(*), count(DISTINCT instance_id) FROM findings") == [(FILMS, FILMS)]
    assert dict(daemon.rows("SELECT attempts, count(*) FROM jobs GROUP BY attempts")) == {
        1: FILMS - in_hand,
        2: in_hand,
    }
    again = [line for line in daemon.lines("study_ranked") if line["attempts"] == 2]
    assert {line["batch"] for line in again} == {1}


def leased(daemon: Daemon) -> int:
    ((count,),) = daemon.rows("SELECT count(*) FROM jobs WHERE state = 'leased'")
    return int(count)
