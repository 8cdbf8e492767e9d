"""What an HL7 message says of the urgency of an order, and what is answered."""

from __future__ import annotations

import pytest
from hl7apy.parser import parse_message
from hypothesis import given
from hypothesis import strategies as st

import hl7_orders
from daemon.orders.answer import acknowledge
from daemon.orders.header import RefusalError, digest, read_header
from daemon.orders.message import orders_in
from daemon.settings import Settings
from triage.order import Order
from triage.study import ClinicalPriority

FIELDS = Settings.model_fields["hl7_accession_fields"].default
STAT, URGENT, ROUTINE = ClinicalPriority.STAT, ClinicalPriority.URGENT, ClinicalPriority.ROUTINE


def read(message: str | bytes, encoding: str = "utf-8") -> list[Order]:
    content = message.encode(encoding) if isinstance(message, str) else message
    return orders_in(read_header(content), FIELDS)


def refusal(message: str | bytes) -> RefusalError:
    with pytest.raises(RefusalError) as caught:
        read(message)
    return caught.value


def lines(*segments: str, kind: str = "ORM^O01") -> str:
    return "\r".join((hl7_orders.msh(kind), *segments)) + "\r"


def test_an_order_of_ihe_scheduled_workflow_says_number_patient_and_priority() -> None:
    (found,) = read(hl7_orders.order("A1", "S", patient_id="P1"))
    assert (found.accession_number, found.patient_id, found.clinical_priority) == ("A1", "P1", STAT)


def test_an_imaging_order_has_an_order_for_each_accession_number_of_its_steps() -> None:
    found = read(hl7_orders.imaging_order(["A1", "A2", "A1"], "A", patient_id="P1"))
    assert [(each.accession_number, each.patient_id, each.clinical_priority) for each in found] == [
        ("A1", "P1", URGENT),
        ("A2", "P1", URGENT),
    ]


@pytest.mark.parametrize(
    ("code", "priority"),
    [
        ("S", STAT),
        ("STAT", STAT),
        ("A", URGENT),
        ("P", URGENT),
        ("T", URGENT),
        ("R", ROUTINE),
        ("C", ROUTINE),
        ("", None),
    ],
)
def test_the_codes_of_table_0485_are_understood(code: str, priority: ClinicalPriority | None) -> None:
    assert [each.clinical_priority for each in read(hl7_orders.order("A1", code))] == [priority]


@pytest.mark.parametrize(
    ("obr", "number"),
    [
        ("OBR|1|PL2|FL2|X||||||||||||||A18", "A18"),
        ("OBR|1|PL2|FL2^NORTH|X", "FL2"),
        ("OBR|1|PL2||X", "FL1"),
        ('OBR|1|PL2|""|X||||||||||||||""', "FL1"),
    ],
)
def test_the_accession_number_is_the_first_in_the_order_of_the_setting(obr: str, number: str) -> None:
    assert [each.accession_number for each in read(lines("ORC|NW|PL1|FL1||||^^^^^S", obr))] == [number]


def test_the_most_urgent_that_is_stated_anywhere_counts() -> None:
    assert [o.clinical_priority for o in read(lines("ORC|NW|P|A1||||^^^^^R~^^^^^A", "OBR|1|||X|S"))] == [STAT]
    assert [o.clinical_priority for o in read(lines("ORC|NW|P|A1||||^^^^^R", "OBR|1|||X" + "|" * 23 + "^^^^^A"))] == [
        URGENT
    ]


@pytest.mark.parametrize("control", ["CA", "DC", "OC"])
def test_a_cancelled_order_says_so_and_no_priority(control: str) -> None:
    (found,) = read(hl7_orders.order("A1", "S", control=control))
    assert (found.cancelled, found.clinical_priority) == (True, None)


def test_a_change_of_status_to_cancelled_cancels_and_one_to_in_progress_does_not() -> None:
    assert [o.cancelled for o in read(lines("ORC|SC|P|A1||CA||^^^^^S", "OBR|1"))] == [True]
    assert [(o.cancelled, o.clinical_priority) for o in read(lines("ORC|SC|P|A1||IP||^^^^^S", "OBR|1"))] == [
        (False, STAT)
    ]


def test_several_orders_in_a_message_keep_their_own_priorities() -> None:
    said = read(lines("ORC|NW|P|A1||||^^^^^S", "OBR|1", "ORC|NW|P|A2||||^^^^^R", "OBR|1", "ORC|UA|P|A3", "OBR|1"))
    assert [(o.accession_number, o.clinical_priority) for o in said] == [("A1", STAT), ("A2", ROUTINE)]


def test_escapes_are_undone_and_other_separators_understood() -> None:
    said = read("MSH$%~\\&$RIS$N$T$X$2026$$ORM%O01$M1$P$2.3.1\rORC$NW$P$A\\F\\1$$$$%%%%%S\rOBR$1\r")
    assert [(o.accession_number, o.clinical_priority) for o in said] == [("A$1", STAT)]
    assert [o.accession_number for o in read(lines(r"ORC|NW|P|A\T\1\X2D\2||||^^^^^S"))] == ["A&1-2"]


