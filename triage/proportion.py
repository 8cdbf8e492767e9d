"""How well a count tells a proportion."""

from __future__ import annotations

from math import sqrt

_Z_95 = 1.959964


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """Interval at 95 % (Wilson 1927) of a proportion seen as ``hits`` of ``trials``, at least one."""
    proportion, spread = hits / trials, _Z_95**2 / trials
    half = _Z_95 * sqrt(proportion * (1 - proportion) / trials + spread / (4 * trials))
    middle = proportion + spread / 2
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))
