"""Of which children, from where: what no program can see on films, and a card must say."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triage.card import Population
from triage.errors import TriageError

# Of the films that the shipped weights were made with.
PEDIATRIC_CXR = Path(__file__).parent / "pediatric-cxr.toml"


@dataclass(frozen=True, kw_only=True)
class About:
    """``data``: source, licence and films, in words. ``population``: whom the network may judge."""

    data: dict[str, str]
    population: Population


def read_about(path: Path) -> About:
    """Read a TOML file of [data] and [population]. Raise TriageError, naming it, if it lacks something."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        data = {name: str(raw["data"][name]) for name in ("source", "licence", "films")}
        return About(data=data, population=population_of(raw["population"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TriageError(f"{path}: not a description of films ({error})") from error


def population_of(table: dict[str, Any]) -> Population:
    """Raise TypeError or ValueError."""
    lists = {name: tuple(map(str, table.pop(name))) for name in ("modalities", "body_parts", "views")}
    found = Population(**(table | lists))
    if not 0 <= found.age_min_years <= found.age_max_years:
        raise ValueError("ages do not rise")
    return found
