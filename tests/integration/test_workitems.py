"""The reading worklist as Unified Procedure Steps, asked for by pynetdicom as a real peer, on either database."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid
from sqlalchemy import Engine
from wards import ALL, PENDING, PULL, PUSH, QUERY, WATCH, Ward, keys, ward

from making import received
from triage.errors import ConflictError
from triage.records.workitems import Workitems
from triage.study import EventKind, Status, workitem_uid
from triage.workitem import Verdict

ONE = workitem_uid("1.2.1", 0)
T1, T2 = "1.2.3.4.1", "1.2.3.4.2"


@pytest.fixture
def site(engine: Engine, tmp_path: Path) -> Iterator[Ward]:
    with ward(engine, tmp_path) as made:
        yield made


def test_workitems_come_in_the_order_of_the_worklist(site: Ward) -> None:
    with site.peer() as peer:
        asked = {"ProcedureStepState": "SCHEDULED", "WorklistLabel": "", "ScheduledProcedureStepPriority": ""}
        found = peer.find(StudyInstanceUID="", **asked)
    told = [(each.StudyInstanceUID, each.ScheduledProcedureStepPriority, each.WorklistLabel) for each in found]
    assert told == [
        ("1.2.3", "HIGH", "READING 000001"),
        ("1.2.2", "MEDIUM", "READING 000002"),
        ("1.2.1", "LOW", "READING 000003"),
        ("1.2.4", "LOW", "READING 000004"),
    ]
    assert {str(each.SOPClassUID) for each in found} == {PUSH}


@pytest.mark.parametrize(
    ("asked", "studies"),
    [
        ({"ScheduledProcedureStepPriority": "HIGH"}, ["1.2.3"]),
        ({"PatientID": "P2"}, ["1.2.2"]),
        ({"PatientName": "invented^*4"}, ["1.2.4"]),
        ({"PatientName": "Invented^Patient?"}, ["1.2.3", "1.2.2", "1.2.1", "1.2.4"]),
        ({"PatientID": "p2"}, []),
        ({"SOPInstanceUID": [workitem_uid("1.2.4", 0), ONE, "1.9.9"]}, ["1.2.1", "1.2.4"]),
        ({"ScheduledProcedureStepStartDateTime": "19990101-20000101"}, []),
        ({"ScheduledProcedureStepStartDateTime": "20200101-"}, ["1.2.3", "1.2.2", "1.2.1", "1.2.4"]),
        ({"ReferencedRequestSequence": [keys(AccessionNumber="A2")]}, ["1.2.2"]),
        ({"ScheduledWorkitemCodeSequence": [keys(CodeValue="110005")]}, ["1.2.3", "1.2.2", "1.2.1", "1.2.4"]),
        ({"ScheduledWorkitemCodeSequence": [keys(CodeValue="1")]}, []),
        ({"ProcedureStepState": "COMPLETED"}, []),
    ],
)
def test_keys_choose(site: Ward, asked: dict[str, object], studies: list[str]) -> None:
    with site.peer() as peer:
        assert [each.StudyInstanceUID for each in peer.find(**{"StudyInstanceUID": "", **asked})] == studies


def test_every_class_that_is_offered_finds_and_push_is_not_offered(site: Ward) -> None:
    with site.peer() as peer:
        assert [len(peer.find(model, PatientID="P1")) for model in (PULL, WATCH, QUERY)] == [1, 1, 1]
        assert PUSH not in {cx.abstract_syntax for cx in peer.association.accepted_contexts}


def test_a_workitem_tells_all_that_the_standard_asks_for(site: Ward) -> None:
    with site.peer() as peer:
        status, found = peer.get(ONE)
        part = peer.get(ONE, [0x00741000, 0x00100020])[1]
    assert status == 0
    assert found is not None
    assert part is not None
    assert {each.keyword for each in part} == {"SpecificCharacterSet", "PatientID", "ProcedureStepState"}
    assert found.ReferencedRequestSequence[0].AccessionNumber == "A1"
    (inputs,) = found.InputInformationSequence
    assert inputs.DICOMRetrievalSequence[0].RetrieveAETitle == "PACS"
    assert (inputs.StudyInstanceUID, inputs.SeriesInstanceUID) == ("1.2.1", "1.2.1.7")
    assert [each.ReferencedSOPInstanceUID for each in inputs.ReferencedSOPSequence] == ["1.2.3.1"]
    assert found.ScheduledWorkitemCodeSequence[0].CodeValue == "110005"
    assert found.CommentsOnTheScheduledProcedureStep == "Routine order; not yet analysed; then by arrival"
    assert (found.InputReadinessState, found.ProcedureStepLabel) == ("READY", "CHEST 1")
    assert "TransactionUID" not in found
    for keyword in ("ScheduledStationNameCodeSequence", "AdmissionID", "ProcedureStepProgressInformationSequence"):
        assert keyword in found


def test_a_reading_from_claim_to_completion(site: Ward) -> None:
    with site.peer() as peer:
        assert peer.change(ONE, "IN PROGRESS", T1) == 0
        assert site.reading.study("1.2.1")["reader"] == "VIEWER"
        progress = [keys(ProcedureStepProgress="50", ProcedureStepProgressDescription="half")]
        assert peer.set(ONE, TransactionUID=T1, ProcedureStepProgressInformationSequence=progress) == 0
        found = peer.get(ONE)[1]
        assert found is not None
        assert found.ProcedureStepProgressInformationSequence[0].ProcedureStepProgress == 50
        assert peer.change(ONE, "COMPLETED", T1) == 0
        assert peer.change(ONE, "COMPLETED", T1) == 0xB306
        assert peer.state(ONE) == "COMPLETED"
        assert peer.uids(ProcedureStepState="COMPLETED") == [ONE]
        ended = peer.get(ONE)[1]
    assert ended is not None
    performed = ended.UnifiedProcedureStepPerformedProcedureSequence[0]
    assert performed.ActualHumanPerformersSequence[0].HumanPerformerName == "VIEWER"
    assert site.reading.study("1.2.1")["status"] == Status.READ


def test_the_state_table_of_the_standard_is_kept(site: Ward) -> None:
    """PS3.4 table CC.1.1-2, each cell that can be reached here."""
    with site.peer() as peer:
        for state in ("IN PROGRESS", "COMPLETED", "CANCELED", "SCHEDULED"):
            assert peer.change("1.2.99", state, T1) == 0xC307
        assert peer.change(ONE, "SCHEDULED", T1) == 0xC303
        assert [peer.change(ONE, state, None) for state in ("IN PROGRESS", "COMPLETED")] == [0xC301, 0xC301]
        assert [peer.change(ONE, state, T1) for state in ("COMPLETED", "CANCELED")] == [0xC310, 0xC310]
        assert peer.set(ONE, TransactionUID=T1, ProcedureStepProgressInformationSequence=[keys()]) == 0xC310
        assert peer.state(ONE) == "SCHEDULED"
        assert peer.change(ONE, "IN PROGRESS", T1) == 0
        assert [peer.change(ONE, "IN PROGRESS", uid) for uid in (T1, T2)] == [0xC302, 0xC301]
        assert [peer.change(ONE, state, T2) for state in ("COMPLETED", "CANCELED")] == [0xC301, 0xC301]
        assert peer.change(ONE, "SCHEDULED", T1) == 0xC303
        assert peer.set(ONE, TransactionUID=T2, ProcedureStepProgressInformationSequence=[keys()]) == 0xC301
        assert peer.watch(2, ONE) == 0xC312
        assert peer.state(ONE) == "IN PROGRESS"
        assert peer.change(ONE, "COMPLETED", T1) == 0
        assert [peer.change(ONE, state, T1) for state in ("IN PROGRESS", "CANCELED")] == [0xC300, 0xC300]
        assert [peer.change(ONE, state, T2) for state in ("COMPLETED", "CANCELED")] == [0xC301, 0xC301]
        assert peer.set(ONE, TransactionUID=T1, ProcedureStepProgressInformationSequence=[keys()]) == 0xC300
        assert peer.watch(2, ONE) == 0xC311
        assert peer.change(ONE, "NONSENSE", T1) == 0x0115


def test_a_reading_that_is_given_back_is_cancelled_and_a_new_workitem_waits(site: Ward) -> None:
    with site.peer() as peer:
        peer.change(ONE, "IN PROGRESS", T1)
        assert peer.change(ONE, "CANCELED", T1) == 0
        assert peer.state(ONE) == "CANCELED"
        assert (peer.change(ONE, "CANCELED", T1), peer.watch(2, ONE)) == (0xB304, 0xB304)
        (new,) = peer.uids(StudyInstanceUID="1.2.1", ProcedureStepState="SCHEDULED")
        assert new != ONE
        assert peer.change(new, "IN PROGRESS", T2) == 0
    assert site.reading.study("1.2.1")["status"] == Status.READING


def test_of_two_that_claim_at_once_one_wins(site: Ward) -> None:
    statuses: list[int] = []
    ready = threading.Barrier(2)

    def claim(calling: str) -> None:
        with site.peer(calling) as peer:
            ready.wait()
            statuses.append(peer.change(ONE, "IN PROGRESS", generate_uid()))

    threads = [threading.Thread(target=claim, args=(name,)) for name in ("VIEWER1", "VIEWER2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [0, 0xC301]


def test_claims_over_the_page_and_over_the_network_exclude_each_other(site: Ward) -> None:
    with site.peer() as peer:
        site.reading.start_reading("1.2.1", "Dr Adler")
        assert peer.state(ONE) == "IN PROGRESS"
        assert peer.change(ONE, "IN PROGRESS", T1) == 0xC301
        assert peer.change(ONE, "COMPLETED", T1) == 0xC301
        two = workitem_uid("1.2.2", 0)
        assert peer.change(two, "IN PROGRESS", T1) == 0
        for verb in (site.reading.start_reading, site.reading.close, site.reading.release):
            with pytest.raises(ConflictError):
                verb("1.2.2", "Dr Adler")
        site.reading.release("1.2.2")  # whoever gives no name is not asked
        assert (peer.state(two), peer.change(two, "COMPLETED", T1)) == ("CANCELED", 0xC300)


def test_new_images_are_seen_before_a_reading_is_completed(site: Ward) -> None:
    with site.peer() as peer:
        peer.change(ONE, "IN PROGRESS", T1)
        site.intake.receive(received(50, 1))
        assert peer.change(ONE, "COMPLETED", T1) == 0xC304
        assert peer.state(ONE) == "IN PROGRESS"
        assert peer.set(ONE, TransactionUID=T1, ProcedureStepProgressInformationSequence=[keys()]) == 0
        assert peer.change(ONE, "COMPLETED", T1) == 0


def test_a_study_that_is_opened_again_has_a_new_workitem_beside_the_completed_one(site: Ward) -> None:
    with site.peer() as peer:
        peer.change(ONE, "IN PROGRESS", T1)
        peer.change(ONE, "COMPLETED", T1)
        site.intake.receive(received(51, 1))
        assert peer.state(ONE) == "COMPLETED"
        assert peer.uids(StudyInstanceUID="1.2.1", ProcedureStepState="SCHEDULED") == [workitem_uid("1.2.1", 1)]
        assert peer.uids(StudyInstanceUID="1.2.1", ProcedureStepState="COMPLETED") == [ONE]


def test_a_request_to_cancel_is_refused_where_the_study_waits_was_read_or_nobody_would_hear_of_it(site: Ward) -> None:
    with site.peer() as peer:
        assert peer.watch(2, ONE) == 0xC313
        peer.change(ONE, "IN PROGRESS", T1)
        assert peer.watch(2, ONE) == 0xC312
        site.subscriptions.subscribe("VIEWER", ALL)
        site.subscriptions.unsubscribe("VIEWER", ONE)
        assert peer.watch(2, ONE) == 0xC312
        site.subscriptions.subscribe("OTHER", ONE)
        assert peer.watch(2, ONE, ReasonForCancellation="wrong patient") == 0
        peer.change(ONE, "COMPLETED", T1)
        assert peer.watch(2, ONE) == 0xC311
    asked = [event for event in site.reading.history.of_study("1.2.1") if event.kind is EventKind.CANCEL_ASKED]
    assert [(event.who, event.words) for event in asked] == [("VIEWER", "wrong patient")]


def test_a_filtered_subscription_is_refused_in_the_standards_way(site: Ward) -> None:
    with site.peer() as peer:
        filtered = "1.2.840.10008.5.1.4.34.5.1"
        asked = {"ReceivingAE": "VIEWER", "DeletionLock": "FALSE", "ScheduledProcedureStepPriority": "HIGH"}
        assert [peer.watch(action, filtered, **asked) for action in (3, 4, 5)] == [0xC315] * 3
    assert site.subscriptions.subscribed() == []


def test_what_is_not_the_performers_to_say_is_left_and_said_so(site: Ward) -> None:
    with site.peer() as peer:
        peer.change(ONE, "IN PROGRESS", T1)
        assert peer.set(ONE, TransactionUID=T1, PatientName="Changed^Name", WorklistLabel="MINE") == 0x0001
        found = peer.get(ONE)[1]
    assert found is not None
    assert str(found.PatientName) == "Invented^Patient1"
    assert site.reading.study("1.2.1")["patient_name"] == "Invented^Patient1"


def test_a_reading_that_was_none_ends_completed_and_another_workitem_waits(site: Ward) -> None:
    site.subscriptions.subscribe("WATCHER", ONE)
    site.subscriptions.subscribe("OTHER", ALL)
    for ae_title in ("WATCHER", "OTHER"):
        batch = site.subscriptions.due(ae_title)
        assert batch is not None
        site.subscriptions.told(ae_title, batch)
    site.reading.close("1.2.1", "Dr Adler")
    site.reading.reopen("1.2.1", "Dr Adler")
    with site.peer() as peer:
        assert peer.state(ONE) == "COMPLETED"
        (new,) = peer.uids(StudyInstanceUID="1.2.1", ProcedureStepState="SCHEDULED")
        assert peer.change(new, "IN PROGRESS", T1) == 0
    told = {}
    for ae_title in ("WATCHER", "OTHER"):
        batch = site.subscriptions.due(ae_title)
        assert batch is not None
        told[ae_title] = [(notice.workitem_uid, notice.state) for notice in batch.notices]
    assert told["WATCHER"] == [(ONE, "COMPLETED")]
    assert told["OTHER"] == [(ONE, "COMPLETED"), (new, "IN PROGRESS")]


def test_of_two_words_of_progress_at_once_neither_is_lost(site: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one comes after the other was received and before it is written."""
    performed = '{"00741216":{"vr":"SQ","Value":[{"00404050":{"vr":"DT","Value":["20260101"]}}]}}'
    update = Workitems.update

    def overtaken(*arguments: Any) -> Verdict:
        monkeypatch.undo()
        assert update(site.workitems, ONE, T1, performed) is Verdict.DONE
        return update(*arguments)

    with site.peer() as peer:
        peer.change(ONE, "IN PROGRESS", T1)
        monkeypatch.setattr(Workitems, "update", overtaken)
        assert (
            peer.set(
                ONE, TransactionUID=T1, ProcedureStepProgressInformationSequence=[keys(ProcedureStepProgress="50")]
            )
            == 0
        )
        assert (
            peer.set(
                ONE, TransactionUID=T1, ProcedureStepProgressInformationSequence=[keys(ProcedureStepProgress="70")]
            )
            == 0
        )
        found = peer.get(ONE)[1]
    assert found is not None
    assert len(found.UnifiedProcedureStepPerformedProcedureSequence) == 1
    assert [float(each.ProcedureStepProgress) for each in found.ProcedureStepProgressInformationSequence] == [70.0]


