"""The worklist a page at a time: some of its studies, in one of several orders, from where the last page ended.

A cursor names the last study that was shown and what the page asked for; it holds no word of a patient. Where that
study has moved since, the page after it is not known any more, and that is said (CursorError).
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    RowMapping,
    Select,
    case,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
    tuple_,
)

from triage.errors import CursorError
from triage.records.letters import folded, stands_in
from triage.records.places import entries, every_place, first_places, place_of
from triage.records.store import Store
from triage.records.tables import IS_UNREAD, UtcDateTime, studies
from triage.study import Analysis, ClinicalPriority, WorklistEntry
from triage.worklist import count_up_to, terms


class View(StrEnum):
    """Which studies: all that are open, some of them, or those that were read, the last of them first."""

    OPEN = "open"
    UNREAD = "unread"
    READING = "reading"
    NOT_ANALYSED = "not_analysed"
    READ = "read"


class Sort(StrEnum):
    """Which comes first: the place on the worklist decides, or a column; with "-" its largest."""

    RANK = "rank"
    WAITING = "waiting"
    RECEIVED_AT = "received_at"
    LATEST = "-received_at"
    AGE = "age"
    OLDEST = "-age"
    PATIENT_NAME = "patient_name"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a page shows. ``text``: words that stand in patient's name, patient ID or accession number, all of them."""

    view: View = View.OPEN
    sort: Sort = Sort.RANK
    modality: str | None = None
    status: str | None = None
    tier: str | None = None
    analysis: str | None = None
    text: str | None = None
    limit: int | None = None
    cursor: str | None = None

    @property
    def is_narrowed(self) -> bool:
        """Whether some studies of the view are left out."""
        return any((self.modality, self.status, self.tier, self.analysis, self.text))


