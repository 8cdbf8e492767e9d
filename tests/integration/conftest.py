"""Sites for the tests of the web: each has one of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sites import Site, opened


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with opened(tmp_path, explains=False) as site:
        yield site


@pytest.fixture
def explaining_site(tmp_path: Path) -> Iterator[Site]:
    with opened(tmp_path, explains=True) as site:
        yield site
