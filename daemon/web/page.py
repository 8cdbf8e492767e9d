"""What the pages say: names made harmless, ages and waits in words. The templates lay it out."""

from __future__ import annotations

import unicodedata
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from triage.records.listing import Totals
from triage.study import Analysis, Event, EventKind, Tier, WorklistEntry

TEMPLATES = Path(__file__).resolve().parent / "templates"
# Controls, formatting (bidi overrides among it), surrogates, line separators: none of them belongs on a line.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Persian and Indic names are not spelled right without the zero-width joiner and non-joiner.
_NEEDED = frozenset({"\u200c", "\u200d"})
_BADGES = {Tier.LIKELY: "likely", Tier.POSSIBLE: "possible", Tier.UNLIKELY: "not flagged"}
_HAPPENED = {
    EventKind.RECEIVED: "received",
    EventKind.ANALYSED: "analysed",
    EventKind.NOT_ANALYSED: "not analysed",
    EventKind.REQUEUED: "analysis asked for again",
    EventKind.PRIORITISED: "clinical priority changed",
    EventKind.REOPENED: "opened again",
    EventKind.OPENED: "looked at",
    EventKind.STARTED: "reading started",
    EventKind.RELEASED: "released",
    EventKind.READ: "read",
    EventKind.OVERDUE: "waited over the limit",
    EventKind.PROGRESSED: "progress told",
    EventKind.OPINION: "opinion on the analysis",
    EventKind.CANCEL_ASKED: "asked to be cancelled",
    EventKind.OTHER: "something that a later version knows",
}
_YEARS_IN_MONTHS = 2.0
_DAY_MINUTES = 24 * 60


def render(template: str, **values: Any) -> str:  # noqa: ANN401 - each template has its own names
    """Text of a page; everything put in is escaped, and a name that is missing is an error."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    environment.filters.update(
        visible=visible,
        person=person,
        age=age,
        duration=duration,
        clock=clock,
        badge=badge,
        caveat=caveat,
        typed=typed,
        codes=codes,
        told=told,
        until=until,
    )
    return environment


def visible(text: str | None) -> str:
    """Characters that hide, or turn what follows around, appear as their code point. "" becomes a dash."""
    shown = "".join(_visible_character(character) for character in text or "").strip()
    return shown or "–"  # noqa: RUF001 - a dash is meant


def _visible_character(character: str) -> str:
    if unicodedata.category(character) in _INVISIBLE and character not in _NEEDED:
        return f"⟨U+{ord(character):04X}⟩"
    return character


def person(name: str) -> str:
    """Person Name as people write it, nothing left out: "family, given middle ..." for each group (PS3.5, 6.2.1.1)."""
    groups = (_group(group) for group in name.split("="))
    return visible(" · ".join(group for group in groups if group))


def _group(text: str) -> str:
    family, *others = (component.strip() for component in text.split("^"))
    rest = " ".join(component for component in others if component)
    return ", ".join(part for part in (family, rest) if part)


def age(years: float | None) -> str:
    """Months below two years of age, else whole years."""
    if years is None:
        return "–"  # noqa: RUF001 - a dash is meant
    return f"{int(years * 12)} mo" if years < _YEARS_IN_MONTHS else f"{int(years)} y"


def duration(minutes: int) -> str:
    """To the minute below a day, then to the hour."""
    if minutes < 60:  # noqa: PLR2004
        return f"{max(0, minutes)} min"  # less where the clock was put back
    if minutes >= _DAY_MINUTES:
        return f"{minutes // _DAY_MINUTES} d {minutes % _DAY_MINUTES // 60} h"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes % 60 else f"{minutes // 60} h"


def clock(moment: datetime, now: datetime) -> str:
    """Time of day where the server stands; with the date unless it is today."""
    here, today = moment.astimezone(), now.astimezone().date()
    return f"{here:%H:%M}" if here.date() == today else f"{here:%d %b %H:%M}"


def until(entry: WorklistEntry) -> datetime:
    """When the wait of a study that was read ended."""
    return entry.waiting_since + timedelta(seconds=entry.waiting_seconds)


def badge(entry: WorklistEntry) -> tuple[str, str]:
    """(class, words) of the analysis. Where nothing was looked at, never a word that could mean "normal"."""
    if entry.analysis == Analysis.PENDING:
        return "pending", "pending"
    if entry.analysis != Analysis.ANALYSED or entry.tier is None:
        return "not-analysed", "not analysed"
    if entry.flagged or entry.tier == Tier.UNLIKELY:
        return entry.tier, _BADGES[Tier(entry.tier)]
    return Tier.UNLIKELY, f"{entry.tier}, not flagged"  # colour means "flagged"


def caveat(entry: WorklistEntry) -> str:
    """What little the film tells about the cause, "" if nothing."""
    return f"rather {entry.etiology}; not reliable on films" if entry.etiology else ""


def counts(totals: Totals) -> list[tuple[str, int]]:
    """(word, number) for the title bar, of the whole worklist."""
    return [
        ("open", totals.open),
        ("flagged", totals.flagged),
        ("pending", totals.pending),
        ("not analysed", totals.not_analysed),
    ]


def told(event: Event) -> str:
    """One event in words, without its time."""
    moved = f" (moved from place {event.rank_from} to {event.rank_to})" if event.rank_to else ""
    kind, words = _HAPPENED[event.kind], event.words
    if event.kind is EventKind.RECEIVED or words.startswith(kind):
        kind, words = words or kind, ""
    return f"{kind}{': ' + words if words else ''}{moved}"


# -- the description of the interface ------------------------------------------------------------------------------


def typed(schema: dict[str, Any]) -> str:
    """Type of a JSON Schema in words, e.g. "date-time string or null"."""
    if "anyOf" in schema:
        return " or ".join(typed(part) for part in schema["anyOf"])
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if schema.get("type") == "array":
        return f"array of {typed(schema['items'])}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"object of {typed(schema['additionalProperties'])}"
    return " ".join(str(schema[part]) for part in ("format", "type") if part in schema) or "any"


def codes(schema: dict[str, Any]) -> dict[str, str]:
    """The values that a JSON Schema allows, each with its words, "" where they need none; empty if it lists none."""
    parts = [schema, *schema.get("anyOf", [])]
    return {code: part.get("x-enum-descriptions", {}).get(code, "") for part in parts for code in part.get("enum", [])}
