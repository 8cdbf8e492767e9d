"""What is held, found by queries: matching as the standard has it, bounded, and never by going through a table."""

from __future__ import annotations

import re
from typing import Any

import pytest
from plans import plans
from sqlalchemy import Engine, text

from making import POLICY, received
from tests.benchmarks.rows import fill
from triage.query import Level, Query, QueryError, conditions_of
from triage.records import archive as rooms
from triage.records.archive import Archive, Page
from triage.records.intake import Intake
from triage.records.store import Store

HELD = 30_000
SCAN = {
    "sqlite": re.compile(r"^SCAN (?!looked_at|\()(?!.*USING)", re.MULTILINE),
    "postgresql": re.compile(r"Seq Scan on (studies|instances)"),
}


@pytest.fixture
def store(engine: Engine) -> Store:
    return Store(engine)


@pytest.fixture
def held(store: Store) -> Archive:
    """Five studies: dates, names in three scripts, two modalities, a junk accession number."""
    intake = Intake(store, POLICY)
    intake.receive(received(1, patient_name="Doe^Jane", study_date="20260101", patient_id="P1", accession_number="A1"))
    intake.receive(received(2, patient_name="DOE^John^^^", study_date="20260102", accession_number="A_2"))
    intake.receive(received(3, patient_name="Yamada^Tarou=山田^太郎=やまだ^たろう", study_date="20260103"))
    intake.receive(received(4, patient_name="100%[a]\\x", study_date="20260104", accession_number="A%2"))
    intake.receive(received(5, patient_name="", study_date="", modality="DX", patient_id=""))
    same = {"patient_name": "Doe^Jane", "patient_id": "P1", "accession_number": "A1", "study_date": "20260101"}
    intake.receive(received(6, study=1, modality="SR", series_instance_uid="1.9", **same))
    return Archive(store)


def found(held: Archive, level: Level = Level.STUDY, limit: int = 100, offset: int = 0, **keys: str) -> Page:
    conditions, _ = conditions_of({name: [value] for name, value in keys.items()}, level)
    return held.find(Query(level=level, conditions=conditions, limit=limit, offset=offset))


def studies(held: Archive, **keys: Any) -> list[int]:
    """The numbers of the studies found, in their order."""
    return [int(each["StudyInstanceUID"].rpartition(".")[2]) for each in found(held, **keys).found]


# -- matching ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, [4, 3, 2, 1, 5]),
        ({"PatientName": ""}, [4, 3, 2, 1, 5]),
        ({"PatientName": "**"}, [4, 3, 2, 1, 5]),
        ({"StudyInstanceUID": "1.2.1\\1.2.3"}, [3, 1]),
        ({"StudyInstanceUID": "1.2.1,1.2.99"}, [1]),
        ({"PatientID": "P1"}, [1]),
        ({"PatientID": "p1"}, []),
        ({"PatientID": "P?"}, [4, 3, 2, 1]),
        ({"PatientID": "p?"}, []),
        ({"AccessionNumber": "A_2"}, [2]),
        ({"AccessionNumber": "A_*"}, [2]),
        ({"AccessionNumber": "A%*"}, [4]),
        ({"PatientName": "doe^jane"}, [1]),
        ({"PatientName": "doe^john"}, [2]),
        ({"PatientName": "DOE*"}, [2, 1]),
        ({"PatientName": "*oe*"}, [2, 1]),
        ({"PatientName": "doe^j?n*"}, [1]),
        ({"PatientName": "山田*"}, [3]),
        ({"PatientName": "やまだ^たろう"}, [3]),
        ({"PatientName": "yamada*"}, [3]),
        ({"PatientName": "100%*"}, [4]),
        ({"PatientName": "1__%*"}, []),
        ({"PatientName": "*[a]\\x"}, [4]),
        ({"StudyDate": "20260102"}, [2]),
        ({"StudyDate": "20260102-20260103"}, [3, 2]),
        ({"StudyDate": "20260103-"}, [4, 3]),
        ({"StudyDate": "-20260101"}, [1]),
        ({"ModalitiesInStudy": "SR"}, [1]),
        ({"ModalitiesInStudy": "dx\\SR"}, [1, 5]),
        ({"ModalitiesInStudy": "C*"}, [4, 3, 2, 1]),
        ({"PatientName": "doe*", "StudyDate": "20260101-20260101"}, [1]),
    ],
)  # fmt: skip
def test_studies_are_matched_as_the_standard_has_it(held: Archive, keys: dict[str, str], expected: list[int]) -> None:
    assert studies(held, **keys) == expected


def test_what_is_not_held_is_not_matched_and_said_to_be() -> None:
    conditions, unmatched = conditions_of({"PatientWeight": ["70"], "PatientID": ["P1"]}, Level.STUDY)
    assert ([each.keyword for each in conditions], unmatched) == (["PatientID"], {"PatientWeight"})


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyInstanceUID", "1.2.x"),
        ("StudyInstanceUID", "\\".join(f"1.{n}" for n in range(501))),
        ("StudyDate", "yesterday"),
        ("StudyDate", "20260101-20260102-20260103"),
        ("PatientName", "*a" * 9),
        ("PatientName", "a" * 257),
        ("PatientID", "a\nb"),
        ("ModalitiesInStudy", "\\".join(f"M{n}" for n in range(9))),
    ],
)
def test_what_cannot_be_meant_is_refused_without_repeating_it(keyword: str, value: str) -> None:
    with pytest.raises(QueryError) as refusal:
        conditions_of({keyword: [value]}, Level.STUDY)
    assert value not in str(refusal.value)


