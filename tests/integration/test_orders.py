"""Orders and studies find each other, whichever comes first; the latest word of people counts."""

from __future__ import annotations

import threading
from itertools import count

import pytest
from sqlalchemy import Engine, text

from making import CR, POLICY, received
from triage.errors import Reason
from triage.order import Order, Word
from triage.records.enquiries import ASKED_MAX, Enquiries
from triage.records.history import History
from triage.records.intake import Intake
from triage.records.orders import Effect, Message, Orders
from triage.records.reading import Reading
from triage.records.store import Store
from triage.study import ClinicalPriority, EventKind

STAT, URGENT, ROUTINE = ClinicalPriority.STAT, ClinicalPriority.URGENT, ClinicalPriority.ROUTINE
WORD = Word(who="RIS@NORTH", source="an order over HL7")
_serial = count(1)


@pytest.fixture
def store(engine: Engine) -> Store:
    return Store(engine)


@pytest.fixture
def orders(store: Store) -> Orders:
    return Orders(store)


@pytest.fixture
def intake(store: Store) -> Intake:
    return Intake(store, POLICY)


def order(
    number: int = 1, priority: ClinicalPriority | None = STAT, patient_id: str = "", *, cancelled: bool = False
) -> Order:
    return Order(accession_number=f"A{number}", patient_id=patient_id, clinical_priority=priority, cancelled=cancelled)


def take(orders: Orders, *said: Order, sha256: str = "") -> Effect:
    return orders.take(Message(sha256=sha256 or f"{next(_serial):064}"), said, WORD)


def priority(store: Store, number: int = 1) -> str:
    return str(Reading(store).study(f"1.2.{number}")["clinical_priority"])


def told(store: Store, number: int = 1) -> list[tuple[str, str]]:
    events = History(store).of_study(f"1.2.{number}")
    return [(event.who, event.words) for event in events if event.kind is EventKind.PRIORITISED]


def rank_of(store: Store, number: int) -> int:
    return next(e.rank for e in Reading(store).worklist() if e.study_instance_uid == f"1.2.{number}")


def test_an_order_that_came_before_raises_its_study_as_it_is_received(
    store: Store, orders: Orders, intake: Intake
) -> None:
    assert take(orders, order(2, STAT, "P2")) is Effect.KEPT
    for number in (1, 2):
        assert intake.receive(received(number)).queued
    assert (priority(store, 1), priority(store, 2)) == ("ROUTINE", "STAT")
    assert rank_of(store, 2) == 1
    assert told(store, 2) == [("RIS@NORTH", "ROUTINE to STAT by an order over HL7")]


def places(store: Store, number: int) -> list[tuple[int | None, int | None]]:
    events = History(store).of_study(f"1.2.{number}")
    return [(event.rank_from, event.rank_to) for event in events if event.kind is EventKind.PRIORITISED]


def test_the_history_tells_the_places_between_which_orders_and_images_moved_a_study(
    store: Store, orders: Orders, intake: Intake
) -> None:
    take(orders, order(3, STAT))
    for number in (1, 2, 3, 4):
        intake.receive(received(number))
    assert places(store, 3) == [(3, 1)]
    intake.receive(received(5, study=4, accession_number="A4", patient_id="P4", clinical_priority=URGENT))
    assert places(store, 4) == [(4, 2)]
    take(orders, order(9, STAT))
    intake.receive(received(6, accession_number=""))
    intake.receive(received(7, study=6, accession_number="A9", patient_id="P6"))
    assert places(store, 6) == [(5, 2)]
    assert places(store, 1) == []


