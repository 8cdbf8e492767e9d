"""What may happen to a film between a child and this program: a table of shifts, each at several strengths.

A shift changes the whole film, in 8 bits, as a detector, a workstation or an archive would; what the network sees of
it is prepared afterwards as always. Strength 0 leaves every film as it is. Lengths are shares of the film, so that
films of all sizes are changed alike. What is drawn (directions, noise) depends on the film and the shift alone.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from triage.study import PixelImage
from triage.vision.pixels import checked

Picture = Image.Image  # of mode L, 8 bits
Change = Callable[[Picture, float, Random], Picture]

BLACK, WHITE = 0, 255
GRAIN_PX = 448  # across the film: grain finer than what reaches the network would average out on large films
TEXT = "CHEST AP  12:07  SN 00471  70 KV  2.0 MAS"
PUBLISHED_PX = 224
UNSHARP_RADIUS = 0.005  # of the width


@dataclass(frozen=True, kw_only=True)
class Shift:
    """``label`` formats the strength."""

    name: str
    strength: float
    change: Change
    label: str

    @property
    def words(self) -> str:
        return f"{self.name} {self.label.format(self.strength)}".strip()

    def apply(self, film: PixelImage, digest: str) -> PixelImage:
        """Film and its digest to the film changed. Raise NotAnalysed if nobody could read it any more."""
        if not self.strength:
            return film
        picture = Image.fromarray(np.rint(film.pixels * WHITE).astype(np.uint8))
        # Not for secrets: the same film is to be changed in the same way in every run.
        drawn = Random(f"{digest} {self.name}")  # noqa: S311
        changed = self.change(picture, self.strength, drawn)
        return PixelImage(pixels=checked(np.asarray(changed, np.float32) / np.float32(WHITE)))


def gamma(film: Picture, stops: float, _: Random) -> Picture:
    """Darker below 0, brighter above: grey to the power of 2 to the -``stops``."""
    return film.point([round(WHITE * (level / WHITE) ** 2**-stops) for level in range(256)])


def window(film: Picture, narrower: float, _: Random) -> Picture:
    """As much narrower about the middle, what is outside cut off."""
    return film.point([round((level - WHITE / 2) / (1 - narrower) + WHITE / 2) for level in range(256)])


def level(film: Picture, by: float, _: Random) -> Picture:
    """Brighter by this share of the range, darker below 0, cut off at the end."""
    return film.point([round(level + by * WHITE) for level in range(256)])


def noise(film: Picture, deviation: float, drawn: Random) -> Picture:
    """Gaussian, of this share of the range."""
    size = [min(side, GRAIN_PX) for side in film.size]
    grain = np.random.default_rng(drawn.getrandbits(64)).normal(0, deviation * WHITE, size[::-1])
    spread = Image.fromarray(grain.astype(np.float32)).resize(film.size, Image.Resampling.NEAREST)
    return Image.fromarray((np.asarray(film) + np.asarray(spread)).clip(BLACK, WHITE).round().astype(np.uint8))


def blur(film: Picture, radius: float, _: Random) -> Picture:
    """Gaussian, of this share of the width."""
    return film.filter(ImageFilter.GaussianBlur(radius * film.width))


def sharpen(film: Picture, amount: float, _: Random) -> Picture:
    """Unsharp mask: so many times the difference to a blurred film is added."""
    return film.filter(ImageFilter.UnsharpMask(UNSHARP_RADIUS * film.width, round(100 * amount), 0))


def resolution(film: Picture, px: float, _: Random) -> Picture:
    """Down to so many pixels a side, and up again; smaller films stay as they are."""
    small = (min(film.width, round(px)), min(film.height, round(px)))
    return film.resize(small, Image.Resampling.BILINEAR).resize(film.size, Image.Resampling.BILINEAR)


def squashed(film: Picture, px: float, _: Random) -> Picture:
    """To a square of so many pixels a side."""
    return film.resize((round(px), round(px)), Image.Resampling.BILINEAR)


def published(film: Picture, quality: float, drawn: Random) -> Picture:
    """As films come in data sets: squashed, then JPEG, whose blocks are as large for the network as small vessels."""
    return jpeg(squashed(film, PUBLISHED_PX, drawn), quality, drawn)


def jpeg(film: Picture, quality: float, _: Random) -> Picture:
    """At the film's own size."""
    stored = io.BytesIO()
    film.save(stored, "JPEG", quality=round(quality))
    return Image.open(stored).convert("L")


def rotation(film: Picture, degrees: float, drawn: Random) -> Picture:
    """One way or the other; black where nothing was exposed."""
    return film.rotate(degrees * drawn.choice((-1, 1)), Image.Resampling.BILINEAR, fillcolor=BLACK)


def zoom(film: Picture, by: float, _: Random) -> Picture:
    """Larger by this share about the middle, cut off; smaller below 0, in black."""
    return _mapped(film, 1 / (1 + by), 1 / (1 + by), 0.0, 0.0)


