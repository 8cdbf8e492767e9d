"""What a study can tell of itself: every event, in order, with the places it moved between."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from making import CARD, POLICY, finding, received
from triage.errors import ConflictError, Reason, StudyNotFoundError
from triage.policy import judge
from triage.records.history import History
from triage.records.intake import Intake
from triage.records.queue import Queue, Result
from triage.records.reading import Reading
from triage.records.store import Store
from triage.study import ClinicalPriority, Event, EventKind, Finding, Opinion

UID = "1.2.{}".format


@pytest.fixture
def store(engine: Engine) -> Store:
    return Store(engine)


@pytest.fixture
def history(store: Store) -> History:
    return History(store)


@pytest.fixture
def reading(store: Store) -> Reading:
    return Reading(store)


@pytest.fixture
def intake(store: Store) -> Intake:
    """With three studies on the list."""
    intake = Intake(store, POLICY)
    for number in (1, 2, 3):
        intake.receive(received(number))
    return intake


def analyse(store: Store, *found: Finding) -> None:
    """The next films of the queue."""
    queue = Queue(store, POLICY)
    for each in found:
        (job,) = queue.claim("test", 60)
        queue.finish([Result(job=job, finding=each, priority=judge(each, card=CARD, policy=POLICY))])


def kinds(events: list[Event]) -> list[str]:
    return [event.kind.value for event in events]


@pytest.mark.usefixtures("intake")
def test_the_history_tells_receipt_analysis_and_reading_in_their_order(
    store: Store, history: History, reading: Reading
) -> None:
    analyse(store, finding(0.95))
    reading.start_reading(UID(1), "ann")
    reading.release(UID(1), "ann")
    reading.start_reading(UID(1), "bob")
    reading.close(UID(1), "bob")
    told = history.of_study(UID(1))
    assert kinds(told) == ["received", "analysed", "started", "released", "started", "read"]
    assert [event.who for event in told] == ["PACS", "", "ann", "ann", "bob", "bob"]
    assert CARD.sha256[:12] in told[1].words
    assert POLICY.version in told[1].words


@pytest.mark.usefixtures("intake")
def test_a_performer_that_tells_every_per_cent_pushes_nothing_else_out(store: Store, history: History) -> None:
    with store.writing() as connection:
        history.note(connection, UID(1), EventKind.STARTED, who="ann")
        for _ in range(1200):
            history.note(connection, UID(1), EventKind.PROGRESSED, who="ann")
    told = kinds(history.of_study(UID(1)))
    assert told[:2] == ["received", "started"]
    assert told[2:] == ["progressed"] * 20


@pytest.mark.usefixtures("intake")
def test_what_was_not_read_after_all_stands_where_it_stood_with_what_was_found(
    store: Store, history: History, reading: Reading
) -> None:
    analyse(store, finding(0.1), finding(0.95))
    before = reading.worklist()
    with pytest.raises(ConflictError, match="on the worklist"):
        reading.reopen(UID(2), "ann")
    workitem = reading.study(UID(2))["workitem_uid"]
    reading.close(UID(2), "ann")
    assert len(reading.worklist()) == 2
    reading.reopen(UID(2), "bob")
    after = reading.worklist()
    shown = [(entry.study_instance_uid, entry.flagged, entry.waiting_since, entry.status) for entry in before]
    assert [(entry.study_instance_uid, entry.flagged, entry.waiting_since, entry.status) for entry in after] == shown
    assert reading.study(UID(2))["workitem_uid"] != workitem
    told = history.of_study(UID(2))[-2:]
    assert [(event.kind, event.who) for event in told] == [(EventKind.READ, "ann"), (EventKind.REOPENED, "bob")]
    reading.close(UID(2), "bob")
    assert len(reading.worklist()) == 2


@pytest.mark.usefixtures("intake")
def test_the_same_place_twice_is_no_move(history: History, reading: Reading) -> None:
    reading.prioritise(UID(1), ClinicalPriority.STAT, "ann", "the page")
    (event,) = [each for each in history.of_study(UID(1)) if each.kind is EventKind.PRIORITISED]
    assert (event.rank_from, event.rank_to) == (None, None)


@pytest.mark.usefixtures("intake")
def test_a_study_that_is_raised_tells_from_where_to_where(store: Store, history: History) -> None:
    analyse(store, finding(0.1), finding(0.1), finding(0.95))
    assert [(event.rank_from, event.rank_to) for event in history.of_study(UID(3))] == [(None, None), (3, 1)]
    assert {event.rank_to for event in history.of_study(UID(1))} == {None}


@pytest.mark.usefixtures("intake")
def test_one_that_was_not_analysed_says_so(store: Store, history: History) -> None:
    analyse(store, Finding(reason=Reason.NOT_A_CHEST_FILM))
    assert kinds(history.of_study(UID(1))) == ["received", "not_analysed"]


def test_a_late_image_of_a_study_that_was_read_is_told_as_a_reopening(
    intake: Intake, history: History, reading: Reading
) -> None:
    before = reading.study(UID(1))["workitem_uid"]
    reading.start_reading(UID(1), "ann")
    reading.close(UID(1), "ann")
    intake.receive(received(9, study=1))
    assert kinds(history.of_study(UID(1))) == ["received", "started", "read", "reopened", "received"]
    assert reading.study(UID(1))["workitem_uid"] != before


@pytest.mark.usefixtures("intake")
def test_people_may_raise_and_lower_the_orders_priority_and_the_list_follows(
    history: History, reading: Reading
) -> None:
    assert reading.prioritise(UID(3), ClinicalPriority.STAT, "ris", "the RIS")
    assert [entry.study_instance_uid for entry in reading.worklist()] == [UID(3), UID(1), UID(2)]
    assert not reading.prioritise(UID(3), ClinicalPriority.STAT, "ris", "the RIS")
    assert reading.prioritise(UID(3), ClinicalPriority.ROUTINE, "ris", "the RIS")
    moved = [event for event in history.of_study(UID(3)) if event.kind is EventKind.PRIORITISED]
    assert [(event.rank_from, event.rank_to, event.words) for event in moved] == [
        (3, 1, "ROUTINE to STAT by the RIS"),
        (1, 3, "STAT to ROUTINE by the RIS"),
    ]


@pytest.mark.usefixtures("intake")
def test_a_study_that_was_read_keeps_its_priority(reading: Reading) -> None:
    reading.close(UID(1))
    with pytest.raises(ConflictError, match="has been read"):
        reading.prioritise(UID(1), ClinicalPriority.STAT, "ris", "the RIS")
    with pytest.raises(StudyNotFoundError):
        reading.prioritise(UID(7), ClinicalPriority.STAT, "ris", "the RIS")


@pytest.mark.usefixtures("intake")
def test_of_each_reading_the_last_word_counts(store: Store, history: History, reading: Reading) -> None:
    with pytest.raises(ConflictError, match="not analysed"):
        reading.opine(UID(1), "ann", Opinion.AGREE)
    analyse(store, finding(0.95), finding(0.1))
    reading.opine(UID(1), "ann", Opinion.UNSURE)
    reading.opine(UID(1), "ann", Opinion.DISAGREE)
    reading.opine(UID(1), "bob", Opinion.AGREE)
    reading.opine(UID(2), "bob", Opinion.AGREE)  # not flagged: has no part in the share of flags that were right
    assert reading.opinions() == {Opinion.AGREE: 1, Opinion.DISAGREE: 0, Opinion.UNSURE: 0}
    assert [event.words for event in history.of_study(UID(1))[2:]] == ["unsure", "disagree", "agree"]


@pytest.mark.usefixtures("intake")
def test_a_second_look_can_only_raise(store: Store, history: History, reading: Reading) -> None:
    analyse(store, finding(0.95), finding(0.1), finding(0.1))
    queue = Queue(store, POLICY)
    assert queue.look_again(UID(1), "ann") == 1
    assert queue.look_again(UID(1), "ann") == 0, "it waits already"
    other = Finding(weights_sha256="b" * 64, p_normal=0.9, p_bacterial=0.05, p_viral=0.05)
    analyse(store, other)
    assert reading.study(UID(1))["flagged"]
    assert kinds(history.of_study(UID(1))) == ["received", "analysed", "requeued", "analysed"]


@pytest.mark.usefixtures("intake")
def test_the_version_changes_with_each_event(store: Store, history: History, reading: Reading) -> None:
    versions = [history.version()]
    assert versions[0].startswith("0-3")
    analyse(store, finding(0.95))
    versions.append(history.version())
    reading.start_reading(UID(2), "ann")
    versions.append(history.version())
    assert len({*versions, history.version()}) == 3


_FAILED = Finding(reason=Reason.PIXELS_DAMAGED)


@pytest.mark.parametrize(
    ("first", "second"),
    [(finding(0.1), _FAILED), (_FAILED, finding(0.1)), (finding(0.1), finding(0.05, "b" * 64))],
)
def test_a_look_that_fails_takes_nothing_from_another_and_counts_no_object_twice(
    store: Store, reading: Reading, first: Finding, second: Finding
) -> None:
    Intake(store, POLICY).receive(received(1))
    analyse(store, first)
    Queue(store, POLICY).look_again(UID(1), "ann")
    analyse(store, second)
    study = reading.study(UID(1))
    assert (study["analysis"], study["p_pneumonia"]) == ("analysed", pytest.approx(0.1))
    assert "objects not analysed" not in study["words"]
    Intake(store, POLICY).receive(received(2, study=1))
    analyse(store, _FAILED)
    assert "1 of 2 objects not analysed" in reading.study(UID(1))["words"]


@pytest.mark.fault(105)
@pytest.mark.usefixtures("intake")
def test_not_even_the_same_network_takes_a_flag_back(store: Store, reading: Reading) -> None:
    """As when the threshold has been raised since, or another device computes."""
    analyse(store, finding(0.95), finding(0.1), finding(0.1))
    Queue(store, POLICY).look_again(UID(1), "ann")
    analyse(store, finding(0.1))
    study = reading.study(UID(1))
    assert (study["flagged"], study["p_pneumonia"]) == (True, 0.95)
