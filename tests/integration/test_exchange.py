"""Questions beside C-STORE on one association: replies in order, cancelled when asked to, never at the cost of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from listening import CR, USUAL, instance, listening
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association

from daemon.dicom.command import C_FIND_RQ, N_ACTION_RQ, N_GET_RQ
from daemon.dicom.exchange import PENDING, Question, Reply

STUDY_ROOT = "1.2.840.10008.5.1.4.1.2.2.1"
PULL = "1.2.840.10008.5.1.4.34.6.3"
PUSH = "1.2.840.10008.5.1.4.34.6.1"
BOTH = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
MIXED = (*USUAL, (STUDY_ROOT, BOTH), (PULL, BOTH))


def question(**keys: str) -> Dataset:
    made = Dataset()
    for keyword, value in keys.items():
        setattr(made, keyword, value)
    return made


def found(asked: Question) -> Iterator[Reply]:
    """As many as are asked for, the patient's identifier repeated."""
    for number in range(int(asked.data_set.get("InstanceNumber", "3"))):
        reply = Dataset()
        reply.PatientID = asked.data_set.PatientID
        reply.InstanceNumber = str(number)
        reply.PatientComments = "x" * 3000
        yield Reply(status=PENDING, data_set=reply)
    yield Reply(status=0)


def find(association: Association, **keys: str) -> tuple[list[int], list[Dataset]]:
    answers = list(association.send_c_find(question(**keys), STUDY_ROOT))
    return [status.Status for status, _ in answers], [each for _, each in answers if each is not None]


HANDLERS = {(STUDY_ROOT, C_FIND_RQ): found}


def test_films_and_questions_go_over_one_association() -> None:
    with listening(handlers=HANDLERS) as site, site.associate(*MIXED) as association:
        assert association.send_c_store(instance()).Status == 0
        statuses, replies = find(association, PatientID="P1")
        assert association.send_c_store(instance("1.2.3.4.6")).Status == 0
        assert association.send_c_echo().Status == 0
    assert statuses == [PENDING] * 3 + [0]
    assert [(each.PatientID, each.InstanceNumber) for each in replies] == [("P1", "0"), ("P1", "1"), ("P1", "2")]
    assert [end.stored for end in site.ends] == [2]
    assert [end.questions for end in site.ends] == [{0: 1}]


def test_a_reply_fits_the_pdus_that_the_peer_takes() -> None:
    with listening(handlers=HANDLERS) as site, site.associate(*MIXED, max_pdu=1024) as association:
        assert len(find(association, PatientID="P1")[1]) == 3


def test_what_is_not_offered_is_not_accepted() -> None:
    with listening() as site, site.associate(*MIXED) as association:
        assert {cx.abstract_syntax for cx in association.accepted_contexts} == {uid for uid, _ in USUAL}


@pytest.mark.fault(9)
def test_an_operation_that_nobody_answers_is_said_to_be_unknown() -> None:
    with listening(handlers=HANDLERS) as site, site.associate(*MIXED) as association:
        status, _ = association.send_n_get([], STUDY_ROOT, "1.2.3")
        assert (status.Status, association.send_c_echo().Status) == (0x0211, 0)


def test_a_question_is_cancelled() -> None:
    going_on = threading.Event()

    def endless(asked: Question) -> Iterator[Reply]:
        yield from [Reply(status=PENDING, data_set=asked.data_set)] * 2
        going_on.wait(10)
        while True:
            yield Reply(status=PENDING, data_set=asked.data_set)

    with listening(handlers={(STUDY_ROOT, C_FIND_RQ): endless}) as site, site.associate(*MIXED) as association:
        statuses = []
        for status, _ in association.send_c_find(question(PatientID="P1"), STUDY_ROOT, msg_id=7):
            statuses.append(status.Status)
            if len(statuses) == 2:
                association.send_c_cancel(7, None, STUDY_ROOT)
                going_on.set()
        assert (statuses[:2], statuses[-1]) == ([PENDING, PENDING], 0xFE00)
        assert association.send_c_echo().Status == 0


def test_a_handler_that_fails_costs_its_question_only() -> None:
    def fails(asked: Question) -> Iterator[Reply]:
        yield Reply(status=PENDING, data_set=asked.data_set)
        raise KeyError

    handlers = {(STUDY_ROOT, C_FIND_RQ): fails, (PULL, N_GET_RQ): fails}
    with listening(handlers=handlers) as site, site.associate(*MIXED) as association:
        assert find(association, PatientID="P1")[0] == [PENDING, 0xC000]
        assert association.send_c_store(instance()).Status == 0


def test_data_sets_that_are_too_large_or_too_deep_get_a_status() -> None:
    deep = bytes.fromhex("FEFF00E0FFFFFFFF 40007502FFFFFFFF".replace(" ", "")) * 8000
    asked: list[Question] = []

    def keep(question: Question) -> Iterator[Reply]:
        asked.append(question)
        yield Reply(status=0 if question.data_set else 0x0106)

    with listening(handlers={(PULL, N_ACTION_RQ): keep}) as site, site.associate(*MIXED) as association:
        large = question(PatientComments="x" * 300_000)
        assert association.send_n_action(large, 1, PUSH, "1.2.3", meta_uid=PULL)[0].Status == 0x0213
        assert not asked
        small = question(PatientID="P1")
        assert association.send_n_action(small, 1, PUSH, "1.2.3", meta_uid=PULL)[0].Status == 0
        assert (asked[0].action, asked[0].sop_class_uid, asked[0].sop_instance_uid) == (1, PUSH, "1.2.3")
        nested = Dataset()
        nested.add_new(0x00400275, "OB", deep)
        assert association.send_n_action(nested, 1, PUSH, "1.2.3", meta_uid=PULL)[0].Status in {0, 0x0110}
        assert association.send_c_echo().Status == 0


def test_films_are_not_taken_where_questions_were_agreed_on() -> None:
    with listening(handlers=HANDLERS) as site, site.associate(*MIXED) as association:
        film = instance(sop_class=STUDY_ROOT)
        assert association.send_c_store(film).Status == 0x0211
        assert association.send_c_store(instance(sop_class=CR)).Status == 0
