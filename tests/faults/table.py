"""What a run of the fault suite comes to: a table for people, and the same as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

COUNTED = ("rounds", "instances", "lost", "doubled")
DATABASES = ("sqlite", "postgresql")


@dataclass(eq=False)  # pytest keeps its plugins in sets
class Table:
    """A plugin of pytest. ``only``: these faults, or all.

    A fault is survived if all of its tests pass. If some were skipped, that is said beside it.
    """

    out: Path
    only: frozenset[int] = frozenset()
    faults: dict[str, frozenset[int]] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)
    counted: dict[str, Counter[str]] = field(default_factory=dict)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        for item in items:
            self.faults[item.nodeid] = frozenset(n for mark in item.iter_markers("fault") for n in mark.args)
        left_out = [item for item in items if self.only and not self.only & self.faults[item.nodeid]]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item not in left_out]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The worst of set-up, call and tear-down."""
        before = self.outcomes.get(report.nodeid, "passed")
        self.outcomes[report.nodeid] = report.outcome if before == "passed" else before
        if report.when == "call":
            self._count(report.nodeid, dict(report.user_properties))

    def _count(self, test: str, told: dict[str, Any]) -> None:
        counts = self.counted.setdefault(str(told.get("database") or _database(test)), Counter())
        counts.update({name: int(told[name]) for name in COUNTED if name in told}, tests=1)

    def figures(self) -> dict[str, Any]:
        """As JSON holds them."""
        tried, survived, failed = self._tried()
        databases = {name: dict(counts) for name, counts in sorted(self.counted.items())}
        told = {"tried": sorted(tried), "survived": sorted(survived), "failed": sorted(failed)}
        return {**told, "skipped": self._skipped(), "databases": databases}

    def _tried(self) -> tuple[set[int], set[int], set[int]]:
        """A test that was skipped has tried nothing, so a fault is survived only where none was."""
        by_outcome: dict[str, set[int]] = {"passed": set(), "failed": set(), "skipped": set()}
        for test, outcome in self.outcomes.items():
            by_outcome[outcome] |= self.faults.get(test, frozenset())
        tried = by_outcome["passed"] | by_outcome["failed"]
        return tried, tried - by_outcome["failed"] - by_outcome["skipped"], by_outcome["failed"]

    def _skipped(self) -> dict[int, list[str]]:
        """By fault the tests that were not run."""
        found: dict[int, list[str]] = {}
        for test, outcome in self.outcomes.items():
            for fault in self.faults.get(test, frozenset()) if outcome == "skipped" else ():
                found.setdefault(fault, []).append(test)
        return dict(sorted(found.items()))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("faults")
        for line in self._lines():
            terminalreporter.line(line)
        self.out.parent.mkdir(exist_ok=True)
        self.out.write_text(json.dumps(self.figures(), indent=1) + "\n", encoding="utf-8")

    def _lines(self) -> Iterator[str]:
        tried, survived, failed = self._tried()
        skipped = self._skipped()
        partly = len(tried - survived - failed)
        yield (
            f"faults tried {len(tried)}, survived {len(survived)}, survived with tests skipped {partly}, "
            f"not survived {sorted(failed) or 'none'}, not tried {sorted(skipped.keys() - tried) or 'none'}"
        )
        for fault, tests in skipped.items():
            verdict = "not tried" if fault not in tried else "not survived" if fault in failed else "survived"
            yield f"fault {fault}: {verdict}, {len(tests)} skipped: {', '.join(tests)}"
        yield ""
        yield "| Database | Tests | Rounds of kill -9 | Instances | Lost | Doubled |"
        yield "|---|---|---|---|---|---|"
        for name, counts in sorted(self.counted.items()):
            yield f"| {name} | {counts['tests']} | " + " | ".join(str(counts[each]) for each in COUNTED) + " |"


def _database(test: str) -> str:
    """Of a test that has it for a parameter."""
    return next((name for name in DATABASES if name in test.partition("[")[2]), "none or either")
