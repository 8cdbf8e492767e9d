"""Films a second through the networks alone, beside onnxruntime and what the processor can multiply.

The floor is the network's operations over the rate of a large matrix product, measured in the same turns: no kernel for
small convolutions comes near it. onnxruntime runs the same weights at the same size with the same number of threads.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from daemon.environment import read_settings
from tests.benchmarks import figures
from triage.vision.classifier import Classifier, load_classifier, set_threads

BATCHES = {"cpu": (1, 4, 16), "cuda": (1, 16, 64, 256)}
ROUNDS = 15
GOAL_THREADS, GOAL_ONE_MS, GOAL_A_SECOND = 2, 15.0, 150.0
SQUARE = 1024
SERVED, ALONE, PEER, PRODUCT = "film to probabilities", "classification network alone", "onnxruntime", "matrix product"
Rates = dict[str, dict[int, float]]  # way, batch, seconds a film


def measure(out: Path) -> list[figures.Figure]:
    """The goals are for two cores, so for two threads."""
    rows: list[figures.Figure] = []
    for device in devices():
        classifier = loaded(device)
        side, operations = side_px(classifier), operations_of(classifier)
        seconds = rates(classifier)
        (product,) = seconds.pop(PRODUCT).values()
        floor = operations / (2 * SQUARE**3 / product)
        show(device, side, seconds, floor)
        told = judged(device, seconds)
        figures.keep(
            out, f"network_{device}", told, {"side_px": side, "seconds_a_film": seconds, "floor_seconds": floor}
        )
        rows += told
    return rows


def judged(device: str, seconds: Rates) -> list[figures.Figure]:
    words = f"{device}, {figures.threads()} threads"
    one, best = 1000 * seconds[SERVED][1], 1 / min(seconds[SERVED].values())
    alone, peer = (1 / min(seconds[name].values()) for name in (ALONE, PEER))
    has_goal = device == "cpu" and figures.threads() == GOAL_THREADS
    goals = (f"<= {GOAL_ONE_MS:g} ms", f">= {GOAL_A_SECOND:g} /s") if has_goal else ("", "")
    met = (one <= GOAL_ONE_MS, best >= GOAL_A_SECOND) if has_goal else (None, None)
    return [
        figures.Figure(what=f"{SERVED}, one, {words}", ours=f"{figures.spoken(one)} ms", goal=goals[0], met=met[0]),
        figures.Figure(
            what=f"{SERVED}, best batch, {words}", ours=f"{figures.spoken(best)} /s", goal=goals[1], met=met[1]
        ),
        figures.by_ratio(f"{ALONE}, best batch, {words}", alone, "/s", (PEER, peer)),
    ]


def devices() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def loaded(device: str) -> Classifier:
    set_threads(figures.threads())
    return load_classifier(read_settings()[0].weights_card, device)


def films(count: int, classifier: Classifier) -> np.ndarray:
    size = classifier.card.preprocessing.size_px
    return np.random.default_rng(0).random((count, size, size), np.float32)


def side_px(classifier: Classifier) -> int:
    """Of what the classification network is shown."""
    return int(classifier.crops(films(1, classifier)).pixels.shape[1])


def operations_of(classifier: Classifier) -> int:
    """Of the classification network, a film; a multiplication and its addition are two."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        classifier.network(crops(1, classifier))
    return int(counter.get_total_flops())


def crops(count: int, classifier: Classifier) -> torch.Tensor:
    side = side_px(classifier)
    made = torch.rand(count, 1, side, side, device=classifier.device)
    return made.contiguous(memory_format=torch.channels_last)


def rates(classifier: Classifier) -> Rates:
    ways: dict[str, Callable[[], object]] = {}
    peer = onnx(classifier) if classifier.device.type == "cpu" else None
    for batch in BATCHES[classifier.device.type]:
        shown = crops(batch, classifier)
        ways[f"{SERVED}/{batch}"] = partial(classifier.score, films(batch, classifier))
        ways[f"{ALONE}/{batch}"] = partial(passed, classifier, shown)
        if peer is not None:
            ways[f"{PEER}/{batch}"] = partial(peer.run, None, {"x": shown.contiguous().numpy()})
    square = torch.rand(SQUARE, SQUARE, device=classifier.device)
    ways[f"{PRODUCT}/1"] = partial(multiplied, square)
    found: Rates = {}
    for name, seconds in figures.in_turns(ways, ROUNDS).items():
        way, _, batch = name.rpartition("/")
        found.setdefault(way, {})[int(batch)] = seconds / int(batch)
    return found


def passed(classifier: Classifier, shown: torch.Tensor) -> float:
    """To the end: on a GPU a call returns before its work is done."""
    with torch.inference_mode():
        return float(classifier.network(shown)[0, 0])


def multiplied(square: torch.Tensor) -> float:
    """Also to the end."""
    return float((square @ square)[0, 0])


def onnx(classifier: Classifier) -> Any:
    """The same network in onnxruntime; None, saying so, where it is not installed."""
    try:
        import onnxruntime  # noqa: PLC0415 - the peer may be absent
    except ImportError:
        print("onnxruntime is not installed: measured without a peer")  # noqa: T201
        return None
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shape = ({0: torch.export.Dim("films")},)
        program = torch.onnx.export(classifier.network, (crops(2, classifier),), dynamic_shapes=shape, verbose=False)
    logging.disable(logging.NOTSET)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = figures.threads()
    # Else its threads spin on for a while after each pass, on cores that the next way is timed on.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    model = program.model_proto.SerializeToString()  # type: ignore[union-attr] # None only for exports to a file
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def show(device: str, side: int, seconds: Rates, floor: float) -> None:
    table = Table(title=f"Networks on {device}, {figures.threads()} threads, {side} px: milliseconds a film")
    for column in ("", "one film", "best batch", "films/s", "times the floor"):
        table.add_column(column, justify="left" if not column else "right")
    for way, of_batch in seconds.items():
        best = min(of_batch, key=of_batch.__getitem__)
        quickest = of_batch[best]
        cells = f"{1000 * of_batch[1]:.1f}", f"{1000 * quickest:.1f} ({best})", f"{1 / quickest:.0f}"
        table.add_row(way, *cells, f"{quickest / floor:.1f}")
    table.add_row(
        "floor: operations at the rate of a matrix product", "", f"{1000 * floor:.1f}", f"{1 / floor:.0f}", "1.0"
    )
    Console().print(table)