@pytest.mark.parametrize(
    ("charset", "encoding", "name"),
    [
        ("8859/1", "latin_1", "Müller^Jörg"),
        ("UNICODE UTF-8", "utf-8", "Ångström"),
        ("8859/5", "iso8859_5", "Иванов"),
        ("GB 18030-2000", "gb18030", "王小东"),
        ("~ISO IR87", "iso2022_jp", "山田^太郎"),
        ("ISO IR14", "shift_jis", "ソー^表"),  # with bytes of | and \ in them
        ("BIG-5", "big5", "許功蓋"),
        ("", "latin_1", "Müller"),
        ("UNICODE UTF-8", "latin_1", "Müller"),  # says one thing and sends another
    ],
)
def test_a_name_in_any_character_set_costs_no_order(charset: str, encoding: str, name: str) -> None:
    said = read(hl7_orders.order("A1", "S", patient_id="P1", charset=charset, name=name), encoding)
    assert [(o.accession_number, o.patient_id, o.clinical_priority) for o in said] == [("A1", "P1", STAT)]


@pytest.mark.parametrize(
    ("message", "answer", "code", "where"),
    [
        ("", "AR", 100, "MSH"),
        ("HELLO|WORLD", "AR", 100, "MSH"),
        ("MSH||||||||", "AR", 102, "MSH-2"),
        ("MSH|^^^^|RIS", "AR", 102, "MSH-2"),
        (hl7_orders.msh("ADT^A01") + "\rPID|1", "AR", 200, "MSH-9"),
        (hl7_orders.msh("ORM^O02") + "\rPID|1", "AR", 201, "MSH-9"),
        (hl7_orders.order("A1").replace("|P|2.3.1", "|T|2.3.1"), "AR", 202, "MSH-11"),
        (hl7_orders.order("A1").replace("|P|2.3.1", "|P|3.0"), "AR", 203, "MSH-12"),
        (hl7_orders.order("A1", control_id=""), "AE", 101, "MSH-10"),
        (lines("PID|||P1"), "AE", 100, "ORC"),
        (lines("OBR|1||A1", "ORC|NW"), "AE", 100, "OBR"),
        (lines("PID|||P1", "PID|||P2", "ORC|NW||A1"), "AE", 100, "PID"),
        (lines("ORC||P|A1||||^^^^^S"), "AE", 101, "ORC-1"),
        (lines("ORC|ZZ|P|A1||||^^^^^S"), "AE", 103, "ORC-1"),
        (lines("ORC|NW||||||^^^^^S", "OBR|1"), "AE", 101, "OBR-18"),
        (lines("ORC|NW||A1||||^^^^^WHENEVER"), "AE", 103, "ORC-7"),
        (lines("ORC|NW||" + "A" * 65 + "||||^^^^^S"), "AE", 102, "ORC-3"),
        (lines(r"ORC|NW||A\.sp99999999999\1||||^^^^^S"), "AE", 102, "ORC-3"),
        (lines(r"ORC|NW||A\1||||^^^^^S"), "AE", 102, "ORC-3"),
        (lines("ORC|NW||" + "A~" * 40_000), "AE", 207, "MSH"),
        (
            lines("PID|||P\xff1", "ORC|NW||A1||||^^^^^S").replace("2.3.1", "2.3.1||||||ASCII").encode("latin_1"),
            "AE",
            102,
            "PID-3",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place(
    message: str | bytes, answer: str, code: int, where: str
) -> None:
    found = refusal(message)
    assert (found.answer, found.code, found.where) == (answer, code, where)


def answered(message: bytes) -> bytes:
    header = refused = None
    try:
        header = read_header(message)
        orders_in(header, FIELDS)
    except RefusalError as error:
        refused = error
    return acknowledge(header, refused)


@given(st.binary(max_size=300) | st.text(alphabet="MSHORCBPIDTQ|^~\\&\r1A.X", max_size=200).map(str.encode))
def test_whatever_the_bytes_are_there_is_an_order_or_a_refusal(content: bytes) -> None:
    for message in (content, hl7_orders.order("A1").encode() + content, content + hl7_orders.order("A1").encode()):
        assert answered(message).startswith(b"MSH")


@pytest.mark.parametrize("version", ["2.3.1", "2.4", "2.5", "2.5.1"])
@pytest.mark.parametrize("refused", [None, RefusalError("AE", 101, "OBR-18", "no accession number")])
def test_another_library_reads_the_answer(version: str, refused: RefusalError | None) -> None:
    header = read_header(hl7_orders.order("A1", control_id="M7").replace("2.3.1", version).encode())
    answer = parse_message(acknowledge(header, refused).decode())
    assert answer.msa.msa_1.value == ("AE" if refused else "AA")
    assert answer.msa.msa_2.value == "M7"
    assert (answer.msh.msh_5.value, answer.msh.msh_6.value, answer.msh.msh_3.value) == ("RIS", "NORTH", "TRIAGE")
    assert answer.msh.msh_12.value == version
    if refused:
        assert "101" in answer.err.value
        assert "OBR^1^18" in answer.err.value


def test_a_sender_that_asks_for_a_commit_acknowledgement_gets_one() -> None:
    message = hl7_orders.order("A1").replace("|P|2.3.1", "|P|2.3.1|||AL|NE")
    assert hl7_orders.code(acknowledge(read_header(message.encode())).decode()) == "CA"


def test_a_message_sent_again_is_known_by_all_but_the_time_it_was_sent() -> None:
    first = hl7_orders.order("A1", control_id="M1")
    again, other = first.replace("20260105080000", "20260105080100"), first.replace("^^^^^S", "^^^^^R")
    digests = [digest(read_header(each.encode()), each.encode()) for each in (first, again, other)]
    assert digests[0] == digests[1] != digests[2]
