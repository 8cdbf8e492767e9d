"""What is held, as others ask for it: studies, series and instances that match a query, and the files of one study.

Every statement walks an index, and no further than a bound: how much was ever read makes no difference. Wild cards,
and whatever else no index helps with, are looked for among the newest studies only, and the answer says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Connection, FromClause, RowMapping, Select, and_, case, func, or_, select

from triage.query import UNIQUE, Between, Condition, Level, Like, OneOf, Query
from triage.records.store import Store
from triage.records.tables import instances, studies

# Newest first, by study date; of them that no index finds, so many are looked at.
STUDIES_LOOKED_AT_MAX = 20_000
# Where series or images of studies are asked for that are not named.
STUDIES_ENTERED_MAX = 1_000
FILES_MAX = 10_000

# What is held of one object, by keyword (PS3.6).
Found: TypeAlias = Mapping[str, Any]
_COLUMNS = {
    "StudyInstanceUID": "study_instance_uid",
    "StudyDate": "study_date",
    "AccessionNumber": "accession_number",
    "StudyDescription": "study_description",
    "PatientName": "patient_name",
    "PatientID": "patient_id",
    "PatientBirthDate": "patient_birth_date",
    "PatientSex": "patient_sex",
}
_INDEXED = ("PatientID", "AccessionNumber")
_BELOW_COLUMNS = {
    "SeriesInstanceUID": instances.c.series_instance_uid,
    "SOPInstanceUID": instances.c.sop_instance_uid,
    "SOPClassUID": instances.c.sop_class_uid,
    "Modality": instances.c.modality,
}
_IS_KEPT = instances.c.pixels_deleted_at.is_(None)
_IS_SOUND = ~instances.c.quarantined
# Objects count once, however often one UID came.
_COUNT = func.count(instances.c.sop_instance_uid.distinct())
_ALL_KEPT = func.min(case((_IS_KEPT, 1), else_=0))


@dataclass(frozen=True, kw_only=True)
class Page:
    """``more``: there are matches after these. ``older``: studies that were not looked at, being too old."""

    found: list[Found] = field(repr=False)
    more: bool = False
    older: bool = False


@dataclass(frozen=True, kw_only=True)
class HeldFile:
    """One instance and where its bytes are. ``is_kept`` is false once retention has removed them."""

    series_instance_uid: str = field(repr=False)
    sop_instance_uid: str = field(repr=False)
    transfer_syntax_uid: str
    sha256: str
    size_bytes: int
    is_kept: bool


class Archive:
    """Reads, and never changes anything. What is in quarantine does not exist here."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, query: Query) -> Page:
        """Matches in a stable order: studies newest first, what is below them by series and receipt."""
        with self._store.reading() as connection:
            if query.level is Level.STUDY:
                return self._studies(connection, query)
            uids, older = self._entered(connection, query)
            ask = self._series if query.level is Level.SERIES else self._images
            return _page(ask(connection, query, uids), query.limit, older=older)

    def files(
        self, study_instance_uid: str, series_instance_uid: str = "", sop_instance_uid: str = ""
    ) -> list[HeldFile]:
        """At most FILES_MAX + 1, by series and receipt. Where one UID came with several contents, the first."""
        named = {
            instances.c.study_instance_uid: study_instance_uid,
            instances.c.series_instance_uid: series_instance_uid,
            instances.c.sop_instance_uid: sop_instance_uid,
        }
        where = [column == value for column, value in named.items() if value]
        with self._store.reading() as connection:
            rows = connection.execute(_in_order(where).limit(FILES_MAX + 1)).mappings()
            return [_file(row) for row in rows]

    # -- studies ---------------------------------------------------------------------------------------------------

    def _studies(self, connection: Connection, query: Query) -> Page:
        chosen = self._chosen(query, STUDIES_LOOKED_AT_MAX)
        rows = connection.execute(chosen.limit(query.limit + 1).offset(query.offset)).mappings().all()
        more = len(rows) > query.limit
        held = [_study(row) for row in rows[: query.limit]]
        below = _below(connection, [each["StudyInstanceUID"] for each in held])
        found: list[Found] = [{**each, **below[each["StudyInstanceUID"]]} for each in held]
        return Page(found=found, more=more, older=not more and self._has_older(connection, query))

    def described(self, study_instance_uids: Iterable[str]) -> dict[str, Found]:
        """The attributes of studies that are held, by UID."""
        query = select(studies).where(studies.c.study_instance_uid.in_(list(study_instance_uids)))
        with self._store.reading() as connection:
            held = [_study(row) for row in connection.execute(query).mappings()]
            below = _below(connection, [each["StudyInstanceUID"] for each in held])
        return {each["StudyInstanceUID"]: {**each, **below[each["StudyInstanceUID"]]} for each in held}

    def _chosen(self, query: Query, most: int) -> Select[Any]:
        """What an index finds, newest first; from the first ``most`` of that, what matches in everything else."""
        found, rest = _split(query)
        newest = select(studies).where(*(_indexed(each) for each in found)).order_by(*_newest(studies))
        looked_at = newest.limit(most).subquery("looked_at")
        where = [self._matches(each, looked_at) for each in rest]
        return select(looked_at).where(*where).order_by(*_newest(looked_at))

    def _has_older(self, connection: Connection, query: Query) -> bool:
        found, rest = _split(query)
        if not rest:
            return False
        beyond = select(studies.c.study_instance_uid).where(*(_indexed(each) for each in found))
        beyond = beyond.order_by(*_newest(studies)).offset(STUDIES_LOOKED_AT_MAX).limit(1)
        return connection.execute(beyond).first() is not None

    def _matches(self, condition: Condition, looked_at: FromClause) -> ColumnElement[bool]:
        if not isinstance(condition, Like):
            return _compared(looked_at.c[_COLUMNS[condition.keyword]], condition)
        if condition.keyword != "ModalitiesInStudy":
            return self._like(looked_at.c[_COLUMNS[condition.keyword]], condition)
        # Asked for each study: as a join it could be made by going through all instances.
        inside = select(instances.c.instance_id).where(
            instances.c.study_instance_uid == looked_at.c.study_instance_uid,
            _IS_SOUND,
            self._like(instances.c.modality, condition),
        )
        return or_(self._like(looked_at.c.modality, condition), inside.limit(1).scalar_subquery().is_not(None))

    def _like(self, column: ColumnElement[str], condition: Like) -> ColumnElement[bool]:
        """Case matters but for names (PS3.4 C.2.2.2.4), of which each component group is compared as well."""
        if condition.is_name:
            return or_(*(_like_name(column, _to_like(pattern)) for pattern in condition.patterns))
        if self._store.backend == "sqlite":  # whose LIKE knows no case
            return or_(*(column.op("GLOB")(pattern.replace("[", "[[]")) for pattern in condition.patterns))
        return or_(*(column.like(_to_like(pattern), escape="\\") for pattern in condition.patterns))

    # -- below them ------------------------------------------------------------------------------------------------

    def _entered(self, connection: Connection, query: Query) -> tuple[list[str] | None, bool]:
        """The studies in which to look, None where other keys say enough; and whether older ones were left out."""
        asked = query.of(Level.STUDY)
        if len(asked) == 1 and isinstance(asked[0], OneOf):
            return list(asked[0].values), False
        by_image = any(each.keyword == UNIQUE[Level.IMAGE] for each in query.conditions)
        if not asked and by_image:
            return None, False
        chosen = self._chosen(query, STUDIES_LOOKED_AT_MAX if asked else STUDIES_ENTERED_MAX)
        uids = list(connection.execute(chosen.limit(STUDIES_ENTERED_MAX + 1)).scalars())
        return uids[:STUDIES_ENTERED_MAX], len(uids) > STUDIES_ENTERED_MAX or not asked

    def _series(self, connection: Connection, query: Query, uids: list[str] | None) -> list[Found]:
        key = (instances.c.study_instance_uid, instances.c.series_instance_uid)
        asked = (
            select(*key, func.max(instances.c.modality), _COUNT, _ALL_KEPT)
            .where(_IS_SOUND, *self._inside(query, uids))
            .group_by(*key)
            .order_by(*key)
        )
        rows = connection.execute(asked.limit(query.limit + 1).offset(query.offset))
        return [
            {
                "StudyInstanceUID": study,
                "SeriesInstanceUID": series,
                "Modality": modality,
                "NumberOfSeriesRelatedInstances": count,
                "InstanceAvailability": _availability(bool(kept)),
            }
            for study, series, modality, count, kept in rows
        ]

    def _images(self, connection: Connection, query: Query, uids: list[str] | None) -> list[Found]:
        asked = _in_order(self._inside(query, uids)).limit(query.limit + 1).offset(query.offset)
        return [_image(row) for row in connection.execute(asked).mappings()]

    def _inside(self, query: Query, uids: list[str] | None) -> list[ColumnElement[bool]]:
        where: list[ColumnElement[bool]] = [] if uids is None else [instances.c.study_instance_uid.in_(uids)]
        for condition in query.of(Level.SERIES, Level.IMAGE):
            column = _BELOW_COLUMNS[condition.keyword]
            if isinstance(condition, Like):
                where.append(self._like(column, condition))
            else:
                where.append(_compared(column, condition))
        return where


