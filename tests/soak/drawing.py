"""Curves over time, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT, LEFT, TOP, GAP = 760, 150, 60, 28, 52
COLOURS = ("#0b84a5", "#f6a21e", "#6f4e7c", "#9dd866", "#ca472f")


def drawn(panels: Mapping[str, Mapping[str, Points]]) -> str:
    """A panel for each figure, a curve for each process; seconds to the right."""
    parts = [panel(title, curves, TOP + n * (HEIGHT + GAP)) for n, (title, curves) in enumerate(panels.items())]
    names = list(next(iter(panels.values())))
    below = TOP + len(parts) * (HEIGHT + GAP)
    key = "".join(
        f'<text x="{LEFT + 110 * n}" y="{below}" fill="{COLOURS[n]}">{escape(name)}</text>'
        for n, name in enumerate(names)
    )
    size = f'width="{LEFT + WIDTH + 20}" height="{below + 16}"'
    style = 'font-family="sans-serif" font-size="12"'
    ground = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{ground}{"".join(parts)}{key}</svg>\n'


def panel(title: str, curves: Mapping[str, Points], top: int) -> str:
    end = max(x for points in curves.values() for x, _ in points)
    most = 1.1 * max(y for points in curves.values() for _, y in points)
    frame = f'<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>'
    words = (
        f'<text x="{LEFT}" y="{top - 8}">{escape(title)}</text><text x="4" y="{top + 10}">{most:.0f}</text>'
        f'<text x="4" y="{top + HEIGHT}">0</text>'
        f'<text x="{LEFT + WIDTH}" y="{top + HEIGHT + 14}" text-anchor="end">{end / 60:.0f} min</text>'
    )
    lines = "".join(curve(points, end, most, top, COLOURS[n]) for n, points in enumerate(curves.values()))
    return frame + words + lines


def curve(points: Points, end: float, most: float, top: int, colour: str) -> str:
    places = " ".join(f"{LEFT + WIDTH * x / end:.1f},{top + HEIGHT * (1 - y / most):.1f}" for x, y in points)
    return f'<polyline points="{places}" fill="none" stroke="{colour}"/>'
