"""Films scored without a daemon: the same gate, decoder and network, one result a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from daemon.decoder import Decoder
from daemon.film import look_at, score
from daemon.sandbox import Limits
from triage.errors import NotAnalysed, Reason
from triage.policy import Policy, judge
from triage.study import Finding
from triage.vision.classifier import Classifier
from triage.vision.pixels import prepare, read_film

_PREAMBLE_BYTES = 128


def score_films(
    films: Sequence[Path], classifier: Classifier, policy: Policy, limits: Limits
) -> Iterator[dict[str, Any]]:
    """path, status (analysed | not_analysed), reason, p_pneumonia, flagged, tier, etiology, words of each film.

    A JPEG or PNG says nothing of itself: whoever names it vouches that it is a frontal chest film of the population.
    """
    with Decoder(limits) as decoder:
        for path in films:
            finding = _finding(path, decoder, classifier, policy)
            priority = judge(finding, card=classifier.card, policy=policy)
            yield {
                "path": str(path),
                "status": priority.analysis,
                "reason": priority.reason,
                "p_pneumonia": priority.p_pneumonia,
                "flagged": priority.flagged,
                "tier": priority.tier,
                "etiology": priority.etiology,
                "words": priority.words,
            }


def _finding(path: Path, decoder: Decoder, classifier: Classifier, policy: Policy) -> Finding:
    try:
        content = path.read_bytes()
    except OSError:
        return Finding(reason=Reason.DECODE_ERROR)
    if content[_PREAMBLE_BYTES : _PREAMBLE_BYTES + 4] == b"DICM":
        return look_at(path, hashlib.sha256(content).hexdigest(), decoder, classifier, policy)[0]
    try:
        return score(prepare(read_film(path), classifier.card.preprocessing), classifier)
    except NotAnalysed as outcome:
        return Finding(reason=outcome.reason)
