"""Where receiver and worker spend their time under load: py-spy's samples of threads on a processor, by what they did.

Flame graphs go beside the figures. Decoding happens in other processes and is not in them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.acceptance.running import wait_for
from tests.benchmarks import figures, receive, road

PROGRAM = str(Path(sys.executable).with_name("py-spy"))
RATE, SECONDS = 500, 5
# The first that a stack holds, from its end, is what the sample was at.
RECEIVER = {
    "database": "Intake.receive",
    "header": "parse_head",
    "digest and file": "Draft.",
    "network": "Inlet._receive",
    "log": "log_association",
    "association": "GuardedAssociation.",
    "protocol": "Service.",
}
WORKER = {
    "network": "Classifier.findings",
    "claim": "Queue.claim",
    "record": "Queue.finish",
    "lease": "Leases.",
    "talk with decoder": "Decoder.",
    "log": "Worker._log",
}


def measure(out: Path) -> list[figures.Figure]:
    if not Path(PROGRAM).exists():
        return [figures.Figure(what="needs py-spy (pip install py-spy)", met=False)]
    found = {
        "receiver, 50 kB, 4 associations": (receiving(out, 158, 800), RECEIVER),
        "receiver, 8.4 MB, 4 associations": (receiving(out, 2048, 40), RECEIVER),
        "worker, a backlog, SQLite": (working(out), WORKER),
    }
    rows = [
        figures.Figure(what=who, ours=", ".join(f"{what} {100 * share:.0f} %" for what, share in shares(*each)))
        for who, each in found.items()
    ]
    figures.keep(out, "profiles", rows, {})
    return rows


def receiving(out: Path, side: int, count: int) -> Counter[str]:
    with tempfile.TemporaryDirectory() as home, receive.ours(Path(home) / "ours") as receiver:
        films = [receive.Film.drawn(Path(home) / f"{number}.dcm", side) for number in range(count)]
        receive.rate(receiver.port, films, 4)
        with under_load(lambda: receive.rate(receiver.port, films, 4)):
            return sampled(receiver.process.pid, out.parent / f"receiver-{side}.svg")


def working(out: Path) -> Counter[str]:
    with tempfile.TemporaryDirectory() as home, road.house("SQLite", Path(home) / "SQLite") as daemon:
        worker = road.Daemon(Path(home) / "worker", road.worker_settings(daemon))
        try:
            process = worker.start("work")
            worker.wait_for_log("model_loaded")
            wait_for(lambda: len(worker.lines("study_ranked")) > road.FILMS // 10)
            return sampled(process.pid, out.parent / "worker.svg", seconds=1)
        finally:
            worker.stop()


@contextmanager
def under_load(act: Callable[[], object]) -> Iterator[None]:
    """Again and again."""
    done = threading.Event()

    def go_on() -> None:
        while not done.is_set():
            act()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def sampled(pid: int, picture: Path, seconds: float = SECONDS) -> Counter[str]:
    """Stacks, each with how often it was seen; and their flame graph."""
    picture.parent.mkdir(exist_ok=True)
    raw = picture.with_suffix(".raw")
    for kind, path in (("raw", raw), ("flamegraph", picture)):
        command = [PROGRAM, "record", "--pid", str(pid), "--rate", str(RATE), "--duration", str(seconds)]
        command += ["--format", kind, "--output", str(path)]
        subprocess.run(command, check=True, capture_output=True)
    stacks: Counter[str] = Counter()
    for line in raw.read_text(encoding="utf-8").splitlines():
        stack, _, times = line.rpartition(" ")
        stacks[stack] += int(times)
    return stacks


def shares(samples: Counter[str], layers: Mapping[str, str]) -> list[tuple[str, float]]:
    """The largest first, of all samples but those of threads that only wait for their turn."""
    at: Counter[str] = Counter()
    for stack, times in samples.items():
        frames = stack.split(";")
        if not frames[-1].startswith(("Condition.wait", "Event.wait", "_PollLikeSelector.select")):
            at[_layer(frames, layers)] += times
    total = sum(at.values()) or 1
    return [(name, times / total) for name, times in at.most_common()]


def _layer(frames: Sequence[str], layers: Mapping[str, str]) -> str:
    """Of the innermost function that belongs to one."""
    for frame in reversed(frames):
        for name, mark in layers.items():
            if frame.startswith(mark):
                return name
    return "other"
