"""Command sets as pynetdicom writes them are read, and ours are what it reads; anything else is refused."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pynetdicom import dsutils

from daemon.dicom.command import C_ECHO_RQ, C_STORE_RQ, Command, answer, parse_command

CR = "1.2.840.10008.5.1.4.1.1.1"


def command_set(**elements: object) -> bytes:
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    encoded = dsutils.encode(made, is_implicit_vr=True, is_little_endian=True)
    assert encoded is not None
    return encoded


def store_rq(**changes: object) -> bytes:
    usual: dict[str, object] = {
        "AffectedSOPClassUID": CR, "CommandField": 1, "MessageID": 7, "Priority": 0, "CommandDataSetType": 1,
        "AffectedSOPInstanceUID": "1.2.3",
    }  # fmt: skip
    return command_set(**{name: value for name, value in (usual | changes).items() if value is not None})


def test_a_request_is_read() -> None:
    assert parse_command(store_rq(MoveOriginatorMessageID=1)) == Command(
        kind=C_STORE_RQ, message_id=7, has_data_set=True, sop_class_uid=CR, sop_instance_uid="1.2.3"
    )
    echo = parse_command(store_rq(CommandField=C_ECHO_RQ, CommandDataSetType=0x0101, AffectedSOPInstanceUID=None))
    assert (echo.kind, echo.has_data_set, echo.sop_instance_uid) == (C_ECHO_RQ, False, "")


@pytest.mark.parametrize("missing", ["CommandField", "MessageID", "CommandDataSetType"])
def test_a_request_that_lacks_what_every_one_has_is_none(missing: str) -> None:
    with pytest.raises(ValueError, match="missing"):
        parse_command(store_rq(**{missing: None}))


@pytest.mark.fault(9)
@given(st.binary(max_size=200) | st.integers(0, 100).map(lambda cut: store_rq()[:cut]))
def test_whatever_bytes_there_are_it_is_a_command_or_a_value_error(encoded: bytes) -> None:
    try:
        parse_command(encoded)
    except ValueError:
        return
    assert len(encoded) >= 30


@pytest.mark.parametrize("uid", ["1.2.3", "1.2.34", ""])
def test_an_answer_is_what_pynetdicom_reads(uid: str) -> None:
    request = Command(kind=C_STORE_RQ, message_id=9, has_data_set=True, sop_class_uid=CR, sop_instance_uid=uid)
    encoded = answer(request, 0xA700)
    read = dsutils.decode(io.BytesIO(encoded), is_implicit_vr=True, is_little_endian=True)
    assert read.CommandGroupLength == len(encoded) - 12
    assert (read.CommandField, read.MessageIDBeingRespondedTo, read.Status) == (0x8001, 9, 0xA700)
    assert (read.CommandDataSetType, read.AffectedSOPClassUID) == (0x0101, CR)
    assert read.get("AffectedSOPInstanceUID", "") == uid
