"""Reading a header never fails, and keeps what can be read."""

from __future__ import annotations

import io
import pickle
import warnings
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sr import codes
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from triage.errors import NotAnalysed, Reason
from triage.study import ClinicalPriority
from triage.vision.header import HEADER_TAGS, parse_header, read_header

AGES = [
    ("003Y", 3.0),
    ("018M", 1.5),
    ("052W", pytest.approx(52 * 7 / 365.25)),
    ("010D", pytest.approx(10 / 365.25)),
    ("3Y", 3.0),
    ("003y", 3.0),
    ("012M", 1.0),
    ("999Y", None),
    ("Y", None),
    ("-03Y", None),
    ("003", None),
    ("003Y\\004Y", None),
    ("٣Y", None),
    ("", None),
]


ITEM = b"\xfe\xff\x00\xe0"
# Of PS3.16 CID 4010 and 4009, as designator and value.
VIEWS = [
    ("SCT", "399348003", "AP"),
    ("SRT", "R-10206", "AP"),
    ("SCT", "272479007", "PA"),
    ("SRT", "R-10214", "PA"),
    ("SNM3", "R-10214", "PA"),
    ("99SDM", "R-40888", "PA"),
    ("SCT ", "399348003\0", "AP"),
    (" srt", "r-10206 ", "AP"),
    ("SCT", "399067008", "SCT:399067008"),  # lateral
    ("SRT", "R-10236", "SRT:R-10236"),  # left lateral
    ("SCT", "399312000", "SCT:399312000"),  # antero-posterior oblique
    ("99LOCAL", "AP", "99LOCAL:AP"),
    ("SCT", "R-10206", "SCT:R-10206"),
    ("", "399348003", ":399348003"),
    ("SCT", "399033003", ""),  # frontal: AP or PA is not said
    ("SRT", "R-10202", ""),
    ("SCT", "", ""),
]
BODY_PARTS = [
    ("SCT", "816094009", "CHEST"),
    ("SCT", "51185008", "CHEST"),
    ("SRT", "T-D3000", "CHEST"),
    ("SNM3 ", "T-D3000 ", "CHEST"),
    ("SCT", "818981001", "SCT:818981001"),  # abdomen
    ("SCT", "416550000", "SCT:416550000"),  # chest and abdomen
    ("99LOCAL", "CHEST", "99LOCAL:CHEST"),
    ("", "", ""),
]


def raw(keyword: str, value: bytes, vr: str | None = "LO") -> Dataset:
    dataset = Dataset()
    put(dataset, keyword, value, vr)
    return dataset


def put(dataset: Dataset, keyword: str, value: bytes, vr: str | None = "LO") -> None:
    dataset[Tag(keyword)] = element(Tag(keyword), vr, value)


def coded(scheme: str, value: str, keyword: str = "CodeValue") -> Dataset:
    """Item of a code sequence (PS3.3 8.8)."""
    item = raw("CodingSchemeDesignator", scheme.encode(), "SH")
    put(item, keyword, value.encode(), "SH")
    return item


def element(tag: int, vr: str | None, value: bytes | None) -> RawDataElement:
    """As it comes from a file: bytes, not yet understood."""
    return RawDataElement(Tag(tag), vr, len(value or b""), value, 0, is_implicit_VR=vr is None, is_little_endian=True)


