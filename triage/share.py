"""How well a count tells a share."""

from __future__ import annotations

from math import sqrt

_Z_95 = 1.959964


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """Interval at 95 % (Wilson 1927) of a share seen as ``hits`` of ``trials``, at least one."""
    share, spread = hits / trials, _Z_95**2 / trials
    half = _Z_95 * sqrt(share * (1 - share) / trials + spread / (4 * trials))
    middle = share + spread / 2
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))
