"""Pages of the worklist: filters, orders, and going on where the last page ended."""

from __future__ import annotations

import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, event, text, update

from making import POLICY, received
from triage.errors import CursorError
from triage.records.intake import Intake
from triage.records.listing import Asked, Listing, Sort, View, counting
from triage.records.reading import Reading
from triage.records.store import Store
from triage.records.tables import studies
from triage.study import ClinicalPriority

PRIORITIES = [ClinicalPriority.ROUTINE, ClinicalPriority.STAT, ClinicalPriority.URGENT]


@pytest.fixture
def reading(engine: Engine) -> Reading:
    """Seven studies of some kinds."""
    intake = Intake(Store(engine), POLICY)
    for number in range(1, 8):
        intake.receive(
            received(
                number,
                age_years=None if number == 4 else float(number),
                modality="DX" if number % 2 else "CR",
                patient_name=f"{'Zoe' if number == 1 else 'adam'}^No{number}",
                clinical_priority=PRIORITIES[number % 3],
            )
        )
    return Reading(Store(engine))


def uids(listing: Listing, **asked: object) -> list[str]:
    return [entry.study_instance_uid for entry in listing.page(Asked(**asked)).entries]  # type: ignore[arg-type]


def walked(listing: Listing, limit: int, **asked: object) -> list[str]:
    """All pages, one after the other."""
    shown: list[str] = []
    cursor: str | None = None
    while True:
        page = listing.page(Asked(limit=limit, cursor=cursor, **asked))  # type: ignore[arg-type]
        shown += [entry.study_instance_uid for entry in page.entries]
        cursor = page.cursor
        if cursor is None:
            return shown
        assert len(page.entries) <= limit


@pytest.mark.fault(132)
@pytest.mark.parametrize("sort", Sort)
@pytest.mark.parametrize("limit", [1, 3, 7])
def test_pages_together_are_the_whole_list_in_every_order(reading: Reading, sort: Sort, limit: int) -> None:
    everything = uids(reading.listing, sort=sort)
    assert len(set(everything)) == 7
    assert walked(reading.listing, limit, sort=sort) == everything


def test_each_order_is_what_it_is_called(reading: Reading) -> None:
    listing = reading.listing
    assert uids(listing) == [entry.study_instance_uid for entry in reading.worklist()]
    by_age = ["1.2.1", "1.2.2", "1.2.3", "1.2.5", "1.2.6", "1.2.7", "1.2.4"]
    assert uids(listing, sort=Sort.AGE) == by_age  # unknown comes last, either way
    assert uids(listing, sort=Sort.OLDEST) == [*by_age[-2::-1], "1.2.4"]
    assert uids(listing, sort=Sort.LATEST) == uids(listing, sort=Sort.RECEIVED_AT)[::-1]
    assert uids(listing, sort=Sort.PATIENT_NAME)[-1] == "1.2.1"


def test_filters_leave_out_and_change_no_place(reading: Reading) -> None:
    reading.start_reading("1.2.2", "ann")
    ranks = {entry.study_instance_uid: entry.rank for entry in reading.worklist()}
    shown = reading.listing.page(Asked(modality="cr")).entries
    assert {entry.study_instance_uid for entry in shown} == {"1.2.2", "1.2.4", "1.2.6"}
    assert all(entry.rank == ranks[entry.study_instance_uid] for entry in shown)
    assert uids(reading.listing, status="reading") == uids(reading.listing, view=View.READING) == ["1.2.2"]
    assert len(uids(reading.listing, view=View.UNREAD)) == 6
    assert uids(reading.listing, view=View.NOT_ANALYSED) == uids(reading.listing, analysis="analysed") == []


@pytest.mark.parametrize(
    ("words", "found"), [("ZOE", {1}), ("no3 adam", {3}), ("p5", {5}), ("A6", {6}), ("no", set("1234567"))]
)
def test_words_are_looked_for_in_name_and_numbers_of_the_patient(
    reading: Reading, words: str, found: set[object]
) -> None:
    assert set(uids(reading.listing, text=words)) == {f"1.2.{number}" for number in found}


@pytest.mark.fault(39, 126)
@pytest.mark.parametrize("words", ["%", "_", "\\", "'", '"', "zoe%"])
def test_signs_of_the_query_language_are_only_characters(reading: Reading, words: str) -> None:
    assert uids(reading.listing, text=words) == []