def part10(dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file = io.BytesIO()
    dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


@pytest.mark.parametrize(("text", "years"), AGES)
def test_patient_age_is_read_in_its_unit(text: str, years: float | None) -> None:
    assert read_header(raw("PatientAge", text.encode(), "AS")).age_years == years


def test_age_comes_from_the_birth_date_where_it_is_not_stated() -> None:
    dataset = raw("PatientBirthDate", b"20200229", "DA")
    put(dataset, "StudyDate", b"20230301", "DA")
    assert read_header(dataset).age_years == pytest.approx(3.0, abs=0.01)


@pytest.mark.fault(48)
def test_age_uses_the_first_date_that_can_be_read() -> None:
    dataset = raw("PatientBirthDate", b"2020.02.29", "DA")
    put(dataset, "StudyDate", b"20239999", "DA")
    put(dataset, "ContentDate", b"20220301", "DA")
    assert read_header(dataset).age_years == pytest.approx(2.0, abs=0.01)


def test_born_after_the_study_is_no_age() -> None:
    dataset = raw("PatientBirthDate", b"20240101", "DA")
    put(dataset, "StudyDate", b"20230301", "DA")
    assert read_header(dataset).age_years is None


@pytest.mark.parametrize(
    ("stated", "priority"),
    [
        ("STAT", ClinicalPriority.STAT),
        ("HIGH", ClinicalPriority.URGENT),
        ("ROUTINE", ClinicalPriority.ROUTINE),
        ("MEDIUM", ClinicalPriority.ROUTINE),
        ("LOW", ClinicalPriority.ROUTINE),
        ("stat ", ClinicalPriority.STAT),
        ("whatever", ClinicalPriority.ROUTINE),
    ],
)
def test_clinical_priority_is_that_of_the_order(stated: str, priority: ClinicalPriority) -> None:
    assert read_header(raw("RequestedProcedurePriority", stated.encode())).clinical_priority is priority


def test_clinical_priority_is_found_in_the_request_and_in_the_retired_element() -> None:
    step = raw("RequestedProcedurePriority", b"STAT")
    dataset = raw("StudyPriorityID", b"HIGH")
    assert read_header(dataset).clinical_priority is ClinicalPriority.URGENT
    dataset.RequestAttributesSequence = [Dataset(), step]
    assert read_header(dataset).clinical_priority is ClinicalPriority.STAT


@pytest.mark.fault(37)
@pytest.mark.parametrize(
    ("charset", "value", "text"),
    [
        (b"ISO_IR 100", b"M\xfcller^Eva", "Müller^Eva"),
        (b"ISO_IR 192", "Müller^Eva".encode(), "Müller^Eva"),
        (b"\\ISO 2022 IR 87", b"Yamada=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "Yamada=山田^太郎"),
        (b"GB18030", "王^小东".encode("gb18030"), "王^小东"),
        (b"", b"plain^text", "plain^text"),
        (b"NO SUCH SET", b"plain^text", "plain^text"),
        (b"ISO_IR 192", b"M\xfcller", "M\ufffdller"),
    ],
)
def test_names_are_decoded_by_their_character_set(charset: bytes, value: bytes, text: str) -> None:
    dataset = raw("SpecificCharacterSet", charset, "CS")
    put(dataset, "PatientName", value, "PN")
    assert read_header(dataset).patient_name == text


@pytest.mark.fault(38)
def test_control_and_direction_characters_are_taken_out() -> None:
    dataset = raw("SpecificCharacterSet", b"ISO_IR 192", "CS")
    put(dataset, "PatientID", "a\x00b\r\nc\x1b[31md\u202ee\u200bf ".encode())
    assert not {"\x00", "\r", "\n", "\x1b", "\u202e", "\u200b"} & set(read_header(dataset).patient_id)


@pytest.mark.fault(31)
def test_a_uid_too_long_is_still_seen_to_be_too_long() -> None:
    header = read_header(raw("StudyInstanceUID", b"1." + b"2" * 70, "UI"))
    assert len(header.study_instance_uid) == 72
    assert len(read_header(raw("StudyInstanceUID", b"1" * 10**6, "UI")).study_instance_uid) == 256


@pytest.mark.fault(31)
def test_uids_lose_their_padding() -> None:
    assert read_header(raw("StudyInstanceUID", b"1.2.3\0", "UI")).study_instance_uid == "1.2.3"


def test_code_strings_come_in_upper_case_and_several_views_stay_several() -> None:
    dataset = raw("BodyPartExamined", b"chest ", "CS")
    put(dataset, "ViewPosition", b"PA\\LL", "CS")
    header = read_header(dataset)
    assert (header.body_part_examined, header.view_position) == ("CHEST", "PA\\LL")


@pytest.mark.parametrize(("scheme", "value", "view"), VIEWS)
def test_the_projection_may_be_stated_as_a_code_alone(scheme: str, value: str, view: str) -> None:
    dataset = raw("ViewPosition", b"", "CS")
    dataset.ViewCodeSequence = [coded(scheme, value)]
    assert read_header(dataset).view_position == view


@pytest.mark.parametrize(("scheme", "value", "body_part"), BODY_PARTS)
def test_the_body_part_may_be_stated_as_a_code_alone(scheme: str, value: str, body_part: str) -> None:
    dataset = Dataset()
    dataset.AnatomicRegionSequence = [coded(scheme, value)]
    assert read_header(dataset).body_part_examined == body_part


def test_the_known_codes_are_those_of_the_context_groups() -> None:
    dataset = Dataset()
    dataset.ViewCodeSequence = [coded("SCT", codes.cid4010.AnteroPosterior.value)]
    dataset.AnatomicRegionSequence = [coded("SCT", codes.cid4009.Chest.value)]
    assert (read_header(dataset).view_position, read_header(dataset).body_part_examined) == ("AP", "CHEST")
    dataset.ViewCodeSequence = [coded("SCT", codes.cid4010.PosteroAnterior.value)]
    dataset.AnatomicRegionSequence = [coded("SCT", codes.cid4.Thorax.value)]
    assert (read_header(dataset).view_position, read_header(dataset).body_part_examined) == ("PA", "CHEST")


def test_what_is_stated_plainly_goes_before_its_code() -> None:
    dataset = raw("ViewPosition", b"LL", "CS")
    put(dataset, "BodyPartExamined", b"HAND", "CS")
    dataset.ViewCodeSequence = [coded("SCT", "399348003")]
    dataset.AnatomicRegionSequence = [coded("SCT", "816094009")]
    header = read_header(dataset)
    assert (header.view_position, header.body_part_examined) == ("LL", "HAND")


@pytest.mark.parametrize("keyword", ["LongCodeValue", "URNCodeValue", "CodeMeaning"])
def test_a_code_without_a_short_value_is_seen_too(keyword: str) -> None:
    dataset = Dataset()
    dataset.ViewCodeSequence = [coded("99LOCAL", "lateral", keyword)]
    assert read_header(dataset).view_position == "99LOCAL:LATERAL"


def test_several_codes_stay_several_and_equal_ones_are_one() -> None:
    chest = coded("SCT", "816094009")
    dataset = Dataset()
    dataset.AnatomicRegionSequence = [chest, Dataset(), coded("SRT", "T-D3000")]
    assert read_header(dataset).body_part_examined == "CHEST"
    dataset.AnatomicRegionSequence = [chest, coded("SCT", "818981001")]
    assert read_header(dataset).body_part_examined == "CHEST\\SCT:818981001"
    dataset.AnatomicRegionSequence = [coded("99LOCAL", f"{number}" * 16) for number in range(99)]
    assert len(read_header(dataset).body_part_examined) == 64


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("has_length", [True, False])
def test_codes_are_read_from_a_file(syntax: str, has_length: bool) -> None:  # noqa: FBT001 - a table
    dataset = Dataset()
    dataset.ViewCodeSequence = [coded("SCT", "399348003")]
    dataset["ViewCodeSequence"].is_undefined_length = not has_length
    assert parse_header(part10(dataset, syntax)).view_position == "AP"


@pytest.mark.parametrize("vr", ["SQ", "UN", None])
@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\0",
        ITEM,
        ITEM + b"\xff\xff\xff\x7f",
        ITEM + b"\0\0\0\0",
        b"\xff" * 80,
        b"399348003 ",
        (ITEM + b"\xff\xff\xff\xff\x54\0\x20\x02SQ\0\0\xff\xff\xff\xff") * 10_000,
    ],
    ids=lambda value: value[:12].hex(),
)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_a_malformed_code_sequence_states_nothing(value: bytes, vr: str | None) -> None:
    assert read_header(raw("ViewCodeSequence", value, vr)).view_position == ""


