"""Who is read next, and why nobody is lost or starved: the one place that orders the reading worklist.

The order, term by term; the view computes it, and the page, the API, the command line and SQL consumers read the view.

1. clinical priority of the order (STAT before URGENT before ROUTINE): the analysis never changes it;
2. the top class, {flagged by the analysis, or overdue}, before all others. An overdue study *joins* the top class
   by arrival, it does not jump over it: a flagged study then never waits longer than first come, first served;
3. arrival: ``waiting_since``, set when the study is received (anew when a late image reopens a study that was read);
4. Study Instance UID, so that the order is total.

Pending, failed and out-of-population studies stand in the second class by arrival: with no analysis at all the list
is first come, first served within clinical priority.

The text is SQL that SQLite and PostgreSQL share but for their clocks (`CLOCKS`). Times are UTC.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Clock:
    """How a database tells the time, the same throughout one statement. Its clock decides: hosts need not agree.

    ``after`` has a place for seconds, which may be negative; ``seconds_since`` for a column. ``later``
    makes of a column's greatest value a moment after it, never before now.
    """

    now: str
    after: str
    seconds_since: str
    later: str


CLOCKS = {
    "sqlite": Clock(
        now="(strftime('%Y-%m-%d %H:%M:%f', 'now') || '000')",
        after="(strftime('%Y-%m-%d %H:%M:%f', 'now', '{seconds:+.3f} seconds') || '000')",
        seconds_since="CAST((julianday('now') - julianday({column})) * 86400 AS INTEGER)",
        later="max({now}, coalesce(strftime('%Y-%m-%d %H:%M:%f', ({last}), '+0.001 seconds') || '000', ''))",
    ),
    "postgresql": Clock(
        now="statement_timestamp()",
        after="(statement_timestamp() + make_interval(secs => {seconds:.3f}))",
        seconds_since="CAST(floor(extract(epoch FROM statement_timestamp() - {column})) AS INTEGER)",
        later="greatest({now}, ({last}) + interval '1 millisecond')",
    ),
}

# Three looks into an index, rather than one at every open study.
_LAST = "SELECT max(waiting_since) FROM studies WHERE status <> 'read' AND clinical_priority = {urgency}"


def terms(rows: str, clock: Clock, *, in_time: bool = False) -> tuple[str, str, str, str]:
    """The order of the worklist, as expressions on ``rows`` of studies: the smallest is read first.

    ``in_time``: as if none of them were overdue.
    """
    late = "" if in_time else f" OR {rows}.overdue_at <= {clock.now}"
    top = f"CASE WHEN {rows}.flagged{late} THEN 0 ELSE 1 END"
    return f"{rows}.clinical_priority", top, f"{rows}.waiting_since", f"{rows}.study_instance_uid"


def arrival(clock: Clock) -> str:
    """SQL of the time since when a study waits that comes now: later than every open study that came before.

    Else one that comes after the clock was put back would stand before those that have waited.
    """
    since = clock.now
    for urgency in (0, 1, 2):
        since = clock.later.format(now=since, last=_LAST.format(urgency=urgency))
    return since


# In the order of the view. What is not computed is a column of the study's row.
_COLUMNS = (
    "study_instance_uid", "accession_number", "patient_id", "patient_name", "patient_birth_date", "patient_sex",
    "age_years", "modality", "study_date", "study_description", "received_at", "waiting_since", "waiting_seconds",
    "clinical_priority", "status", "reader", "analysis", "reason", "flagged", "overdue", "tier", "etiology",
    "p_pneumonia", "identity_conflict", "why",
)  # fmt: skip


def computed(rows: str, clock: Clock) -> dict[str, str]:
    """SQL of what the view says beside the columns of ``rows`` of studies."""
    urgency = f"CASE {rows}.clinical_priority WHEN 0 THEN 'STAT' WHEN 1 THEN '{{}}' ELSE '{{}}' END"
    overdue = f"{rows}.overdue_at <= {clock.now}"
    late = f"'; waited over the limit of ' || {rows}.waiting_limit_minutes || ' min'"
    parts = (
        urgency.format("Urgent", "Routine"),
        f"' order; ' || {rows}.words",
        f"CASE WHEN {overdue} THEN {late} ELSE '' END",
        f"CASE WHEN {rows}.identity_conflict THEN '; identifiers missing or contradictory' ELSE '' END",
        f"CASE WHEN {rows}.changed_while_reading THEN '; new images since the reading started' ELSE '' END",
        "'; then by arrival'",
    )
    return {
        "waiting_seconds": clock.seconds_since.format(column=f"{rows}.waiting_since"),
        "clinical_priority": urgency.format("URGENT", "ROUTINE"),
        "overdue": overdue,
        "why": " || ".join(parts),
    }


def places(clock: Clock) -> str:
    """SELECT text: the Study Instance UID of every open study with its ``rank``."""
    return f"SELECT {_rank('s', clock)}, s.study_instance_uid FROM studies AS s WHERE s.status <> 'read'"


def reading_worklist(clock: Clock) -> str:
    """SELECT text of the ``reading_worklist`` view: one row an unread study or one being read."""
    own = computed("s", clock)
    columns = [_rank("s", clock), *(f"{own[name]} AS {name}" if name in own else f"s.{name}" for name in _COLUMNS)]
    return "SELECT\n    " + ",\n    ".join(columns) + "\nFROM studies AS s\nWHERE s.status <> 'read'"


def next_places(clock: Clock, *, after: bool) -> str:
    """SELECT text: the first ``:most`` of `places`, or those ``after`` the study ``:uid``, by their order alone.

    A place is counted from there, so it costs no more for the thousands that are not shown.
    """
    order = ", ".join(terms("s", clock))
    beyond, before = "", ""
    if after:
        beyond = f"AND ({order}) > ({_own(clock)})"
        before = f"({count_up_to(clock, if_open=False)}) + "
    keys = "study_instance_uid, clinical_priority, flagged, overdue_at, waiting_since"
    first = f"SELECT {keys} FROM studies AS s WHERE s.status <> 'read' {beyond} ORDER BY {order} LIMIT :most"
    return f"SELECT {_rank('few', clock, before)}, few.study_instance_uid FROM ({first}) AS few"


def place(clock: Clock) -> str:
    """SELECT text: of `places` that of the study ``:uid``, if it is open."""
    which = "s.study_instance_uid = :uid AND s.status <> 'read'"
    rank = f"({count_up_to(clock, if_open=True)}) AS rank"
    return f"SELECT {rank}, s.study_instance_uid FROM studies AS s WHERE {which}"


def _rank(rows: str, clock: Clock, before: str = "") -> str:
    return f"{before}row_number() OVER (ORDER BY {', '.join(terms(rows, clock))}) AS rank"


def _own(clock: Clock, *, in_time: bool = False) -> str:
    own = ", ".join(terms("own", clock, in_time=in_time))
    return f"SELECT {own} FROM studies AS own WHERE own.study_instance_uid = :uid"


def count_up_to(clock: Clock, *, if_open: bool, in_time: bool = False) -> str:
    """SELECT text: how many open studies stand before the study ``:uid``, itself included if it is open.

    Grows with the open studies, not with those read. ``if_open``: 0 for a study that was read. ``in_time``: where it
    would stand if it were not overdue.
    """
    own = _own(clock, in_time=in_time) + (" AND own.status <> 'read'" if if_open else "")
    return f"SELECT count(*) FROM studies AS s WHERE s.status <> 'read' AND ({', '.join(terms('s', clock))}) <= ({own})"