def _split(query: Query) -> tuple[list[Condition], list[Condition]]:
    """Conditions on studies that an index finds, and the others."""
    asked = query.of(Level.STUDY)
    found = [each for each in asked if _is_indexed(each)]
    return found, [each for each in asked if each not in found]


def _is_indexed(condition: Condition) -> bool:
    if isinstance(condition, Like):
        return condition.keyword in _INDEXED and condition.is_exact
    return condition.keyword in ("StudyInstanceUID", "StudyDate")


def _indexed(condition: Condition) -> ColumnElement[bool]:
    column = studies.c[_COLUMNS[condition.keyword]]
    return column == condition.patterns[0] if isinstance(condition, Like) else _compared(column, condition)


def _compared(column: ColumnElement[str], condition: OneOf | Between) -> ColumnElement[bool]:
    if isinstance(condition, OneOf):
        return column.in_(condition.values)
    return and_(column >= condition.first, column <= condition.last)


def _newest(of: FromClause) -> tuple[ColumnElement[Any], ...]:
    return of.c.study_date.desc(), of.c.study_instance_uid.desc()


def _to_like(pattern: str) -> str:
    for special in ("\\", "%", "_"):
        pattern = pattern.replace(special, "\\" + special)
    return pattern.replace("*", "%").replace("?", "_")