@pytest.mark.parametrize("vr", ["LO", "SH", "OB", "UI", "DS"])
def test_a_code_sequence_of_another_vr_is_not_looked_at(vr: str) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert read_header(raw("ViewCodeSequence", b"Kanarienvogel^Zwitschi", vr)).view_position == ""
    assert not told


def test_an_empty_code_sequence_states_nothing() -> None:
    dataset = Dataset()
    dataset.ViewCodeSequence, dataset.AnatomicRegionSequence = [], [Dataset()]
    header = read_header(dataset)
    assert (header.view_position, header.body_part_examined) == ("", "")


def test_an_empty_data_set_has_an_empty_header() -> None:
    header = read_header(Dataset(), transfer_syntax_uid="1.2.840.10008.1.2.1")
    assert (header.study_instance_uid, header.age_years) == ("", None)
    assert header.transfer_syntax_uid == "1.2.840.10008.1.2.1"
    assert pickle.loads(pickle.dumps(header)) == header


def test_no_patient_data_is_in_the_repr() -> None:
    dataset = Dataset()
    for tag in HEADER_TAGS:
        dataset[tag] = element(tag, "LO", f"CANARY{tag:08x}".encode())
    shown = repr(read_header(dataset))
    hidden = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyDescription")
    assert f"CANARY{Tag('Modality'):08X}" in shown
    assert not [
        keyword for keyword in hidden if f"CANARY{Tag(keyword):08x}" in shown.lower().replace("canary", "CANARY")
    ]


