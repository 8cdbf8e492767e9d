"""A daemon in a folder of its own, as for the acceptance tests."""

from __future__ import annotations

from acceptance.conftest import daemon, make_daemon

__all__ = ["daemon", "make_daemon"]
