"""From a film to its finding: the gate, the decoder and the network, in this order."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from daemon.decoder import Decoder, Look
from triage.errors import NotAnalysed, Reason
from triage.policy import Policy, gate
from triage.study import Finding
from triage.vision.classifier import Classifier


def look_at(path: Path, sha256: str, decoder: Decoder, classifier: Classifier, policy: Policy) -> tuple[Finding, Look]:
    """What the network says of one DICOM file, or why it says nothing."""
    card = classifier.card
    look = decoder.look(
        path,
        sha256=sha256,
        gate=partial(gate, population=card.population, policy=policy),
        preprocessing=card.preprocessing,
    )
    if look.pixels is None:
        return Finding(weights_sha256=card.sha256, reason=look.reason or Reason.DECODE_ERROR), look
    return score(look.pixels, classifier), look


def score(prepared: NDArray[np.float32], classifier: Classifier) -> Finding:
    """Of one film (size, size) in [0, 1], as `triage.vision.pixels.prepare` makes it."""
    weights = classifier.card.sha256
    try:
        normal, bacterial, viral = (float(p) for p in classifier.score(prepared[None])[0])
    except NotAnalysed as outcome:
        return Finding(weights_sha256=weights, reason=outcome.reason)
    except MemoryError:
        return Finding(weights_sha256=weights, reason=Reason.RESOURCE_EXHAUSTED)
    return Finding(weights_sha256=weights, p_normal=normal, p_bacterial=bacterial, p_viral=viral)
