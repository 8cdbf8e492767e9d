"""A disk that is soon full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """In memory, ``options`` as of tmpfs(5): private unless they say otherwise."""
    folder.mkdir(parents=True)
    mounting = ["mount", "-t", "tmpfs", "-o", f"mode=0700,{options}", "tmpfs", folder]
    if os.geteuid() != 0 or subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("mounting a disk needs root, and a machine that lets it")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