def test_a_page_goes_on_although_its_last_study_was_read_meanwhile(reading: Reading) -> None:
    everything = uids(reading.listing)
    first = reading.listing.page(Asked(limit=3))
    reading.close(everything[2])
    rest = reading.listing.page(Asked(limit=10, cursor=first.cursor))
    assert [entry.study_instance_uid for entry in rest.entries] == everything[3:]


@pytest.mark.fault(132)
def test_a_study_that_has_moved_is_no_place_to_go_on_from(reading: Reading) -> None:
    first = reading.listing.page(Asked(limit=3))
    reading.prioritise(first.entries[-1].study_instance_uid, ClinicalPriority.ROUTINE, "ann", "test")
    with pytest.raises(CursorError):
        reading.listing.page(Asked(limit=3, cursor=first.cursor))


def test_a_cursor_answers_only_the_question_that_it_was_given_for(reading: Reading) -> None:
    cursor = reading.listing.page(Asked(limit=2)).cursor
    for other in (Asked(sort=Sort.AGE), Asked(view=View.UNREAD), Asked(modality="CR"), Asked(text="adam")):
        with pytest.raises(CursorError):
            reading.listing.page(Asked(**{**other.__dict__, "cursor": cursor}))


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "====",
        "ü",
        "A" * 400,
        *(urlsafe_b64encode(c).decode() for c in (b"1.2.1 0", b"1.2.9 1", b"\xff \xff", b"a b c")),
    ],
)
def test_a_cursor_that_was_made_up_is_refused(reading: Reading, cursor: str) -> None:
    with pytest.raises(CursorError):
        reading.listing.page(Asked(cursor=cursor))


def test_a_cursor_holds_no_word_of_a_patient(reading: Reading) -> None:
    cursor = reading.listing.page(Asked(limit=1, sort=Sort.PATIENT_NAME)).cursor or ""
    assert re.fullmatch(rb"[0-9.]+ [0-9a-f]+", urlsafe_b64decode(cursor + "=="))


def test_studies_that_were_read_come_the_last_first_and_in_pages(reading: Reading) -> None:
    order = ["1.2.5", "1.2.1", "1.2.7", "1.2.2"]
    for uid in order:
        time.sleep(0.005)  # SQLite tells the time to the millisecond
        reading.close(uid, "ann")
    assert uids(reading.listing, view=View.READ) == order[::-1]
    assert walked(reading.listing, 1, view=View.READ) == order[::-1]
    assert walked(reading.listing, 1, view=View.READ, modality="DX") == ["1.2.7", "1.2.1", "1.2.5"]
    (entry, *_) = reading.listing.page(Asked(view=View.READ)).entries
    assert (entry.rank, entry.status, entry.reader, entry.clinical_priority) == (0, "read", "ann", "URGENT")


def test_few_of_many_that_were_read_are_found_a_stretch_at_a_time(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("triage.records.listing._LOOKED_THROUGH", 2)
    for number in (3, 1, 2, 4, 6, 5, 7):
        reading.close(f"1.2.{number}")
    page = reading.listing.page(Asked(view=View.READ, text="no3", limit=5))
    assert (list(page.entries), bool(page.cursor)) == ([], True)
    assert walked(reading.listing, 5, view=View.READ, text="no3") == ["1.2.3"]


def test_the_page_of_read_studies_needs_no_look_at_all_of_them(engine: Engine, reading: Reading) -> None:
    reading.close("1.2.1")
    plan = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
    query = "SELECT * FROM studies WHERE status = 'read' ORDER BY status_at DESC, study_instance_uid DESC LIMIT 9"
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL enable_seqscan = off"))
            connection.execute(text("SET LOCAL enable_sort = off"))
        told = str(connection.execute(text(f"{plan} {query}")).all())
    assert "ix_studies_read" in told
    assert "TEMP B-TREE" not in told
    assert "Sort" not in told


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        (Asked(limit=2), 6),
        (Asked(limit=2, modality="cr"), 2),
        (Asked(limit=2, view=View.READING), 1),
        (Asked(limit=2, view=View.UNREAD, text="adam"), 4),
        (Asked(limit=2, view=View.NOT_ANALYSED), 0),
        (Asked(limit=2, sort=Sort.AGE, status="reading"), 1),
    ],
)
def test_a_page_says_how_many_match_without_a_look_at_those_that_were_read(
    engine: Engine, reading: Reading, asked: Asked, count: int
) -> None:
    reading.close("1.2.4")
    reading.start_reading("1.2.3", "ann")
    assert reading.listing.page(asked).total == count
    compiled = counting(asked).compile(engine, compile_kwargs={"literal_binds": True})
    plan = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL enable_seqscan = off"))
        told = str(connection.exec_driver_sql(f"{plan} {compiled}").all())
    assert "ix_studies_open" in told


