"""The network as it is used here: card, weights, device, and the same answer as where it was released."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from daemon.house import load
from daemon.operating.verdict import Area, Verdict, fail, ok, warn
from daemon.settings import Settings
from triage.errors import CardMismatchError

# P(normal), P(bacterial), P(viral) of `drawn`, by the sha256 of the weights.
KNOWN = Path(__file__).with_name("known_answers.json")
_MOST_MOVED = 0.01


def look_at_network(settings: Settings) -> Iterator[Verdict]:
    """Loads it as a worker does, and shows it a drawn film: half a minute at the most."""
    try:
        classifier = load(settings)
    except CardMismatchError as error:
        fix = "give back card and weights as they were released, or set weights_card; films wait as model_unavailable"
        yield fail(Area.NETWORK, str(error), fix)
        return
    weights = classifier.card.sha256
    began = time.monotonic()
    found = classifier.score(drawn(classifier.card.preprocessing.size_px)[None])[0]
    seconds = time.monotonic() - began
    words = f"network {weights[:12]} on {classifier.device}, {seconds * 1000:.0f} ms for one film"
    known = json.loads(KNOWN.read_text(encoding="utf-8")).get(weights)
    if known is None:
        yield ok(Area.NETWORK, f"{words}; of these weights no answer is known to compare with")
        return
    moved = float(np.abs(found - np.array(known)).max())
    if moved > _MOST_MOVED:
        words += f": its answer is {moved:.3f} from the one it was released with"
        yield fail(
            Area.NETWORK, words, "do not use this machine for it: see the versions of torch and of its device's driver"
        )
    else:
        yield ok(Area.NETWORK, f"{words}, answers as released")
    if settings.device == "auto" and classifier.device.type == "cpu" and Path("/dev/nvidia0").exists():
        yield warn(Area.NETWORK, "there is a GPU, and this build of torch cannot use it", "install torch for CUDA")


def drawn(size_px: int) -> NDArray[np.float32]:
    """Two dark fields in a bright one, with a gradient: the same on every machine."""
    rows, columns = np.mgrid[0:size_px, 0:size_px].astype(np.float64) / size_px
    left, right = (np.exp(-(((columns - x) / 0.13) ** 2) - ((rows - 0.5) / 0.28) ** 2) for x in (0.3, 0.7))
    return np.asarray(np.clip(0.85 - 0.6 * (left + right) + 0.1 * (rows - 0.5), 0, 1), np.float32)
