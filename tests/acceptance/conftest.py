"""A daemon in a folder of its own, with the shipped network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from running import Daemon, running


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Settings by name; each call is another daemon on the same machine, in ``home`` if given."""
    with ExitStack() as stack:
        count = 0

        def make(**settings: object) -> Daemon:
            nonlocal count
            count += 1
            return stack.enter_context(running(tmp_path / f"daemon-{count}", **settings))

        yield make


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for all tests of a module that leave it as they found it."""
    with running(tmp_path_factory.mktemp("daemon")) as shared:
        yield shared.serve()