def _like_name(column: ColumnElement[str], pattern: str) -> ColumnElement[bool]:
    """The whole name, or one of its groups: alphabetic=ideographic=phonetic. Empty components at its end count not."""
    beginnings = [pattern, f"{pattern}=%", f"%={pattern}", f"%={pattern}=%"]
    return or_(*(func.rtrim(column, "^= ").ilike(each, escape="\\") for each in beginnings))


def _in_order(where: Sequence[ColumnElement[bool]]) -> Select[Any]:
    """Sound instances, of each UID in a study the one that came first."""
    again = instances.alias("again")
    first = (
        select(func.min(again.c.instance_id))
        .where(
            again.c.sop_instance_uid == instances.c.sop_instance_uid,
            again.c.study_instance_uid == instances.c.study_instance_uid,
            ~again.c.quarantined,
        )
        .scalar_subquery()
    )
    sound = select(instances).where(_IS_SOUND, *where, instances.c.instance_id == first)
    return sound.order_by(instances.c.study_instance_uid, instances.c.series_instance_uid, instances.c.instance_id)


def _page(found: list[Found], limit: int, *, older: bool) -> Page:
    return Page(found=found[:limit], more=len(found) > limit, older=older)


def _study(row: RowMapping) -> dict[str, Any]:
    return {keyword: row[column] for keyword, column in _COLUMNS.items()}


def _below(connection: Connection, uids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What only the instances of studies tell of them."""
    key = (instances.c.study_instance_uid, instances.c.series_instance_uid, instances.c.modality)
    counted = select(*key, _COUNT, _ALL_KEPT).where(key[0].in_(uids), _IS_SOUND).group_by(*key).order_by(*key)
    rows: dict[str, list[Any]] = {uid: [] for uid in uids}
    for row in connection.execute(counted) if uids else ():
        rows[row[0]].append(row)
    return {uid: _summed(of) for uid, of in rows.items()}


def _summed(rows: list[Any]) -> dict[str, Any]:
    return {
        "ModalitiesInStudy": sorted({modality for _, _, modality, _, _ in rows if modality}),
        "NumberOfStudyRelatedSeries": len({series for _, series, _, _, _ in rows}),
        "NumberOfStudyRelatedInstances": sum(count for _, _, _, count, _ in rows),
        "InstanceAvailability": _availability(bool(rows) and all(kept for _, _, _, _, kept in rows)),
    }


def _image(row: RowMapping) -> dict[str, Any]:
    return {
        "StudyInstanceUID": row["study_instance_uid"],
        "SeriesInstanceUID": row["series_instance_uid"],
        "SOPInstanceUID": row["sop_instance_uid"],
        "SOPClassUID": row["sop_class_uid"],
        "Modality": row["modality"],
        "AvailableTransferSyntaxUID": row["transfer_syntax_uid"],
        "InstanceAvailability": _availability(row["pixels_deleted_at"] is None),
    }


def _availability(is_kept: bool) -> str:  # noqa: FBT001 - one thing, said of it
    """Of several, that of the least available (PS3.3 C.4.23.1.1)."""
    return "ONLINE" if is_kept else "UNAVAILABLE"


def _file(row: RowMapping) -> HeldFile:
    return HeldFile(
        series_instance_uid=row["series_instance_uid"],
        sop_instance_uid=row["sop_instance_uid"],
        transfer_syntax_uid=row["transfer_syntax_uid"],
        sha256=row["sha256"],
        size_bytes=row["size_bytes"],
        is_kept=row["pixels_deleted_at"] is None,
    )
