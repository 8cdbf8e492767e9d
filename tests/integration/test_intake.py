"""What the database makes of received instances."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, func, insert, select

from making import POLICY, received
from triage.errors import ConflictError, Reason, SettingsError, StudyNotFoundError
from triage.records.intake import Intake, Receipt, known_hashes
from triage.records.reading import Reading
from triage.records.store import Store
from triage.records.tables import instances, jobs, policies, studies
from triage.study import ClinicalPriority


@pytest.fixture
def store(engine: Engine) -> Store:
    return Store(engine)


@pytest.fixture
def intake(store: Store) -> Intake:
    return Intake(store, POLICY)


def count(store: Store, table: Any) -> int:
    with store.reading() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def test_the_first_film_of_a_study_takes_the_short_way(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "lock_study", None)
    assert Intake(Store(engine), POLICY).receive(received(1)).queued


@pytest.mark.fault(32, 115)
def test_the_same_instance_again_makes_no_second_row_and_no_second_job(store: Store, intake: Intake) -> None:
    assert intake.receive(received(1)) == Receipt(queued=True)
    assert intake.receive(received(1)) == Receipt(duplicate=True)
    assert [count(store, table) for table in (studies, instances, jobs)] == [1, 1, 1]


@pytest.mark.fault(34)
def test_the_same_instance_from_many_senders_at_once_is_kept_once(store: Store, intake: Intake) -> None:
    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(intake.receive, [received(1)] * 16))
    assert sum(receipt.queued for receipt in receipts) == 1
    assert [count(store, table) for table in (studies, instances, jobs)] == [1, 1, 1]


@pytest.mark.fault(33)
def test_the_same_uid_with_other_content_is_kept_beside_the_first_and_marked(store: Store, intake: Intake) -> None:
    intake.receive(received(1))
    assert intake.receive(received(1, content="other")) == Receipt(conflict=True, queued=True)
    (entry,) = Reading(store).worklist()
    assert entry.identity_conflict
    assert "identifiers missing or contradictory" in entry.why
    assert count(store, instances) == 2


@pytest.mark.fault(35)
def test_the_same_uid_under_another_study_marks_both(store: Store, intake: Intake) -> None:
    intake.receive(received(1, study=1))
    intake.receive(received(1, study=2))
    assert [entry.identity_conflict for entry in Reading(store).worklist()] == [True, True]


def test_an_object_that_is_not_analysed_is_listed_with_its_reason_and_without_a_job(
    store: Store, intake: Intake
) -> None:
    receipt = intake.receive(received(1, not_analysed=Reason.UNSUPPORTED_SOP_CLASS))
    assert not receipt.queued
    (entry,) = Reading(store).worklist()
    assert (entry.analysis, entry.reason) == ("not_analysed", "unsupported_sop_class")
    assert count(store, jobs) == 0


@pytest.mark.fault(36)
def test_later_demographics_are_shown_and_absent_ones_do_not_erase(store: Store, intake: Intake) -> None:
    intake.receive(received(1, study=5, patient_id="P", patient_name="Old^Name", accession_number="A5"))
    intake.receive(received(2, study=5, patient_id="P", patient_name="New^Name", accession_number=""))
    (entry,) = Reading(store).worklist()
    assert (entry.patient_name, entry.accession_number, entry.identity_conflict) == ("New^Name", "A5", False)


@pytest.mark.fault(36)
@pytest.mark.parametrize("changed", ["patient_id", "accession_number", "patient_birth_date"])
def test_a_film_of_another_patient_or_order_marks_the_study_and_hides_nobody(
    store: Store, intake: Intake, changed: str
) -> None:
    first = {"patient_id": "P1", "accession_number": "A1", "patient_birth_date": "20200101", "patient_name": "One"}
    intake.receive(received(1, study=5, **first))
    intake.receive(received(2, study=5, **{**first, changed: "OTHER", "patient_name": "Two"}))
    (entry,) = Reading(store).worklist()
    assert (entry.patient_id, entry.accession_number, entry.patient_name) == ("P1", "A1", "One")
    assert entry.identity_conflict
    assert "identifiers missing or contradictory" in entry.why


def test_a_refused_object_renames_nobody_and_raises_nothing(store: Store, intake: Intake) -> None:
    intake.receive(received(1, study=5, patient_id="", patient_name="One"))
    refused = received(2, study=5, patient_name="Refused", clinical_priority=0, not_analysed=Reason.QUARANTINED)
    intake.receive(replace(refused, quarantined=True))
    (entry,) = Reading(store).worklist()
    assert (entry.patient_name, entry.clinical_priority, entry.identity_conflict) == ("One", "ROUTINE", True)


@pytest.mark.fault(116)
def test_a_study_cannot_be_closed_over_images_its_reader_has_not_seen(store: Store, intake: Intake) -> None:
    reading = Reading(store)
    intake.receive(received(1, study=5))
    reading.start_reading("1.2.5", "dr-a")
    intake.receive(received(2, study=5))
    with pytest.raises(ConflictError, match="new images"):
        reading.close("1.2.5", "dr-a")
    (entry,) = reading.worklist()
    assert "new images since the reading started" in entry.why
    reading.start_reading("1.2.5", "dr-a")
    reading.close("1.2.5", "dr-a")
    assert reading.worklist() == []


def test_a_policy_that_changed_under_its_version_is_refused(store: Store, intake: Intake) -> None:
    intake.receive(received(1))
    intake.check_policy()
    Intake(store, replace(POLICY, version="new", accept_unknown=("age",))).check_policy()
    with pytest.raises(SettingsError, match="new version"):
        Intake(store, replace(POLICY, accept_unknown=("age",))).check_policy()


@pytest.mark.fault(119)
def test_a_policy_kept_by_an_earlier_release_had_the_settings_it_did_not_know_at_their_defaults(
    store: Store, intake: Intake
) -> None:
    earlier = {"version": POLICY.version, "waiting_limit_minutes": 240, "accept_unknown": [], "threshold": None}
    with store.writing() as connection:
        connection.execute(
            insert(policies).values(version=POLICY.version, content=json.dumps(earlier), first_used_at=store.now())
        )
    intake.check_policy()
    with pytest.raises(SettingsError, match="new version"):
        Intake(store, replace(POLICY, prevalence=0.3)).check_policy()


def test_clinical_priority_rises_and_never_falls(store: Store, intake: Intake) -> None:
    for number, priority in enumerate((ClinicalPriority.URGENT, ClinicalPriority.STAT, ClinicalPriority.ROUTINE)):
        intake.receive(received(number, study=5, clinical_priority=priority))
    assert Reading(store).worklist()[0].clinical_priority == "STAT"


@pytest.mark.fault(40)
def test_text_wider_than_its_column_is_cut_and_the_study_listed(store: Store, intake: Intake) -> None:
    wide = dict.fromkeys(("study_description", "accession_number", "patient_id", "series_instance_uid"), "W" * 256)
    intake.receive(received(1, **wide, modality="M" * 64, study_date="D" * 64, patient_sex="S" * 64))
    assert Reading(store).worklist()[0].accession_number == "W" * 64


def test_every_policy_that_made_a_priority_is_kept(store: Store) -> None:
    Intake(store, POLICY).receive(received(1))
    Intake(store, replace(POLICY, version="stricter", threshold=0.1)).receive(received(2))
    with store.reading() as connection:
        kept = {row.version: json.loads(row.content) for row in connection.execute(select(policies))}
    assert kept["stricter"]["threshold"] == 0.1
    assert set(kept) == {POLICY.version, "stricter"}


def test_hashes_of_files_are_found_among_many(store: Store, intake: Intake) -> None:
    intake.receive(received(1))
    others = [f"{number:064x}" for number in range(1200)]
    assert known_hashes(store, [*others, received(1).sha256]) == {received(1).sha256}


def test_two_readers_cannot_hold_one_study(store: Store, intake: Intake) -> None:
    intake.receive(received(1))
    reading = Reading(store)
    reading.start_reading("1.2.1", "dr-a")
    reading.start_reading("1.2.1", "dr-a")
    with pytest.raises(ConflictError):
        reading.start_reading("1.2.1", "dr-b")
    assert (reading.worklist()[0].status, reading.worklist()[0].reader) == ("reading", "dr-a")
    reading.release("1.2.1")
    reading.start_reading("1.2.1", "dr-b")
    for verb in (reading.close, reading.release):
        with pytest.raises(ConflictError):
            verb("1.2.1", "dr-a")
    reading.close("1.2.1")
    reading.close("1.2.1")
    assert reading.study("1.2.1")["reader"] == "dr-b"
    for change in (lambda: reading.start_reading("1.2.1", "dr-a"), lambda: reading.release("1.2.1")):
        with pytest.raises(ConflictError):
            change()


def test_an_unknown_study_is_said_to_be_unknown(store: Store) -> None:
    for verb in (Reading(store).close, Reading(store).release, Reading(store).study):
        with pytest.raises(StudyNotFoundError):
            verb("1.2.999")
