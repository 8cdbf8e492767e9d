"""A national network on paper: a simulated week-day of five sites, from the costs that were measured here.

Films arrive by a day's profile (Poisson, most in the forenoon), wait for a core that decodes, then for the network,
which takes all that are ready. On the way one site is without its machine for an hour in the busiest part of the day,
and works off what its PACS has kept. Then the load is raised until something gives way. Costs are those of the other
measurements where ``build/bench.json`` has them, else those of COSTS; nothing here is timed.
"""

from __future__ import annotations

import heapq
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from tests.benchmarks import figures

FILMS_A_YEAR, SITES, PEAK_A_SECOND = 30_000_000, 5, 10.0
WORKING_DAYS = 250
FILM_BYTES = 8.4e6
RETENTION_DAYS = 7.0
# Share of a day's films in each hour, from midnight: a hospital's, with a little of the night.
HOURS = np.array([1, 1, 1, 1, 1, 2, 3, 6, 9, 11, 11, 10, 8, 8, 8, 6, 4, 3, 2, 2, 1, 1, 1, 1], float)
OUTAGE_HOURS = (10.0, 11.0)
GOAL_P95_SECONDS = 10.0
LARGEST_PASS = 16


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds of one core for a film of 2048 x 2048; ``commits`` of the database for each study, ``commits_a_second``
    that one server makes.
    """

    receive: float = 0.010
    decode: float = 0.040
    network_one: float = 0.0135
    network_many: float = 0.0064
    commits: float = 3.0
    commits_a_second: float = 2500.0


@dataclass(frozen=True, kw_only=True)
class Site:
    """``cores`` decode and receive; the network has one more, or a GPU, to itself."""

    cores: int
    costs: Costs


def measure(out: Path) -> list[figures.Figure]:
    """The network as planned, and more; the outage included."""
    site = Site(cores=2, costs=measured(out))
    rows = [simulated(site, load) for load in (1.0, 2.0, 4.0, 8.0, 16.0)]
    rows.append(simulated(site, 1.0, outage=OUTAGE_HOURS))
    show(rows, site)
    what = f"stored to ranked, {SITES} sites, {PEAK_A_SECOND:g} films a second at the peak, p95"
    told = [figures.by_limit(what, rows[0]["p95"], "s", GOAL_P95_SECONDS)]
    figures.keep(out, "nation", told, {"costs": vars(site.costs), "loads": rows})
    return told


def measured(out: Path) -> Costs:
    found = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    costs = Costs()
    if rates := found.get("receive", {}).get("instances_a_second"):
        costs = replace(costs, receive=1 / max(by["ours"] for cell, by in rates.items() if cell.startswith("8.4 MB")))
    if seconds := found.get("latency", {}).get("seconds"):
        costs = replace(costs, decode=seconds["uncompressed"]["of it: decode, in its sandbox"]["p50"])
    return costs


def arrivals(load: float, random: np.random.Generator) -> NDArray[np.float64]:
    """Seconds of a day at which one site's films come; the busiest hour has the peak rate."""
    rate = HOURS / HOURS.max() * PEAK_A_SECOND / SITES * load
    counts = random.poisson(rate * 3600)
    return np.sort(np.concatenate([3600 * hour + random.uniform(0, 3600, count) for hour, count in enumerate(counts)]))


def simulated(site: Site, load: float, outage: tuple[float, float] | None = None) -> dict[str, float]:
    """One site's day. Films of an outage come when it is over, as fast as the receiver takes them."""
    random = np.random.default_rng(0)
    times = arrivals(load, random)
    if outage is not None:
        began, ended = (3600 * hour for hour in outage)
        kept = (times >= began) & (times < ended)
        times[kept] = ended + np.arange(kept.sum()) * site.costs.receive
        times = np.sort(times)
    waits = np.array(walked(times, site))
    day = len(times) * SITES
    return {
        "load": load,
        "outage": float(outage is not None),
        "films_a_day": float(day),
        "p50": float(np.percentile(waits, 50)),
        "p95": float(np.percentile(waits, 95)),
        "max": float(waits.max()),
        "cores_busy": len(times) * (site.costs.decode + site.costs.receive) / site.cores / 86400,
        "peak_cores_busy": load * PEAK_A_SECOND / SITES * (site.costs.decode + site.costs.receive) / site.cores,
        "commits_share": load * PEAK_A_SECOND * site.costs.commits / site.costs.commits_a_second,
        "disk_tb": day / SITES * FILM_BYTES * RETENTION_DAYS / 1e12,
    }


def walked(times: NDArray[np.float64], site: Site) -> list[float]:
    """Seconds from each arrival to its end: cores receive and decode, then one network takes all there are."""
    costs = site.costs
    cores = [0.0] * site.cores
    decoded = []
    for time in times:
        start = max(time, heapq.heappop(cores))
        heapq.heappush(cores, start + costs.receive + costs.decode)
        decoded.append((start + costs.receive + costs.decode, time))
    decoded.sort()
    waits, free, place = [], 0.0, 0
    while place < len(decoded):
        begin = max(free, decoded[place][0])
        end = place
        while end < len(decoded) and decoded[end][0] <= begin and end - place < LARGEST_PASS:
            end += 1
        end = max(end, place + 1)
        free = begin + costs.network_one + (end - place - 1) * costs.network_many
        waits += [free - time for _, time in decoded[place:end]]
        place = end
    return waits


def show(rows: list[dict[str, float]], site: Site) -> None:
    table = Table(
        title=f"{SITES} sites, {PEAK_A_SECOND:g} films a second at the peak, {site.cores} cores + network each"
    )
    for column in ("load", "films/day", "p50", "p95", "longest", "cores", "database", "disk"):
        table.add_column(column, justify="right")
    for row in rows:
        films, cores, commits = f"{row['films_a_day']:,.0f}", f"{row['peak_cores_busy']:.0%}", row["commits_share"]
        name = f"x {row['load']:g}" + (", outage" if row["outage"] else "")
        waits = (spoken(row[key]) for key in ("p50", "p95", "max"))
        table.add_row(name, films, *waits, cores, f"{commits:.0%}", f"{row['disk_tb']:.0f} TB")
    table.caption = (
        f"{FILMS_A_YEAR / WORKING_DAYS:,.0f} films a working day are {FILMS_A_YEAR:,} a year. One simulated day each; "
        "from stored to ranked; cores and database at the peak; outage: one hour of it; disk of a site for a week."
    )
    Console().print(table)


def spoken(seconds: float) -> str:
    minute = 60
    return f"{seconds:.2f} s" if seconds < minute else f"{seconds / minute:.0f} min"
