"""Alert budgets: what a threshold brings at a site, and the one that keeps within what the site can bear.

The card's curve knows sensitivity and specificity; flags per 100 studies and the positive predictive value (PPV) follow
from them only with the share of pneumonias among the site's analysed studies. They are forecasts: a site whose films
differ from those the curve was measured on will see other figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from triage.card import NOTHING_CAUGHT, NOTHING_SPARED, Card, OperatingPoint
from triage.errors import SettingsError

SENSITIVITY_MIN = 0.9


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What flagging from ``threshold`` on brings where ``prevalence`` of the studies are pneumonias.

    All are shares of 1 but the flags. ``ppv`` is the share of flags that are right; 1 where there are none.
    """

    threshold: float
    prevalence: float
    sensitivity: float
    ppv: float
    flags_per_100: float


@dataclass(frozen=True, kw_only=True)
class Budget:
    """At most so many flags, or flags that are right so often, and the least share of pneumonias still to be caught."""

    prevalence: float
    flags_per_100_max: float | None = None
    ppv_min: float | None = None
    sensitivity_min: float = SENSITIVITY_MIN

    def allows(self, forecast: Forecast) -> bool:
        few = self.flags_per_100_max is None or forecast.flags_per_100 <= self.flags_per_100_max
        return few and (self.ppv_min is None or forecast.ppv >= self.ppv_min)


def forecast(point: OperatingPoint, prevalence: float) -> Forecast:
    right = prevalence * point.sensitivity
    flags = right + (1 - prevalence) * (1 - point.specificity)
    return Forecast(
        threshold=point.threshold,
        prevalence=prevalence,
        sensitivity=point.sensitivity,
        ppv=right / flags if flags else 1.0,
        flags_per_100=100 * flags,
    )


def at(curve: Sequence[OperatingPoint], threshold: float) -> OperatingPoint:
    """The point of a curve at a ``threshold`` in [0, 1], on the straight line between its neighbours."""
    for low, high in pairwise((NOTHING_SPARED, *curve, NOTHING_CAUGHT)):
        if low.threshold <= threshold < high.threshold:
            share = (threshold - low.threshold) / (high.threshold - low.threshold)
            return OperatingPoint(
                threshold=threshold,
                sensitivity=low.sensitivity + share * (high.sensitivity - low.sensitivity),
                specificity=low.specificity + share * (high.specificity - low.specificity),
            )
    return NOTHING_CAUGHT


def choices(card: Card, prevalence: float) -> list[Forecast]:
    """From the card's own threshold up, sensitivity falling; the last one flags nobody. Empty if it has no curve.

    A budget is a wish for fewer flags, so thresholds below the card's are no choice.
    """
    if not card.curve:
        return []
    higher = [point for point in card.curve if point.threshold > card.threshold]
    return [forecast(point, prevalence) for point in (at(card.curve, card.threshold), *higher, NOTHING_CAUGHT)]


def offers(card: Card, prevalence: float, sensitivity_min: float) -> list[Forecast]:
    """For people to choose from: the card's own threshold, then what still catches enough, best of each whole flag."""
    best: dict[int, Forecast] = {}
    for choice in choices(card, prevalence):
        if not best or choice.sensitivity >= sensitivity_min:
            best.setdefault(math.ceil(choice.flags_per_100), choice)
    return list(best.values())


def within(card: Card, budget: Budget) -> Forecast:
    """The choice that catches most within the budget.

    Raise SettingsError, saying what is attainable, if that is less than the budget's ``sensitivity_min``.
    """
    offered = choices(card, budget.prevalence)
    if not offered:
        raise SettingsError(
            f"[policy] {_limit(budget)[0]}: the card of network {card.sha256[:12]} has no operating curve"
        )
    found = next(choice for choice in offered if budget.allows(choice))
    if found.sensitivity < budget.sensitivity_min:
        raise SettingsError(_too_tight(budget, found, offered))
    return found


def _limit(budget: Budget) -> tuple[str, str]:
    """Name and words of what a budget asks for."""
    if budget.flags_per_100_max is not None:
        return "flags_per_100_max", f"{budget.flags_per_100_max:g} flags per 100"
    return "ppv_min", f"a PPV of {budget.ppv_min:g}"


def _too_tight(budget: Budget, found: Forecast, offered: Sequence[Forecast]) -> str:
    name, asked = _limit(budget)
    floor = f"sensitivity_min {budget.sensitivity_min:g}"
    good = [choice for choice in offered if choice.sensitivity >= budget.sensitivity_min]
    if not good:
        return f"[policy] {floor}: the network's own threshold catches {_per_cent(offered[0].sensitivity)}"
    flags = math.ceil(min(choice.flags_per_100 for choice in good))
    ppv = math.floor(1000 * max(choice.ppv for choice in good)) / 1000
    instead = f"at least {flags} flags are needed" if name == "flags_per_100_max" else f"a PPV of {ppv:g} can be had"
    would = f"at prevalence {budget.prevalence:g}, {asked} would catch {_per_cent(found.sensitivity)} of the pneumonias"
    return f"[policy] {name}: {would}, below {floor}; {instead}"


def _per_cent(share: float) -> str:
    """Rounded down: what misses a limit must not look as if it met it."""
    return f"{math.floor(100 * share)} %"