@pytest.mark.fault(37, 38, 40, 48)
@given(
    st.sampled_from(HEADER_TAGS),
    st.one_of(st.binary(max_size=80), st.none()),
    st.sampled_from(["PN", "LO", "SQ", "UI", "DA", "AS", "US", "FD", "OB", None]),
    st.binary(max_size=20),
)
def test_no_value_makes_it_raise(tag: int, value: bytes | None, vr: str | None, charset: bytes) -> None:
    dataset = raw("SpecificCharacterSet", charset, "CS")
    dataset[tag] = element(tag, vr, value)
    read_header(dataset)


def test_a_file_is_read_without_its_pixels() -> None:
    dataset = raw("StudyInstanceUID", b"1.2.3", "UI")
    dataset.add_new("PixelData", "OW", b"\0" * 10)
    content = part10(dataset)
    header = parse_header(content[:-8])
    assert header.study_instance_uid == "1.2.3"
    assert header.transfer_syntax_uid == ExplicitVRLittleEndian


@pytest.mark.fault(42)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_deep_nesting_is_a_decode_error() -> None:
    start = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    content = part10(Dataset()) + start * 100_000
    with pytest.raises(NotAnalysed) as refusal:
        parse_header(content)
    assert refusal.value.reason is Reason.DECODE_ERROR


@pytest.mark.fault(69)
def test_deflated_is_not_inflated() -> None:
    content = part10(raw("StudyInstanceUID", b"1.2.3", "UI"), DeflatedExplicitVRLittleEndian)
    with pytest.raises(NotAnalysed) as refusal:
        parse_header(content)
    assert refusal.value.reason is Reason.UNSUPPORTED_SYNTAX


@pytest.mark.parametrize("content", [b"", b"DICM", b"\0" * 200])
def test_what_is_no_dicom_file_is_a_decode_error(content: bytes) -> None:
    with pytest.raises(NotAnalysed) as refusal:
        parse_header(content)
    assert refusal.value.reason is Reason.DECODE_ERROR


@pytest.mark.fault(43, 47)
@given(st.binary(max_size=200))
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_any_bytes_end_in_a_header_or_a_reason(content: bytes) -> None:
    for start in (b"", b"\0" * 128 + b"DICM", part10(Dataset())):
        with suppress(NotAnalysed):
            parse_header(start + content)