@dataclass(frozen=True, kw_only=True)
class Page:
    """``cursor`` of the next page, None on the last. ``total``: on all pages; None where it would have to be counted
    among all that were ever read.
    """

    entries: Sequence[WorklistEntry]
    cursor: str | None
    total: int | None = None


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Of the open studies."""

    open: int
    flagged: int
    pending: int
    not_analysed: int
    modalities: Sequence[str]


_COLUMNS = [field.name for field in fields(WorklistEntry)]
_IS_READ = studies.c.status == literal_column("'read'")
_WORDS_MAX = 8
_READ_PAGE = 200
# So many studies that were read are looked through for one page; the next page goes on from there.
_LOOKED_THROUGH = 2000
_NO_AGE_YEARS = 1000.0


class Listing:
    """Every method is one transaction. None grows with the number of studies that were read."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def page(self, asked: Asked) -> Page:
        """Raise CursorError for a cursor that is none, belongs to another question, or whose study has moved."""
        with self._store.reading() as connection:
            after = self._found(connection, asked) if asked.cursor else None
            if asked.view is View.READ:
                return self._read_page(connection, asked, after)
            rows = list(connection.execute(self._open(asked, after)).mappings())
            shown = rows[: asked.limit]
            more = len(rows) > len(shown)
            cursor = self._cursor(connection, asked, rows[len(shown) - 1]["study_instance_uid"]) if more else None
            is_all = not more and after is None
            total = len(shown) if is_all else int(connection.execute(counting(asked)).scalar_one())
        return Page(entries=[WorklistEntry(**row) for row in shown], cursor=cursor, total=total)

    def entry(self, study_instance_uid: str) -> WorklistEntry | None:
        """An open study with its place; None if it was read or is not held."""
        query = entries(self._store.clock, place_of(self._store.clock, study_instance_uid))
        with self._store.reading() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else WorklistEntry(**row)

    def totals(self) -> Totals:
        """Of the whole worklist, whatever a page shows of it."""
        query = select(
            func.count(),
            _count(studies.c.flagged),
            _count(studies.c.analysis == Analysis.PENDING),
            _count(studies.c.analysis == Analysis.NOT_ANALYSED),
        ).where(IS_UNREAD)
        kinds = select(studies.c.modality).where(IS_UNREAD & (studies.c.modality != "")).distinct()
        with self._store.reading() as connection:
            everything, flagged, pending, missing = connection.execute(query).one()
            modalities = sorted(connection.execute(kinds).scalars())
        return Totals(open=everything, flagged=flagged, pending=pending, not_analysed=missing, modalities=modalities)

    # -- open studies ----------------------------------------------------------------------------------------------

    def _open(self, asked: Asked, after: RowMapping | None) -> Select[Any]:
        """One row more than is shown: then there is a next page."""
        chosen = self._chosen(asked, after)
        query = entries(self._store.clock, chosen)
        return query.order_by(chosen.c.rank) if asked.sort is Sort.RANK else _in_order(query, asked.sort, None)

    def _chosen(self, asked: Asked, after: RowMapping | None) -> FromClause:
        """Places of what is shown."""
        clock, most = self._store.clock, None if asked.limit is None else asked.limit + 1
        if asked.sort is Sort.RANK and asked.view is View.OPEN and not asked.is_narrowed and most is not None:
            return first_places(clock, most, after["uid"] if after else None)
        placed = every_place(clock)
        query = select(placed).join(studies, studies.c.study_instance_uid == placed.c.study_instance_uid)
        query = query.where(*_narrowed(studies, asked), *_of_view(studies, asked.view)).limit(most)
        if asked.sort is not Sort.RANK:
            return _in_order(query, asked.sort, after).subquery("chosen")
        if after is not None:
            before = f"rank > ({count_up_to(clock, if_open=False)})"
            query = query.where(text(before).bindparams(uid=after["uid"]))
        return query.order_by(placed.c.rank).subquery("chosen")

    # -- studies that were read ------------------------------------------------------------------------------------

    def _read_page(self, connection: Connection, asked: Asked, after: RowMapping | None) -> Page:
        limit = asked.limit or _READ_PAGE
        last_first = studies.c.status_at.desc(), studies.c.study_instance_uid.desc()
        looked = select(studies).where(_IS_READ).order_by(*last_first).limit(_LOOKED_THROUGH)
        if after is not None:
            place = literal(after["status_at"], UtcDateTime), literal(after["uid"])
            looked = looked.where(tuple_(studies.c.status_at, studies.c.study_instance_uid) < tuple_(*place))
        found = looked.subquery("found")
        some = select(found).where(*_narrowed(found, asked)).limit(limit + 1)
        some = some.order_by(found.c.status_at.desc(), found.c.study_instance_uid.desc())
        rows = list(connection.execute(some).mappings())
        last = rows[limit - 1]["study_instance_uid"] if len(rows) > limit else None
        if last is None and asked.is_narrowed:
            ends = looked.with_only_columns(studies.c.study_instance_uid).offset(_LOOKED_THROUGH - 1).limit(1)
            last = connection.execute(ends).scalar_one_or_none()
        cursor = self._cursor(connection, asked, last) if last else None
        return Page(entries=[_read_entry(row) for row in rows[:limit]], cursor=cursor)

    # -- where a page goes on --------------------------------------------------------------------------------------

    def _cursor(self, connection: Connection, asked: Asked, study_instance_uid: str) -> str:
        row = connection.execute(self._standing(study_instance_uid)).mappings().one()
        return urlsafe_b64encode(f"{study_instance_uid} {_mark(asked, row)}".encode()).decode().rstrip("=")

    def _found(self, connection: Connection, asked: Asked) -> RowMapping:
        uid, mark = _opened(asked.cursor or "")
        row = connection.execute(self._standing(uid)).mappings().one_or_none()
        if row is None or _mark(asked, row) != mark:
            raise CursorError("the place to go on from is not known, or has moved: begin with the first page")
        return row

    def _standing(self, study_instance_uid: str) -> Select[Any]:
        """Where a study stands in every order, by what can change and what cannot."""
        _, place_class, _, _ = terms("studies", self._store.clock)
        keys = [key.label(sort.name) for sort, (key, _) in _keys(studies).items()]
        columns = studies.c.clinical_priority, studies.c.waiting_since, studies.c.status_at
        stands = select(studies.c.study_instance_uid.label("uid"), literal_column(place_class).label("class"), *columns)
        return stands.add_columns(*keys).where(studies.c.study_instance_uid == study_instance_uid)