def narrow(film: Picture, by: float, _: Random) -> Picture:
    """Black left and right, this share of the width in all: a chest of another aspect (stretching alone is undone)."""
    return ImageOps.expand(film, (round(by * film.width / 2), 0), BLACK)


def flat(film: Picture, by: float, _: Random) -> Picture:
    """Black above and below, this share of the height in all."""
    return ImageOps.expand(film, (0, round(by * film.height / 2)), BLACK)


def displacement(film: Picture, by: float, drawn: Random) -> Picture:
    """By this share of width and height, in one of four directions; black where nothing was exposed."""
    return _mapped(film, 1.0, 1.0, by * drawn.choice((-1, 1)), by * drawn.choice((-1, 1)))


def black_borders(film: Picture, width: float, _: Random) -> Picture:
    """Collimation: on each side this share of it, over the film."""
    return _bordered(film, width, BLACK)


def white_borders(film: Picture, width: float, _: Random) -> Picture:
    return _bordered(film, width, WHITE)


def marker(film: Picture, height: float, drawn: Random) -> Picture:
    """R or L, this share of the film's height, in the upper corner of that side of the child."""
    letter, across = drawn.choice((("R", 0.07), ("L", 0.93)))
    marked = film.copy()
    place = (film.width * across, film.height * drawn.uniform(0.06, 0.14))
    ImageDraw.Draw(marked).text(place, letter, WHITE, ImageFont.load_default(height * film.height), anchor="mm")
    return marked


def text(film: Picture, lines: float, _: Random) -> Picture:
    """So many lines burned in along the upper edge and along the lower, invented."""
    written = film.copy()
    pen, height = ImageDraw.Draw(written), 0.025 * film.height
    font = ImageFont.load_default(max(height, 6))
    for line in range(round(lines)):
        pen.text((0.02 * film.width, (line + 0.3) * height * 1.2), TEXT, WHITE, font)
        pen.text((0.02 * film.width, film.height - (line + 1.3) * height * 1.2), TEXT, WHITE, font)
    return written


def mirror(film: Picture, _strength: float, _: Random) -> Picture:
    return ImageOps.mirror(film)


def _mapped(film: Picture, wide: float, high: float, right: float, down: float) -> Picture:
    """Every pixel from where it lay before: scaled about the middle, then moved by shares of the film."""
    left = film.width * ((1 - wide) / 2 - right)
    top = film.height * ((1 - high) / 2 - down)
    return film.transform(
        film.size, Image.Transform.AFFINE, (wide, 0, left, 0, high, top), Image.Resampling.BILINEAR, fillcolor=BLACK
    )


def _bordered(film: Picture, width: float, grey: int) -> Picture:
    across, along = round(width * film.width), round(width * film.height)
    middle = film.crop((across, along, film.width - across, film.height - along))
    return ImageOps.expand(middle, (across, along), grey)


def _clean(film: Picture, _strength: float, _: Random) -> Picture:
    return film


CLEAN = Shift(name="as they are", strength=0, change=_clean, label="")
_TABLE: tuple[tuple[str, Change, str, tuple[float, ...]], ...] = (
    ("same films at", squashed, "{:.0f} px", (PUBLISHED_PX,)),
    (f"same films at {PUBLISHED_PX} px, JPEG quality", published, "{:.0f}", (75,)),
    ("gamma", gamma, "{:+g} stops", (-1, -0.5, 0.5, 1)),
    ("window narrower by", window, "{:.0%}", (0.2, 0.4)),
    ("level moved by", level, "{:+.0%}", (-0.2, 0.2)),
    ("noise", noise, "{:.0%} of the range", (0.02, 0.05, 0.1)),
    ("blur", blur, "{:.2%} of the width", (0.0025, 0.005, 0.01)),
    ("sharpened, amount", sharpen, "{:g}", (1, 2)),
    ("resolution", resolution, "{:.0f} px", (448, 224, 112)),
    ("JPEG quality", jpeg, "{:.0f}", (50, 20, 10)),
    ("turned", rotation, "{:.0f} degrees", (3, 7, 12)),
    ("zoomed by", zoom, "{:+.0%}", (-0.2, -0.1, 0.1, 0.2)),
    ("black at the sides", narrow, "{:.0%}", (0.1, 0.2)),
    ("black above and below", flat, "{:.0%}", (0.1, 0.2)),
    ("displaced by", displacement, "{:.0%}", (0.05, 0.1)),
    ("black borders", black_borders, "{:.0%}", (0.03, 0.06, 0.1)),
    ("white borders", white_borders, "{:.0%}", (0.03, 0.06, 0.1)),
    ("side marker", marker, "{:.0%} high", (0.05, 0.09)),
    ("text lines", text, "{:.0f}", (1, 3)),
    ("mirrored", mirror, "", (1,)),
)
SHIFTS = tuple(
    Shift(name=name, strength=strength, change=change, label=label)
    for name, change, label, strengths in _TABLE
    for strength in strengths
)