def test_an_object_that_raises_a_study_that_was_read_moves_it_nowhere(store: Store, intake: Intake) -> None:
    intake.receive(received(1))
    Reading(store).close("1.2.1")
    state = {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.11.1", "accession_number": "A1", "patient_id": "P1"}
    intake.receive(received(2, study=1, clinical_priority=STAT, not_analysed=Reason.UNSUPPORTED_SOP_CLASS, **state))
    assert (priority(store, 1), places(store, 1)) == ("STAT", [(None, None)])


@pytest.mark.parametrize(("urgency", "found"), [(STAT, "STAT"), (ROUTINE, "URGENT")])
def test_an_order_that_came_while_a_study_passed_for_read_raises_it_when_it_is_put_back(
    store: Store, orders: Orders, intake: Intake, urgency: ClinicalPriority, found: str
) -> None:
    intake.receive(received(1))
    intake.receive(received(2, clinical_priority=URGENT))
    Reading(store).close("1.2.2")
    assert take(orders, order(2, urgency)) is Effect.KEPT
    Reading(store).reopen("1.2.2", "ann")
    assert (priority(store, 2), rank_of(store, 2)) == (found, 1)


def test_an_order_that_comes_later_moves_its_study_up_and_down(store: Store, orders: Orders, intake: Intake) -> None:
    for number in (1, 2):
        intake.receive(received(number))
    assert take(orders, order(2, STAT)) is Effect.APPLIED
    assert (priority(store, 2), rank_of(store, 2)) == ("STAT", 1)
    assert take(orders, order(2, ROUTINE)) is Effect.APPLIED
    assert (priority(store, 2), rank_of(store, 2)) == ("ROUTINE", 2)
    assert [words for _, words in told(store, 2)] == [
        "ROUTINE to STAT by an order over HL7",
        "STAT to ROUTINE by an order over HL7",
    ]
    assert [(e.rank_from, e.rank_to) for e in History(store).of_study("1.2.2") if e.rank_to] == [(2, 1), (1, 2)]


def test_another_patient_under_the_same_accession_number_is_not_touched(
    store: Store, orders: Orders, intake: Intake
) -> None:
    take(orders, order(1, STAT, "P9"))
    intake.receive(received(1))
    intake.receive(received(2, accession_number="A1"))
    assert take(orders, order(1, URGENT, "P8")) is Effect.KEPT
    assert (priority(store, 1), priority(store, 2)) == ("ROUTINE", "ROUTINE")
    assert take(orders, order(1, URGENT, "P2")) is Effect.APPLIED
    assert (priority(store, 1), priority(store, 2)) == ("ROUTINE", "URGENT")


def test_of_two_orders_for_a_study_the_later_counts(store: Store, orders: Orders, intake: Intake) -> None:
    take(orders, order(1, STAT, "P1"))
    take(orders, order(1, URGENT))
    intake.receive(received(1))
    assert priority(store) == "URGENT"


def test_an_object_can_only_raise(store: Store, orders: Orders, intake: Intake) -> None:
    take(orders, order(1, ROUTINE), order(2, STAT))
    intake.receive(received(1, clinical_priority=URGENT))
    intake.receive(received(2, clinical_priority=URGENT))
    assert (priority(store, 1), priority(store, 2)) == ("URGENT", "STAT")
    take(orders, order(1, STAT))
    take(orders, order(1, ROUTINE))
    assert priority(store, 1) == "ROUTINE"
    intake.receive(received(3, study=1, accession_number="A1", patient_id="P1", clinical_priority=STAT))
    assert priority(store, 1) == "STAT"


def test_the_same_word_again_does_not_undo_what_was_said_since(store: Store, orders: Orders, intake: Intake) -> None:
    take(orders, order(1, ROUTINE))
    intake.receive(received(1))
    Reading(store).prioritise("1.2.1", STAT, "ann", "the page")
    assert take(orders, order(1, ROUTINE)) is Effect.NOTHING  # a change of status says the priority, too
    assert priority(store) == "STAT"
    take(orders, order(1, URGENT))
    assert priority(store) == "URGENT"


def test_a_message_that_comes_again_has_no_second_effect(store: Store, orders: Orders, intake: Intake) -> None:
    intake.receive(received(1))
    assert take(orders, order(1, STAT), sha256="f" * 64) is Effect.APPLIED
    take(orders, order(1, ROUTINE))
    assert take(orders, order(1, STAT), sha256="f" * 64) is Effect.REPEATED
    assert priority(store) == "ROUTINE"


def test_a_study_that_was_read_is_left_alone_until_images_reopen_it(
    store: Store, orders: Orders, intake: Intake
) -> None:
    intake.receive(received(1))
    Reading(store).close("1.2.1", "ann")
    assert take(orders, order(1, STAT)) is Effect.KEPT
    assert (priority(store), told(store)) == ("ROUTINE", [])
    assert intake.receive(received(2, study=1, accession_number="A1", patient_id="P1")).reopened
    assert (priority(store), rank_of(store, 1)) == ("STAT", 1)


def test_a_cancelled_order_is_not_waited_for_and_moves_nothing(store: Store, orders: Orders, intake: Intake) -> None:
    take(orders, order(1, STAT), order(2, STAT))
    intake.receive(received(1))
    assert take(orders, order(1, None, cancelled=True), order(2, None, "P2", cancelled=True)) is Effect.KEPT
    intake.receive(received(2))
    assert (priority(store, 1), priority(store, 2)) == ("STAT", "ROUTINE")
    assert {e.study_instance_uid for e in Reading(store).worklist()} == {"1.2.1", "1.2.2"}


def test_an_object_that_is_the_first_to_name_the_order_brings_it(store: Store, orders: Orders, intake: Intake) -> None:
    take(orders, order(1, STAT))
    intake.receive(received(1, accession_number=""))
    assert priority(store) == "ROUTINE"
    intake.receive(received(2, study=1, accession_number="A1", patient_id="P1"))
    assert priority(store) == "STAT"


def test_an_order_reaches_what_is_not_analysed_and_what_came_under_a_known_uid(
    store: Store, orders: Orders, intake: Intake
) -> None:
    take(orders, order(1, STAT), order(2, STAT))
    intake.receive(received(1, sop_class_uid=CR + ".9"))
    intake.receive(received(2, sop_instance_uid="1.2.3.1"))
    assert (priority(store, 1), priority(store, 2)) == ("STAT", "STAT")


@pytest.mark.fault(88)
def test_order_and_study_that_come_in_the_same_moment_find_each_other(
    store: Store, orders: Orders, intake: Intake
) -> None:
    for number in range(1, 61):
        together = threading.Barrier(2)

        def ordering(number: int = number, together: threading.Barrier = together) -> None:
            together.wait()
            take(orders, order(number, STAT, f"P{number}"))

        thread = threading.Thread(target=ordering)
        thread.start()
        together.wait()
        intake.receive(received(number))
        thread.join()
    assert {entry.clinical_priority for entry in Reading(store).worklist()} == {"STAT"}


def test_refused_messages_are_kept_whole_and_counted_and_taken_once_they_can_be(orders: Orders) -> None:
    message = Message(sha256="e" * 64, who="RIS", address="10.0.0.1")
    for _ in range(3):
        orders.refuse(message, "AE", "OBR-18: no accession number", b"MSH|\xff")
    orders.refuse(Message(sha256="d" * 64), "AR", "MSH: no message header", b"")
    first, second = orders.refused()
    assert (first.answer, second.times, second.content, second.problem) == (
        "AR",
        3,
        b"MSH|\xff",
        "OBR-18: no accession number",
    )
    assert "xff" not in repr(second)
    assert take(orders, order(), sha256="e" * 64) is Effect.KEPT
    assert orders.count_refused() == 1


def test_old_orders_and_messages_are_forgotten(store: Store, orders: Orders, intake: Intake) -> None:
    take(orders, order(1), order(2))
    orders.refuse(Message(sha256="e" * 64), "AE", "", b"x")
    with store.writing() as connection:
        for table in ("orders", "hl7_messages"):
            past = "now() - interval '91 days'" if store.backend == "postgresql" else "datetime('now', '-91 days')"
            connection.execute(text(f"UPDATE {table} SET at = {past}"))
    take(orders, order(2, URGENT))
    assert orders.tidy(90) == 3
    for number in (1, 2):
        intake.receive(received(number))
    assert (priority(store, 1), priority(store, 2), orders.count_refused()) == ("ROUTINE", "URGENT", 0)


# -- the modality worklist -----------------------------------------------------------------------------------------


def due_again(store: Store) -> None:
    with store.writing() as connection:
        connection.execute(text("UPDATE enquiries SET next_at = (SELECT min(received_at) FROM studies)"))


def test_the_modality_worklist_is_asked_only_where_nobody_has_spoken(
    store: Store, orders: Orders, intake: Intake
) -> None:
    take(orders, order(2, ROUTINE))
    intake.receive(received(1))
    intake.receive(received(2))  # its order says routine
    intake.receive(received(3, clinical_priority=URGENT))
    intake.receive(received(4, accession_number=""))
    intake.receive(received(5))
    Reading(store).close("1.2.5")
    intake.receive(received(6))
    for said in (STAT, ROUTINE):  # by people, who are not to be overruled by what was scheduled before
        Reading(store).prioritise("1.2.6", said, "ann", "the page")
    enquiries = Enquiries(store)
    assert [each.study_instance_uid for each in enquiries.claim(20)] == ["1.2.1"]
    assert enquiries.claim(20) == []  # for the one who asks alone


def test_what_it_says_raises_the_study_and_is_asked_no_more(store: Store, intake: Intake) -> None:
    intake.receive(received(1))
    enquiries = Enquiries(store)
    (study,) = enquiries.claim(20)
    assert enquiries.answer(study, STAT, Word(who="MWL", source="the modality worklist"))
    assert (priority(store), told(store)) == ("STAT", [("MWL", "ROUTINE to STAT by the modality worklist")])
    due_again(store)
    assert enquiries.claim(20) == []


def test_whoever_speaks_while_it_is_asked_has_the_last_word(store: Store, orders: Orders, intake: Intake) -> None:
    intake.receive(received(1))
    enquiries = Enquiries(store)
    (study,) = enquiries.claim(20)
    take(orders, order(1, ROUTINE))
    assert not enquiries.answer(study, STAT, Word(who="MWL", source="the modality worklist"))
    assert priority(store) == "ROUTINE"


def test_a_study_of_which_it_knows_nothing_is_asked_for_a_few_times_and_never_while_it_is_away(
    store: Store, intake: Intake
) -> None:
    intake.receive(received(1))
    enquiries = Enquiries(store)
    for _ in range(10):
        enquiries.put_back(enquiries.claim(20))
    for _ in range(ASKED_MAX):
        (study,) = enquiries.claim(20)
        enquiries.answer(study, None, Word(who="MWL", source=""))
        assert enquiries.claim(20) == []
        due_again(store)
    assert enquiries.claim(20) == []