def test_totals_are_of_all_open_studies(reading: Reading) -> None:
    reading.close("1.2.1")
    totals = reading.listing.totals()
    assert (totals.open, totals.pending, totals.flagged, totals.not_analysed) == (6, 6, 0, 0)
    assert list(totals.modalities) == ["CR", "DX"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("MÜLLER^Änne", ["MÜLLER", "müller", "Änne", "ÄNNE", "änne mülle"]),
        ("Straße^Fritz", ["straße", "STRAßE"]),
        ("Толстой^ЛЕВ", ["толстой", "ТОЛСТОЙ", "лев толст"]),
        ("ΠΑΠΑΔΑΚΗ^Ελένη", ["παπαδ", "ΕΛΈΝΗ"]),
        ("100%_Wahr\\^Ä", ["%_wahr", "wahr\\", "ä"]),
    ],
)
def test_a_name_is_found_whatever_its_letters_and_their_case(engine: Engine, name: str, words: list[str]) -> None:
    intake = Intake(Store(engine), POLICY)
    intake.receive(received(30, patient_name="Miller^Anne"))
    intake.receive(received(31, patient_name=name))
    for each in words:
        assert uids(Reading(Store(engine)).listing, text=each) == ["1.2.31"], each


def test_names_of_all_scripts_are_sorted_without_regard_to_capitals(engine: Engine) -> None:
    for number, name in enumerate(("ärger^B", "Ärger^A", "ЯКОВ", "яков^Б", "ÄRGER^C"), start=1):
        Intake(Store(engine), POLICY).receive(received(number, patient_name=name))
    listing = Reading(Store(engine)).listing
    latin = [uid for uid in uids(listing, sort=Sort.PATIENT_NAME) if uid not in {"1.2.3", "1.2.4"}]
    assert latin == ["1.2.2", "1.2.1", "1.2.5"]
    cyrillic = [uid for uid in uids(listing, sort=Sort.PATIENT_NAME) if uid in {"1.2.3", "1.2.4"}]
    assert cyrillic == ["1.2.3", "1.2.4"]
    assert walked(listing, 1, sort=Sort.PATIENT_NAME) == uids(listing, sort=Sort.PATIENT_NAME)


@pytest.mark.parametrize(
    ("asked", "folds"), [(Asked(limit=3), False), (Asked(text="x"), True), (Asked(sort=Sort.PATIENT_NAME), True)]
)
def test_names_are_folded_only_where_that_is_asked_for(
    engine: Engine,
    reading: Reading,
    asked: Asked,
    folds: bool,  # noqa: FBT001 - one thing, said of it
) -> None:
    given: list[str] = []

    def note(_: object, __: object, statement: str, *___: object) -> None:
        given.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    reading.listing.page(asked)
    (page,) = (statement for statement in given if "row_number()" in statement)
    assert any(word in page for word in ("folded(", "lower(", "ILIKE")) is folds


@pytest.mark.parametrize(
    "asked", [Asked(limit=3), Asked(limit=20), Asked(limit=3, text="no"), Asked(), Asked(limit=3, sort=Sort.AGE)]
)
def test_a_page_says_of_each_study_what_the_view_says(engine: Engine, reading: Reading, asked: Asked) -> None:
    with engine.begin() as connection:
        for uid, values in (("1.2.5", {"overdue_at": datetime(2020, 1, 1, tzinfo=UTC)}), ("1.2.7", {"flagged": True})):
            connection.execute(update(studies).where(studies.c.study_instance_uid == uid).values(values))
    reading.close("1.2.4")
    reading.start_reading("1.2.3", "ann")
    with engine.connect() as connection:
        viewed = connection.execute(text("SELECT * FROM reading_worklist ORDER BY rank")).mappings().all()
    pages, cursor = [], None
    while cursor or not pages:
        page = reading.listing.page(replace(asked, cursor=cursor))
        pages, cursor = [*pages, *page.entries], page.cursor
    assert len(pages) == len(viewed) == 6
    places = {entry.study_instance_uid: entry for entry in pages}
    for row in viewed:
        for entry in (places[row["study_instance_uid"]], reading.listing.entry(row["study_instance_uid"])):
            assert entry is not None
            for name in ("rank", "why", "overdue", "clinical_priority", "status", "tier", "patient_name"):
                assert getattr(entry, name) == row[name]