@pytest.mark.fault(133)
def test_bombs_in_queries_cost_nothing_and_change_nothing(site: Ward) -> None:
    deep = inner = Dataset()
    for _ in range(60):
        inner.ReferencedRequestSequence = [Dataset()]
        inner = inner.ReferencedRequestSequence[0]
    inner.AccessionNumber = "A1"
    private = keys(PatientID="P1")
    private.add_new(0x00091001, "LO", "private")
    private.add_new(0x00090010, "LO", "SOMEBODY")
    private.EthnicGroup = "unknown key"
    with site.peer() as peer:
        for bomb in ("*a" * 30, "*" * 64, "?*" * 32, "*?" * 31 + "a"):
            assert peer.ask(keys(PatientName=bomb))[0][-1] == 0
        assert peer.ask(deep)[0][-1] == 0
        statuses, found = peer.ask(private)
        assert (statuses, len(found)) == ([0xFF01, 0], 1)
        assert peer.ask(keys(SOPInstanceUID=[f"1.2.{n}" for n in range(3000)]))[0] == [0]
        assert peer.find(PatientID="' OR 1=1 --") == []
        assert len(peer.find(PatientID="*")) == 4


def test_no_more_are_told_than_the_site_allows(engine: Engine, tmp_path: Path) -> None:
    with ward(engine, tmp_path, most=2) as site, site.peer() as peer:
        statuses, found = peer.ask(keys(ProcedureStepState="SCHEDULED", StudyInstanceUID=""))
        assert [each.StudyInstanceUID for each in found] == ["1.2.3", "1.2.2"]
        assert [status in PENDING for status in statuses[:-1]] == [True, True]
        assert statuses[-1] == 0xA700


def test_unknown_workitems_actions_and_operations_get_their_status(site: Ward) -> None:
    with site.peer() as peer:
        assert peer.get("1.2.99")[0] == 0xC307
        assert peer.set("1.2.99", TransactionUID=T1, ProcedureStepProgressInformationSequence=[keys()]) == 0xC307
        assert peer.watch(2, "1.2.99") == 0xC307
        assert peer.watch(3, "1.2.99", ReceivingAE="VIEWER", DeletionLock="FALSE") == 0xC307
        assert peer.watch(9, ONE) == 0x0123
        assert peer.watch(3, ALL, DeletionLock="FALSE") == 0x0115
        assert peer.watch(3, ALL, ReceivingAE="VIEWER", DeletionLock="TRUE") == 0xB301
        made = peer.association.send_n_create(keys(ProcedureStepState="SCHEDULED"), PUSH, "1.2.98", meta_uid=PULL)
        assert made[0].Status == 0x0211
        assert len(peer.find(PatientID="*")) == 4
