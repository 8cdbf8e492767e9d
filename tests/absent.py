"""What a test needs and does not find: skipped on a laptop, saying so, and a failure where CI is set."""

from __future__ import annotations

import os

import pytest


def missing(what: str) -> None:
    """Skip, or fail where nothing may be missing."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing")
    pytest.skip(f"{what} is not installed")
