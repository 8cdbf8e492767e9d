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


def terms(rows: str, clock: Clock) -> tuple[str, str, str, str]:
    """The order of the worklist, as expressions on ``rows`` of studies: the smallest is read first."""
    top = f"CASE WHEN {rows}.flagged OR {rows}.overdue_at <= {clock.now} THEN 0 ELSE 1 END"
    return f"{rows}.clinical_priority", top, f"{rows}.waiting_since", f"{rows}.study_instance_uid"


def arrival(clock: Clock) -> str:
    """SQL of the time since when a study waits that comes now: later than every open study that came before.

    Else one that comes after the clock was put back would stand before those that have waited.
    """
    since = clock.now
    for urgency in (0, 1, 2):
        since = clock.later.format(now=since, last=_LAST.format(urgency=urgency))
    return since


_READING_WORKLIST = """
SELECT
    row_number() OVER (
        ORDER BY {order}
    ) AS rank,
    s.study_instance_uid,
    s.accession_number,
    s.patient_id,
    s.patient_name,
    s.patient_birth_date,
    s.patient_sex,
    s.age_years,
    s.modality,
    s.study_date,
    s.study_description,
    s.received_at,
    s.waiting_since,
    {waiting_seconds} AS waiting_seconds,
    CASE s.clinical_priority WHEN 0 THEN 'STAT' WHEN 1 THEN 'URGENT' ELSE 'ROUTINE' END AS clinical_priority,
    s.status,
    s.reader,
    s.analysis,
    s.reason,
    s.flagged,
    s.overdue_at <= {now} AS overdue,
    s.tier,
    s.etiology,
    s.p_pneumonia,
    s.identity_conflict,
    CASE s.clinical_priority WHEN 0 THEN 'STAT' WHEN 1 THEN 'Urgent' ELSE 'Routine' END
        || ' order; ' || s.words
        || CASE WHEN s.overdue_at <= {now}
                THEN '; waited over the limit of ' || s.waiting_limit_minutes || ' min' ELSE '' END
        || CASE WHEN s.identity_conflict THEN '; identifiers missing or contradictory' ELSE '' END
        || CASE WHEN s.changed_while_reading THEN '; new images since the reading started' ELSE '' END
        || '; then by arrival' AS why
FROM studies AS s
WHERE s.status <> 'read'
"""


def reading_worklist(clock: Clock) -> str:
    """SELECT text of the ``reading_worklist`` view: one row an unread study or one being read."""
    waiting = clock.seconds_since.format(column="s.waiting_since")
    order = ",\n                 ".join(terms("s", clock))
    return _READING_WORKLIST.format(now=clock.now, order=order, waiting_seconds=waiting).strip()


def count_up_to(clock: Clock, *, if_open: bool) -> str:
    """SELECT text: how many open studies stand before the study ``:uid``, itself included if it is open.

    Grows with the open studies, not with those read. ``if_open``: 0 for a study that was read.
    """
    own = f"SELECT {', '.join(terms('own', clock))} FROM studies AS own WHERE own.study_instance_uid = :uid"
    own += " AND own.status <> 'read'" if if_open else ""
    return f"SELECT count(*) FROM studies AS s WHERE s.status <> 'read' AND ({', '.join(terms('s', clock))}) <= ({own})"
