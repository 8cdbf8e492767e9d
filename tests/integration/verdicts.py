"""What the doctor says, and settings that are changed in one thing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from daemon.operating.verdict import Grade, Verdict
from daemon.settings import Settings


def grades(verdicts: Iterable[Verdict]) -> list[str]:
    found = list(verdicts)
    assert all(bool(each.fix) is (each.grade is not Grade.OK) for each in found), "each fault has a fix"
    assert all(each.anchor.startswith("deploy/RUNBOOK.md#doctor-") for each in found if each.grade is not Grade.OK)
    return [f"{each.grade} {each.words}" for each in found]


def faults(verdicts: Iterable[Verdict]) -> list[str]:
    return [each for each in grades(verdicts) if not each.startswith("ok ")]


def only(verdicts: Iterable[Verdict]) -> str:
    (fault,) = faults(verdicts)
    return fault


def with_(settings: Settings, **changes: Any) -> Settings:
    return Settings(**{**settings.model_dump(exclude_unset=True), **changes})
