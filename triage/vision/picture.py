"""An explanation drawn over its film, at the film's own size, with what must be said beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from triage.study import Explanation
from triage.vision.explain import Attribution

CAPTION = "For prioritisation only, not for diagnosis. Shows what moves this network, not where disease is."
GREEN, RED, BLUE, YELLOW, WHITE = (0, 200, 0), (220, 30, 30), (40, 90, 255), (255, 220, 0), (255, 255, 255)
# Superpixels that move less than this share of the strongest one are left as they are.
LEAST_SHARE = 0.15
# Of the colour, where an attribution is strongest.
OPACITY = 0.55
TINT = 0.3


WORDS = {
    Explanation.SUPERPIXELS: "Superpixels: green speaks for pneumonia, red against",
    Explanation.HEAT: "Superpixels, by strength: blue speaks for pneumonia, red against",
    Explanation.GRADIENT: "Gradient: blue speaks for pneumonia, red against",
}
Colour = tuple[int, int, int]
Layer = NDArray[np.float32]


def picture(film: NDArray[np.float32], attribution: Attribution, kind: Explanation) -> Image.Image:
    """Film (H, W) in [0, 1] under an explanation of it: RGB, W wide, H high and the captions below."""
    grey = np.repeat(np.rint(film * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    painted = outlined(grey, attribution) if kind == Explanation.SUPERPIXELS else heated(grey, attribution)
    return captioned(painted, WORDS[kind], colour_bar=kind != Explanation.SUPERPIXELS)


def beside(pictures: Sequence[Image.Image]) -> Image.Image:
    """All in a row."""
    row = Image.new("RGB", (sum(one.width for one in pictures), max(one.height for one in pictures)))
    left = 0
    for one in pictures:
        row.paste(one, (left, 0))
        left += one.width
    return row


def outlined(grey: NDArray[np.uint8], attribution: Attribution) -> Image.Image:
    """Superpixels that matter, tinted by their sign, in yellow edges."""
    if attribution.segments is None:
        raise ValueError("an attribution without superpixels has none to outline")
    strength = scaled(attribution.values)
    chosen = np.abs(strength) >= LEAST_SHARE
    places = np.where(chosen, attribution.segments + 1, 0)
    tint = np.where(chosen, np.sign(strength), 0).astype(np.float32) * TINT
    painted = np.asarray(blended(grey, on_film(tint, attribution, grey, Image.Resampling.NEAREST), GREEN, RED)).copy()
    edges = edges_of(on_film(places.astype(np.float32), attribution, grey, Image.Resampling.NEAREST))
    painted[thick(edges, max(1, max(grey.shape[:2]) // 500))] = YELLOW
    return Image.fromarray(painted)


def heated(grey: NDArray[np.uint8], attribution: Attribution) -> Image.Image:
    """Blue for, red against, as opaque as strong."""
    layer = on_film(scaled(attribution.values) * OPACITY, attribution, grey, Image.Resampling.BICUBIC)
    return blended(grey, layer, BLUE, RED)


def scaled(values: Layer) -> Layer:
    """To [-1, 1], by the strongest; the sign stays. The last hundredth is cut off."""
    most = float(np.quantile(np.abs(values), 0.99))
    return (values / most).clip(-1, 1).astype(np.float32) if most > 0 else np.zeros_like(values)


def on_film(layer: Layer, attribution: Attribution, grey: NDArray[np.uint8], way: Image.Resampling) -> Layer:
    """A layer of the crop (S, S) to one of the film (H, W), 0 outside of the crop."""
    height, width = grey.shape[:2]
    left, top, right, bottom = attribution.box
    across, down = (right - left) * width, (bottom - top) * height
    side = layer.shape[0]
    affine = (side / across, 0, -left * width * side / across, 0, side / down, -top * height * side / down)
    drawn = Image.fromarray(layer).transform((width, height), Image.Transform.AFFINE, affine, way, fillcolor=0)
    return np.asarray(drawn, np.float32)


def blended(grey: NDArray[np.uint8], opacity: Layer, above: Colour, below: Colour) -> Image.Image:
    """``opacity`` (H, W) in [-1, 1]: of one colour where above 0, of the other where below."""
    share = np.abs(opacity).clip(0, 1)[:, :, None]
    colour = np.where(opacity[:, :, None] > 0, np.array(above, np.float32), np.array(below, np.float32))
    return Image.fromarray(np.rint(grey * (1 - share) + colour * share).astype(np.uint8))


def edges_of(numbers: Layer) -> NDArray[np.bool_]:
    """Where a number meets another, to the right or below."""
    edges = np.zeros(numbers.shape, bool)
    edges[:-1] |= numbers[:-1] != numbers[1:]
    edges[:, :-1] |= numbers[:, :-1] != numbers[:, 1:]
    return edges


def thick(edges: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """Edges about so many pixels wide."""
    wide = edges.copy()
    for step in range(1, by):
        wide[step:] |= edges[:-step]
        wide[:, step:] |= edges[:, :-step]
    return wide


def captioned(painted: Image.Image, words: str, *, colour_bar: bool) -> Image.Image:
    """The film with a strip below it: what the colours mean, and what the picture is not for."""
    size = max(12, painted.width // 60)
    lines = [line for text in (words, CAPTION) for line in wrapped(text, painted.width, size)]
    bar = 2 * size if colour_bar else 0
    strip = round((len(lines) + 0.5) * 1.35 * size) + bar
    whole = Image.new("RGB", (painted.width, painted.height + strip))
    whole.paste(painted, (0, 0))
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(size)
    if colour_bar:
        whole.paste(bar_of(painted.width - 2 * size, size), (size, painted.height + size // 2))
    for number, line in enumerate(lines):
        pen.text((size, painted.height + bar + (number + 0.25) * 1.35 * size), line, WHITE, font)
    return whole


def bar_of(width: int, height: int) -> Image.Image:
    """From strongest against, left, to strongest for."""
    ramp = np.repeat(np.linspace(-1, 1, max(width, 2), dtype=np.float32)[None], height, axis=0)
    middle = np.full((*ramp.shape, 3), 128, np.uint8)
    bar = blended(middle, ramp, BLUE, RED)
    pen, font = ImageDraw.Draw(bar), ImageFont.load_default(max(8, 0.8 * height))
    for place, words, anchor in ((4, "against", "lm"), (width // 2, "0", "mm"), (width - 4, "for", "rm")):
        pen.text((place, height // 2), words, WHITE, font, anchor=anchor)
    return bar


def wrapped(text: str, width: int, size: int) -> list[str]:
    """Lines that fit."""
    font, lines = ImageFont.load_default(size), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width - 2 * size:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