def _count(which: ColumnElement[Any]) -> ColumnElement[int]:
    return func.count(case((which, 1)))


def counting(asked: Asked) -> Select[Any]:
    """How many of the open studies match. Without the view, which would work out the place of each."""
    which = (*_narrowed(studies, asked), *_of_view(studies, asked.view))
    return select(func.count()).select_from(studies).where(IS_UNREAD, *which)


def _of_view(rows: FromClause, view: View) -> list[ColumnElement[bool]]:
    if view in (View.UNREAD, View.READING):
        return [rows.c.status == view.value]
    return [rows.c.analysis == Analysis.NOT_ANALYSED.value] if view is View.NOT_ANALYSED else []


def _narrowed(rows: FromClause, asked: Asked) -> list[ColumnElement[bool]]:
    names = ("status", "tier", "analysis")
    same = [rows.c[name] == getattr(asked, name) for name in names if getattr(asked, name)]
    if asked.modality:
        same.append(func.upper(rows.c.modality) == asked.modality.upper())
    return same + [_stands_in(rows, word) for word in (asked.text or "").split()[:_WORDS_MAX]]


def _stands_in(rows: FromClause, word: str) -> ColumnElement[bool]:
    named = (rows.c.patient_name, rows.c.patient_id, rows.c.accession_number)
    return or_(*(stands_in(each, word) for each in named))


def _keys(rows: FromClause) -> dict[Sort, tuple[ColumnElement[Any], bool]]:
    """(what is compared, whether the largest comes first) of each order but the worklist's own."""
    age = func.coalesce(rows.c.age_years, _NO_AGE_YEARS)
    oldest = func.coalesce(rows.c.age_years, -1.0)
    return {
        Sort.WAITING: (rows.c.waiting_since, False),
        Sort.RECEIVED_AT: (rows.c.received_at, False),
        Sort.LATEST: (rows.c.received_at, True),
        Sort.AGE: (age, False),
        Sort.OLDEST: (oldest, True),
        Sort.PATIENT_NAME: (folded(rows.c.patient_name), False),
    }


def _in_order(query: Select[Any], sort: Sort, after: RowMapping | None) -> Select[Any]:
    key, falls = _keys(studies)[sort]
    uid = studies.c.study_instance_uid
    if after is not None:
        there = tuple_(literal(after[sort.name], key.type), literal(after["uid"]))
        query = query.where(tuple_(key, uid) < there if falls else tuple_(key, uid) > there)
    return query.order_by(key.desc(), uid.desc()) if falls else query.order_by(key, uid)


def _mark(asked: Asked, row: RowMapping) -> str:
    """What was asked, and where the study stands by what can change; as a digest."""
    moves: dict[Sort, tuple[str, ...]] = {
        Sort.RANK: ("clinical_priority", "class", "waiting_since"),
        Sort.WAITING: ("waiting_since",),
    }
    names = ("status_at",) if asked.view is View.READ else moves.get(asked.sort, ())
    standing = [str(row[name]) for name in names]
    question = astuple(replace(asked, cursor=None, limit=None))
    return hashlib.sha256(repr((question, standing)).encode()).hexdigest()[:24]


def _opened(cursor: str) -> tuple[str, str]:
    try:
        uid, mark = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii").split(" ")
    except ValueError:
        raise CursorError("not a cursor: begin with the first page") from None
    return uid, mark


def _read_entry(row: RowMapping) -> WorklistEntry:
    """As an entry of the worklist, with the wait that it had and no place any more."""
    priority = ClinicalPriority(row["clinical_priority"]).name
    values = {name: row[name] for name in _COLUMNS if name in row}
    waited = row["status_at"] - row["waiting_since"]
    said = {
        "rank": 0,
        "waiting_seconds": max(0, int(waited.total_seconds())),
        "clinical_priority": priority,
        "overdue": row["overdue_at"] <= row["status_at"],
        "why": f"{priority if priority == 'STAT' else priority.title()} order; {row['words']}; read",
    }
    return WorklistEntry(**values | said)
