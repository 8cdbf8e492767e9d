"""What a data set says of itself: total, whatever the values are, and silent about them.

Raw bytes are decoded here rather than through pydicom's elements: those warn with the value in the text.
"""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path

from pydicom import Dataset
from pydicom.charset import STAND_ALONE_ENCODINGS, decode_bytes, python_encoding
from pydicom.datadict import dictionary_VR
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import ImplicitVRLittleEndian

from triage.order import RAISING
from triage.study import ClinicalPriority, Header
from triage.vision.part10 import read_beginning, read_part10

# Characters kept of a value. Identifiers are cut far beyond what the standard allows (UI and LO: 64), so that
# a value too long is still seen to be too long, and two long ones rarely become one.
IDENTIFIER_CHARACTERS = 256
TEXT_CHARACTERS = 256
CODE_CHARACTERS = 64

_KEYWORDS = (
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyDate",
    "AcquisitionDate",
    "ContentDate",
    "AccessionNumber",
    "Modality",
    "StudyDescription",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "BodyPartExamined",
    "AnatomicRegionSequence",
    "ViewPosition",
    "ViewCodeSequence",
    "PresentationIntentType",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "StudyPriorityID",  # (0032,000C), retired
    "RequestAttributesSequence",
    "RequestedProcedurePriority",
)
# Float, Double Float and Pixel Data: what dcmread takes for the end of the header.
_PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
HEADER_TAGS: list[BaseTag | int] = [Tag(keyword) for keyword in _KEYWORDS]
_TAG_OF = dict(zip(_KEYWORDS, HEADER_TAGS, strict=True))

# SNOMED CT, and the SNOMED RT that it replaced, under each of its designators (PS3.16 8).
_SCHEMES = {"SCT": "SCT", "SRT": "SRT", "SNM3": "SRT", "99SDM": "SRT"}
# PS3.16 CID 4010, DX View. "Frontal" leaves unsaid which of both it is.
_VIEWS = {
    "SCT:399348003": "AP",
    "SRT:R-10206": "AP",
    "SCT:272479007": "PA",
    "SRT:R-10214": "PA",
    "SRT:R-40888": "PA",  # SNOMED's own for 272479007; the standard had the one above
    "SCT:399033003": "",
    "SRT:R-10202": "",
}
# PS3.16 CID 4009, DX Anatomy Imaged, and 51185008: thoracic structure, SNOMED CT's own for T-D3000.
_BODY_PARTS = dict.fromkeys(("SCT:816094009", "SCT:51185008", "SRT:T-D3000"), "CHEST")
_CODE_VALUES = ("CodeValue", "LongCodeValue", "URNCodeValue", "CodeMeaning")
# None: the file states no VR (PS3.5 7.1.3). Another one is no sequence, whatever its bytes.
_SEQUENCE_VRS = frozenset({"SQ", "UN", None})
# PS3.5 6.2, Age String. A year is 365.25 days, so that 12 months are one year exactly.
_YEARS_PER_UNIT = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
_AGE = re.compile(r"(\d{1,3})([DWMY])")
_DATE = re.compile(r"(\d{4})[.]?(\d{2})[.]?(\d{2})")  # with dots before 1993
_OLDEST_YEARS = 150
# A stated age is often rounded down to the year, or taken on another day than the film.
_AGES_APART_YEARS = 1.5


def parse_header(source: Path | bytes | bytearray | memoryview) -> Header:
    """Header of a Part 10 file, pixels not read. Raise NotAnalysed where no data set can be made out, else OSError."""
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
        return read_header(read_part10(file, tags=HEADER_TAGS, stop_before_pixels=True))


def parse_identifiers(path: Path) -> Header:
    """Header of a Part 10 file up to its UIDs, whatever comes behind them. Raise NotAnalysed, or OSError."""
    with path.open("rb") as file:
        return read_header(read_beginning(file, tags=HEADER_TAGS, last=Tag("SeriesInstanceUID")))


