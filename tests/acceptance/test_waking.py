"""On an idle daemon nobody polls: the worker wakes the moment a film is there."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import chests
import pytest
from running import Daemon, wait_for
from sending import send

FILMS = 7
# A worker also looks by itself once a second: without a bell the median would be about half a second.
QUEUED_SECONDS = 0.25


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_an_idle_worker_wakes_at_once(
    make_daemon: Callable[..., Daemon], tmp_path: Path, request: pytest.FixtureRequest, database: str
) -> None:
    daemon = make_daemon(database_url=request.getfixturevalue(f"{database}_url")).serve()
    daemon.wait_for_log("model_loaded")
    assert send(daemon, chests.chest(tmp_path).dataset) == [0]  # the first film starts the decoder
    wait_for(lambda: len(daemon.lines("study_ranked")) == 1)
    for number in range(FILMS):
        time.sleep(0.3 + 0.13 * number)
        assert send(daemon, chests.chest(tmp_path).dataset) == [0]
        wait_for(lambda count=number + 2: len(daemon.lines("study_ranked")) == count)
    lines = daemon.lines("study_ranked")[1:]
    assert {line["outcome"] for line in lines} == {"analysed"}
    assert statistics.median(line["queued_seconds"] for line in lines) < QUEUED_SECONDS
