"""From films to their findings: the gate, the decoder and the network, in this order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from daemon.decoder import Decoder, Look
from triage.card import Card
from triage.errors import Reason
from triage.policy import Policy, gate
from triage.study import Finding
from triage.vision.classifier import Classifier


def look_at(path: Path, sha256: str, decoder: Decoder, classifier: Classifier, policy: Policy) -> tuple[Finding, Look]:
    """What the network says of one DICOM file, or why it says nothing."""
    look = decoded(path, sha256, decoder, classifier.card, policy)
    return findings([look], classifier)[0], look


def decoded(path: Path, sha256: str, decoder: Decoder, card: Card, policy: Policy) -> Look:
    """What the network may see of one DICOM file."""
    judged = partial(gate, population=card.population, policy=policy)
    return decoder.look(path, sha256=sha256, gate=judged, preprocessing=card.preprocessing)


def score(prepared: NDArray[np.float32], classifier: Classifier) -> Finding:
    """Of one film (size, size) in [0, 1], as `triage.vision.pixels.prepare` makes it."""
    try:
        return findings([Look(pixels=prepared)], classifier)[0]
    except MemoryError:
        return Finding(weights_sha256=classifier.card.sha256, reason=Reason.RESOURCE_EXHAUSTED)


def findings(looks: Sequence[Look], classifier: Classifier) -> list[Finding]:
    """One for each look, in their order; those that show a film go through the network together."""
    films = [look.pixels for look in looks if look.pixels is not None]
    scored = iter(classifier.findings(np.stack(films)) if films else [])
    return [next(scored) if look.pixels is not None else _unseen(look, classifier.card) for look in looks]


def _unseen(look: Look, card: Card) -> Finding:
    return Finding(weights_sha256=card.sha256, reason=look.reason or Reason.DECODE_ERROR)