def test_studies_tell_what_is_below_them(held: Archive) -> None:
    (study,) = found(held, StudyInstanceUID="1.2.1").found
    told = {name: study[name] for name in study if name.startswith(("Number", "Mod", "Inst"))}
    assert told == {
        "ModalitiesInStudy": ["CR", "SR"],
        "NumberOfStudyRelatedSeries": 2,
        "NumberOfStudyRelatedInstances": 2,
        "InstanceAvailability": "ONLINE",
    }


def test_series_and_images_are_found_below_their_study(held: Archive) -> None:
    series = found(held, Level.SERIES, StudyInstanceUID="1.2.1").found
    assert [(each["SeriesInstanceUID"], each["Modality"]) for each in series] == [("", "CR"), ("1.9", "SR")]
    images = found(held, Level.IMAGE, StudyInstanceUID="1.2.1", SeriesInstanceUID="1.9").found
    assert [each["SOPInstanceUID"] for each in images] == ["1.2.3.6"]
    assert [each["SOPInstanceUID"] for each in found(held, Level.IMAGE, SOPInstanceUID="1.2.3.6").found] == ["1.2.3.6"]
    assert found(held, Level.SERIES, StudyInstanceUID="1.2.1", Modality="MR").found == []
    across = found(held, Level.SERIES, PatientID="P1").found
    assert [each["StudyInstanceUID"] for each in across] == ["1.2.1", "1.2.1"]


def test_pages_hold_each_study_once(held: Archive) -> None:
    pages = [studies(held, limit=2, offset=offset) for offset in (0, 2, 4, 6)]
    assert pages == [[4, 3], [2, 1], [5], []]
    assert [found(held, limit=2, offset=offset).more for offset in (0, 2, 4)] == [True, True, False]


def test_an_uid_that_came_twice_is_one_instance(store: Store, held: Archive) -> None:
    Intake(store, POLICY).receive(received(1, content="other", patient_id="P1", accession_number="A1"))
    (study,) = found(held, StudyInstanceUID="1.2.1").found
    assert study["NumberOfStudyRelatedInstances"] == 2
    assert len(held.files("1.2.1")) == 2


# -- bounds --------------------------------------------------------------------------------------------------------


def test_wild_cards_are_looked_for_among_the_newest_alone_and_the_answer_says_so(
    held: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "STUDIES_LOOKED_AT_MAX", 3)
    assert studies(held, PatientName="doe*") == [2]
    assert found(held, PatientName="doe*").older
    assert studies(held, PatientName="doe*", StudyDate="20260101-20260102") == [2, 1]
    assert not found(held, PatientName="doe*", StudyDate="20260101-20260102").older


@pytest.fixture
def full(engine: Engine) -> Archive:
    with engine.begin() as connection:
        fill(connection, 1, HELD, read=True)
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE"))
    return Archive(Store(engine))


QUERIES: list[tuple[Level, dict[str, str]]] = [
    (Level.STUDY, {}),
    (Level.STUDY, {"StudyInstanceUID": "1.2.826.0.1.3680043.10.1.7\\1.2.826.0.1.3680043.10.1.8"}),
    (Level.STUDY, {"PatientID": "P70"}),
    (Level.STUDY, {"AccessionNumber": "A70"}),
    (Level.STUDY, {"StudyDate": "20260101-20260110"}),
    (Level.STUDY, {"PatientName": "*patient 77*"}),
    (Level.STUDY, {"ModalitiesInStudy": "SR"}),
    (Level.SERIES, {"StudyInstanceUID": "1.2.826.0.1.3680043.10.1.7"}),
    (Level.SERIES, {"PatientID": "P70"}),
    (Level.SERIES, {}),
    (Level.IMAGE, {"StudyInstanceUID": "1.2.826.0.1.3680043.10.1.7", "Modality": "CR"}),
    (Level.IMAGE, {"SOPInstanceUID": "1.2.826.0.1.3680043.10.3.7"}),
]


def test_no_query_goes_through_a_table(engine: Engine, full: Archive) -> None:
    for level, keys in QUERIES:
        for plan in plans(engine, lambda level=level, keys=keys: found(full, level, **keys)):
            assert not SCAN[engine.dialect.name].search(plan), f"{level!r} {keys}\n{plan}"
    for plan in plans(engine, lambda: full.files("1.2.826.0.1.3680043.10.1.7")):
        assert not SCAN[engine.dialect.name].search(plan), plan
    for plan in plans(engine, lambda: full.described(["1.2.826.0.1.3680043.10.1.7"])):
        assert not SCAN[engine.dialect.name].search(plan), plan


@pytest.mark.fault(133)
def test_the_worst_pattern_that_is_let_in_is_answered_and_the_bound_holds(full: Archive) -> None:
    page = found(full, PatientName="*a" * 8 + "?" * 200)
    assert page.found == []
    assert page.older  # 30,000 are held, 20,000 were looked at
