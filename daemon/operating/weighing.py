"""The network as it is used here: card, weights, device, and the same answer as where it was released."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from daemon.house import load
from daemon.operating.verdict import Area, Verdict, fail, ok, warn
from daemon.settings import Settings
from triage.errors import CardMismatchError
from triage.vision.golden import golden_films

# There as soon as NVIDIA's driver is, whatever torch has been built for.
_GPU = Path("/dev/nvidia0")


def look_at_network(settings: Settings) -> Iterator[Verdict]:
    """Loads it as a worker does, and shows it a drawn film: half a minute at the most."""
    try:
        classifier = load(settings)
    except CardMismatchError as error:
        fix = "give back card and weights as they were released, or set weights_card; films wait as model_unavailable. "
        fix += "A self-test that fails: see the versions of torch and of its device's driver"
        yield fail(Area.NETWORK, str(error), fix)
        return
    weights = classifier.card.sha256
    began = time.monotonic()
    classifier.score(golden_films(classifier.card.preprocessing.size_px)[:1])
    seconds = time.monotonic() - began
    words = f"network {weights[:12]} on {classifier.device}, {seconds * 1000:.0f} ms for one film"
    golden = "answers as released" if classifier.card.golden else "of its card no answer is known to compare with"
    yield ok(Area.NETWORK, f"{words}; {golden}")
    if settings.device == "auto" and classifier.device.type == "cpu" and _GPU.exists():
        yield warn(Area.NETWORK, "there is a GPU, and this build of torch cannot use it", "install torch for CUDA")