def parse_head(head: bytes | bytearray, transfer_syntax_uid: str) -> Header | None:
    """Header of a data set that begins with these bytes, little endian; None if they do not reach its pixels."""
    reached = False

    def at_pixels(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        nonlocal reached
        reached = reached or tag in _PIXEL_TAGS
        return reached

    implicit = transfer_syntax_uid == ImplicitVRLittleEndian
    with suppress(Exception):  # cut off in the middle of an element, or worse: the whole file will tell
        dataset = read_dataset(io.BytesIO(head), implicit, True, stop_when=at_pixels, specific_tags=HEADER_TAGS)  # noqa: FBT003 - pydicom's own order: implicit VR, little endian
        return read_header(dataset, transfer_syntax_uid) if reached else None
    return None


def read_header(dataset: Dataset, transfer_syntax_uid: str = "") -> Header:
    """Never raises: a value that cannot be read is an absent one. Code strings come in upper case."""
    encodings = _encodings(dataset)

    def text(keyword: str, characters: int = IDENTIFIER_CHARACTERS) -> str:
        return _clean(_decoded(_raw(dataset, keyword), encodings), characters)

    def code(keyword: str) -> str:
        return text(keyword, CODE_CHARACTERS).upper()

    return Header(
        sop_class_uid=text("SOPClassUID"),
        sop_instance_uid=text("SOPInstanceUID"),
        study_instance_uid=text("StudyInstanceUID"),
        series_instance_uid=text("SeriesInstanceUID"),
        transfer_syntax_uid=transfer_syntax_uid or _transfer_syntax_uid(dataset),
        modality=code("Modality"),
        body_part_examined=code("BodyPartExamined") or _coded(dataset, "AnatomicRegionSequence", _BODY_PARTS),
        view_position=code("ViewPosition") or _coded(dataset, "ViewCodeSequence", _VIEWS),
        presentation_intent_type=code("PresentationIntentType"),
        age_years=_age_years(dataset),
        clinical_priority=_clinical_priority(dataset),
        study_date=text("StudyDate", CODE_CHARACTERS),
        study_description=text("StudyDescription", TEXT_CHARACTERS),
        accession_number=text("AccessionNumber"),
        patient_id=text("PatientID"),
        patient_name=text("PatientName", TEXT_CHARACTERS),
        patient_birth_date=text("PatientBirthDate", CODE_CHARACTERS),
        patient_sex=code("PatientSex"),
    )


def read_keys(dataset: Dataset) -> dict[int, str]:
    """Text of each element of an identifier by tag, not cleaned; "" for what is no text. Never raises."""
    encodings = _encodings(dataset)
    return {int(tag): _decoded(_text_of(dataset, tag), encodings) for tag in list(dataset.keys())}


def _text_of(dataset: Dataset, tag: BaseTag) -> object:
    """Bytes of an element that the standard knows, and not as a sequence."""
    with suppress(Exception):
        value = dataset.get_item(tag).value
        return value if isinstance(value, bytes | str) and dictionary_VR(tag) not in _SEQUENCE_VRS else None
    return None


def _raw(dataset: Dataset, keyword: str) -> object:
    """Bytes as read from a file, or whatever a program has put there."""
    with suppress(Exception):
        return dataset.get_item(_TAG_OF.get(keyword) or Tag(keyword)).value
    return None


def _encodings(dataset: Dataset) -> list[str]:
    """Python's names for SpecificCharacterSet (PS3.3 C.12.1.1.2); unknown terms are passed over."""
    raw = _raw(dataset, "SpecificCharacterSet")
    terms = _plain(raw).split("\\") if isinstance(raw, bytes | str) else _plain_values(raw)
    known = [python_encoding[term.strip()] for term in terms if term.strip() in python_encoding]
    alone = any(term.strip() in STAND_ALONE_ENCODINGS for term in terms)
    return (known[:1] if alone else known) or ["latin_1"]


def _plain_values(values: object) -> list[str]:
    return [_plain(value) for value in values] if isinstance(values, Sequence) else []


def _plain(value: object) -> str:
    return value.decode("latin_1") if isinstance(value, bytes) else str(value)


def _decoded(raw: object, encodings: list[str]) -> str:
    if raw is None:
        return ""
    try:
        if not isinstance(raw, bytes):
            return str(raw)
        strict = raw if b"\x1b" in raw else raw.decode(encodings[0])
        return strict if isinstance(strict, str) else decode_bytes(strict, encodings, set(b"^=\\"))
    except Exception:  # noqa: BLE001 - no value may stop the receipt of a film
        return raw.decode("utf-8", errors="replace") if isinstance(raw, bytes) else ""


def _clean(text: str, characters: int) -> str:
    """Without control and format characters (C0, C1, escapes, right-to-left override) and lone surrogates."""
    head = text[: 4 * characters]
    if head.isascii() and head.isprintable():
        return head.strip()[:characters]
    seen = "".join(c for c in head if unicodedata.category(c) not in {"Cc", "Cf", "Cs"})
    return seen.strip()[:characters]


def _text(dataset: Dataset, keyword: str) -> str:
    return _clean(_decoded(_raw(dataset, keyword), ["latin_1"]), CODE_CHARACTERS)


def _transfer_syntax_uid(dataset: Dataset) -> str:
    return _text(getattr(dataset, "file_meta", None) or Dataset(), "TransferSyntaxUID")


def _age_years(dataset: Dataset) -> float | None:
    """None also where the stated age and the dates contradict each other: one of them is another patient's."""
    stated, dated = _stated_age_years(dataset), _dated_age_years(dataset)
    if stated is not None and dated is not None and abs(stated - dated) > _AGES_APART_YEARS:
        return None
    years = dated if stated is None else stated
    return years if years is not None and 0 <= years <= _OLDEST_YEARS else None


def _stated_age_years(dataset: Dataset) -> float | None:
    stated = _AGE.fullmatch(_text(dataset, "PatientAge").upper())
    return int(stated[1]) * _YEARS_PER_UNIT[stated[2]] if stated else None


def _dated_age_years(dataset: Dataset) -> float | None:
    born = _date(_text(dataset, "PatientBirthDate"))
    dates = (_date(_text(dataset, keyword)) for keyword in ("StudyDate", "AcquisitionDate", "ContentDate"))
    taken = next((day for day in dates if day), None)
    return (taken - born).days * _YEARS_PER_UNIT["D"] if born and taken else None


def _date(text: str) -> date | None:
    """PS3.5 6.2, Date."""
    found = _DATE.fullmatch(text)
    with suppress(ValueError):
        return date(int(found[1]), int(found[2]), int(found[3])) if found else None
    return None


def _clinical_priority(dataset: Dataset) -> ClinicalPriority:
    """The most urgent that is stated anywhere."""
    stated = [_text(dataset, "StudyPriorityID"), _text(dataset, "RequestedProcedurePriority")]
    stated += [_text(step, "RequestedProcedurePriority") for step in _items(dataset, "RequestAttributesSequence")]
    return min(RAISING.get(value.upper(), ClinicalPriority.ROUTINE) for value in stated)


def _coded(dataset: Dataset, keyword: str, terms: Mapping[str, str]) -> str:
    """The defined term for each item's code; for another code SCHEME:VALUE, which is no term, so that it is seen."""
    codes = map(_code, _items(dataset, keyword))
    stated = dict.fromkeys(terms.get(code, code) for code in codes)
    return "\\".join(filter(None, stated))[:CODE_CHARACTERS]


def _code(item: Dataset) -> str:
    """SCHEME:VALUE of a coded entry (PS3.3 8.8), "" if it has no value."""
    value = next(filter(None, (_text(item, keyword) for keyword in _CODE_VALUES)), "").upper()
    scheme = _text(item, "CodingSchemeDesignator").upper()
    return f"{_SCHEMES.get(scheme, scheme)}:{value}" if value else ""


def _items(dataset: Dataset, keyword: str) -> Iterator[Dataset]:
    """Items of a sequence, as many as can be read."""
    with suppress(Exception):
        if dataset.get_item(Tag(keyword)).VR in _SEQUENCE_VRS:
            yield from dataset[keyword].value
