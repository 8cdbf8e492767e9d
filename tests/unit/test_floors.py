"""Every room of the house has a floor: what the list of layers leaves out may import whatever it likes."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def contract(kind: str) -> dict[str, Any]:
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (found,) = (contract for contract in linter["contracts"] if contract["type"] == kind)
    return dict(found)


def rooms(package: str) -> Iterator[str]:
    """Its modules and packages, one level down."""
    for path in (ROOT / package).iterdir():
        is_package = (path / "__init__.py").exists()
        if is_package or (path.suffix == ".py" and path.stem != "__init__"):
            yield f"{package}.{path.stem}"


@pytest.mark.parametrize("package", ["daemon", "triage"])
def test_every_module_stands_on_one_floor(package: str) -> None:
    floors = [room for floor in contract("layers")["layers"] for room in floor.split(" | ")]
    assert sorted(room for room in floors if room.startswith(f"{package}.")) == sorted(rooms(package))
