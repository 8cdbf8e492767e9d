"""What the database leaves out of a query for workitems would not have matched: the answer is the same without it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pydicom import Dataset
from sqlalchemy import Engine, event, update

from daemon.dicom.finding import Finding
from making import POLICY, received
from triage.records.intake import Intake
from triage.records.reading import Reading
from triage.records.store import Store
from triage.records.tables import studies
from triage.records.workitems import Workitems
from triage.study import ClinicalPriority, workitem_uid

NAMES = (
    *("Invented^Patient", "invented^patient^^", "STRASSE^A", "Straße^a", "Müller^Änne", "MÜLLER^änne", "100%^Doe"),
    *(
        "1000^Doe",
        "under_score",
        "underXscore",
        "back\\slash",
        "K\u212a^Kelvin",
        "Yamada^Tarou=山田^太郎",
        "",
        "*",
        "Doe?",
    ),
)
CAME = datetime(2026, 1, 5, 10, 30, 15, 250_000, UTC)
PLAIN: dict[str, tuple[str, ...]] = {
    "PatientName": (
        *("invented^patient", "INVENTED*", "strasse*", "STRA?SE^A", "straße^a", "müller^änne", "M?ller*", "100%*"),
        *("1??0*", "under_score", "back*", "kk^kelvin", "yamada*", "*太郎", "doe?", "*^doe", "?", "*e*e*"),
    ),
    "PatientID": ("P3", "p3", "P?", "P1*", "*3", " P3 ", "P\\3", "P_", "P%"),
    "PatientSex": ("F", "f", "M", "?"),
    "StudyInstanceUID": ("1.2.3", "1.2.3\\1.2.4", "9.9", "1.2.*"),
    "ScheduledProcedureStepPriority": ("HIGH", "MEDIUM", "LOW", "L*", "none"),
    "ProcedureStepState": ("SCHEDULED", "IN PROGRESS", "COMPLETED", "S*"),
    "ScheduledProcedureStepStartDateTime": (
        *("20260105-20260106", "20260107-", "-20260106", "202601051030-2026010510", "20260105103015-20260105103015"),
        *(
            "20260105103016-",
            "2026-2027",
            "20261399-",
            "20260105",
            "20260105-+0100",
            "-",
            "99991231-",
            "-99991231235959",
        ),
    ),
    "ExpectedCompletionDateTime": ("20260105-20260108", "-20200101"),
}
INSIDE = [
    ("ReferencedRequestSequence", "AccessionNumber", ("A3", "A?", "A1*", "L" * 16, "nobody")),
    ("ReferencedRequestSequence", "StudyInstanceUID", ("1.2.3", "9.9")),
    ("InputInformationSequence", "StudyInstanceUID", ("1.2.3", "9.9")),
    ("ScheduledWorkitemCodeSequence", "AccessionNumber", ("A3",)),
]


@pytest.fixture
def finding(engine: Engine) -> Finding:
    store = Store(engine)
    intake, reading = Intake(store, POLICY), Reading(store)
    for number, name in enumerate(NAMES, 1):
        accession = "L" * 20 if number == 7 else f"A{number}"
        intake.receive(received(number, patient_name=name, patient_sex="FM"[number % 2], accession_number=accession))
        with engine.begin() as connection:
            came = {
                "waiting_since": CAME + timedelta(hours=9 * number),
                "overdue_at": CAME + timedelta(hours=8 * number),
            }
            if number == 9:
                came["overdue_at"] = datetime(2099, 1, 1, tzinfo=UTC)
            mine = update(studies).where(studies.c.study_instance_uid == f"1.2.{number}")
            connection.execute(mine.values(**came, clinical_priority=number % 3))
    reading.start_reading("1.2.4", "ann")
    reading.close("1.2.5", "ann")
    reading.prioritise("1.2.9", ClinicalPriority.ROUTINE, "ris", "order")
    return Finding(workitems=Workitems(store, reading), most=500)


def keys(**values: object) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def found(finding: Finding, asked: Dataset) -> list[str]:
    return [item.study_instance_uid for item in finding.find(asked).items]


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.filterwarnings("ignore:The value length")
@pytest.mark.filterwarnings("ignore:A value of type")
def test_the_database_leaves_out_only_what_would_not_have_matched(
    finding: Finding, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [keys(**{keyword: value}) for keyword, values in PLAIN.items() for value in values]
    for sequence, keyword, values in INSIDE:
        asked += [keys(**{sequence: [keys(**{keyword: value})]}) for value in values]
    told = [found(finding, each) for each in asked]
    monkeypatch.setattr("triage.records.workitems.conditions", lambda *_: [])
    for each, was_told in zip(asked, told, strict=True):
        assert was_told == found(finding, each), str(each)
    assert sum(map(bool, told)) > len(told) / 2


def test_few_are_fetched_where_few_match_or_are_wanted(finding: Finding, engine: Engine) -> None:
    rows = []

    def watch(*_: object) -> None:
        rows.append(1)

    event.listen(engine, "before_cursor_execute", watch)
    workitems = finding.workitems
    assert len(workitems.open(keys={"PatientID": "P3"})) == 1
    assert len(workitems.open(keys={"AccessionNumber": "A3"})) == 1
    assert len(workitems.open(most=2, keys={"PatientName": "*"})) == 2
    assert len(rows) == 3 + 3 * (engine.dialect.name == "sqlite")  # BEGIN is a statement there


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID"])
def test_who_names_thousands_is_told_of_all_that_are_held(finding: Finding, engine: Engine, keyword: str) -> None:
    held = [f"1.2.{number}" for number in range(1, len(NAMES) + 1)]
    for study in ("1.2.7", "1.2.8"):
        Reading(Store(engine)).close(study, "ann")
    uids = held if keyword == "StudyInstanceUID" else [workitem_uid(study, 0) for study in held]
    others = [f"9.{number}" for number in range(2500)]
    asked = keys(**{keyword: [*others[:1250], *uids[::2], *others[1250:], *uids[1::2]]})
    assert set(found(finding, asked)) == {*held}
