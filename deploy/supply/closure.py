"""What the daemon needs to run, and what that needs: without demonstration, training, tests and development."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = "worklist-triage"


def closure(root: str = ROOT) -> dict[str, str]:
    """Version by canonical name, ``root`` among them."""
    found: dict[str, str] = {}
    waiting: list[tuple[str, frozenset[str]]] = [(root, frozenset())]
    while waiting:
        name, extras = waiting.pop()
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue  # a requirement of another platform
        if canonicalize_name(name) in found and not extras:
            continue
        found[canonicalize_name(name)] = installed.version
        waiting += [
            (each.name, frozenset(each.extras))
            for each in map(Requirement, installed.requires or ())
            if _applies(each, extras)
        ]
    return dict(sorted(found.items()))


def _applies(requirement: Requirement, extras: Iterable[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))
