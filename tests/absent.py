"""What a test needs and does not find: skipped on a laptop, saying so, and a failure where CI is set."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest


def missing(what: str) -> None:
    """Skip, or fail where nothing may be missing."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing")
    pytest.skip(f"{what} is not installed")


def need(module: str) -> None:
    """Of those that `make setup` installs."""
    if find_spec(module) is None:
        missing(module)
