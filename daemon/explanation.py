"""Pictures that say why the network says what it says of a film. The film is decoded as any other: in the sandbox."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from daemon.decoder import Decoder, Look
from daemon.film import decoded, findings
from daemon.sandbox import Limits
from triage.errors import NotAnalysed, Reason, TriageError
from triage.policy import Policy
from triage.study import Explanation
from triage.vision.classifier import Classifier
from triage.vision.explain import gradient, superpixels
from triage.vision.part10 import MAGIC, PREAMBLE_BYTES
from triage.vision.picture import beside, picture
from triage.vision.pixels import prepare, read_picture

# Larger films are drawn smaller: nobody sees more, and a picture of colours takes twelve times a film's memory.
_LONGEST_SIDE = 4096
_WAYS = {Explanation.SUPERPIXELS: superpixels, Explanation.HEAT: superpixels, Explanation.GRADIENT: gradient}
Film = NDArray[np.float32]


def kinds_of(names: Sequence[str]) -> tuple[Explanation, ...]:
    """All where none is named. Raise TriageError for one that there is not."""
    try:
        return tuple(Explanation(name) for name in names) or tuple(Explanation)
    except ValueError:
        raise TriageError(f"kinds of explanation are {', '.join(Explanation)}") from None


def png(image: Image.Image) -> bytes:
    """Pixels alone, no text beside them."""
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue()


def explained(
    path: Path, kinds: Sequence[Explanation], classifier: Classifier, policy: Policy, limits: Limits
) -> Image.Image:
    """Explanations of one film side by side: DICOM, JPEG or PNG. Raise NotAnalysed if the network judges it not."""
    whole, seen = _film(path, classifier, policy, limits)
    (finding,) = findings([Look(pixels=seen)], classifier)
    if finding.reason is not None:
        raise NotAnalysed(finding.reason)
    found = {way: way(seen, classifier) for way in {_WAYS[kind] for kind in kinds}}
    return beside([picture(whole, found[_WAYS[kind]], kind) for kind in kinds])


def _film(path: Path, classifier: Classifier, policy: Policy, limits: Limits) -> tuple[Film, Film]:
    """The film at its own size, (H, W), and as the network gets it, (size, size)."""
    try:
        content = path.read_bytes()
    except OSError:
        raise NotAnalysed(Reason.DECODE_ERROR) from None
    if content[PREAMBLE_BYTES : PREAMBLE_BYTES + len(MAGIC)] == MAGIC:
        return _dicom(path, hashlib.sha256(content).hexdigest(), classifier, policy, limits)
    image = read_picture(path)
    return image.pixels, prepare(image, classifier.card.preprocessing)


def _dicom(path: Path, sha256: str, classifier: Classifier, policy: Policy, limits: Limits) -> tuple[Film, Film]:
    """The sandbox gives squares only: the second look is at one as large as the film is long."""
    card = classifier.card
    with Decoder(limits) as decoder:
        small = decoded(path, sha256, decoder, card, policy)
        if small.pixels is None or small.shape is None:
            raise NotAnalysed(small.reason or Reason.DECODE_ERROR)
        longest = min(max(small.shape), _LONGEST_SIDE)
        as_large = replace(card, preprocessing=replace(card.preprocessing, size_px=longest))
        large = decoded(path, sha256, decoder, as_large, policy)
    if large.pixels is None:
        raise NotAnalysed(large.reason or Reason.DECODE_ERROR)
    rows, columns = (max(1, round(side * longest / max(small.shape))) for side in small.shape)
    film = Image.fromarray(large.pixels).resize((columns, rows), Image.Resampling.BILINEAR)
    return np.asarray(film, np.float32), small.pixels
