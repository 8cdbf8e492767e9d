"""Measurements, by name or all: ``python -m tests.benchmarks [network]``. Figures go to build/bench.json."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.benchmarks import (
    claims,
    decode,
    figures,
    growth,
    latency,
    nation,
    network,
    orders,
    profiles,
    queue,
    receive,
    road,
    viewers,
)

ROOT = Path(__file__).resolve().parent.parent.parent
MEASUREMENTS = {
    "latency": latency.measure,
    "receive": receive.measure,
    "queue": queue.measure,
    "road": road.measure,
    "viewers": viewers.measure,
    "network": network.measure,
    "decode": decode.measure,
    "claims": claims.measure,
    "growth": growth.measure,
    "nation": nation.measure,
    "orders": orders.measure,
    "profiles": profiles.measure,
}


def main(names: list[str]) -> int:
    """Exit 1 if a goal was missed, 2 if a name is unknown."""
    unknown = [name for name in names if name not in MEASUREMENTS]
    if unknown:
        print(f"no such measurement: {', '.join(unknown)}; there are: {', '.join(MEASUREMENTS)}", file=sys.stderr)  # noqa: T201
        return 2
    found: dict[str, list[figures.Figure]] = {}
    try:
        for name in names or MEASUREMENTS:
            found[name] = MEASUREMENTS[name](ROOT / "build" / "bench.json")
    finally:
        figures.show(found)
    return int(any(row.met is False for rows in found.values() for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
