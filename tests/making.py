"""Things that many tests need made: headers, received instances, findings."""

from __future__ import annotations

import hashlib
from typing import Any

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from triage.card import Card, Population, Preprocessing
from triage.policy import Policy
from triage.study import Finding, Header, ReceivedInstance

POLICY = Policy()
CARD = Card(
    architecture="efficientnet-lite0",
    classes=("normal", "bacterial", "viral"),
    preprocessing=Preprocessing(size_px=224, stretch_percentiles=(1.0, 99.0), mean=0.5, std=0.25),
    population=Population(
        modalities=("CR", "DX"), body_parts=("CHEST",), views=("AP", "PA"), age_min_years=1.0, age_max_years=5.99
    ),
    threshold=0.5,
    likely_threshold=0.9,
    temperature=1.0,
    sha256="a" * 64,
    date="2026-01-01",
)
CR = "1.2.840.10008.5.1.4.1.1.1"


def header(number: int = 1, study: int | None = None, **changes: Any) -> Header:
    """A child's frontal chest film; ``number`` makes the instance, ``study`` the study (else one each)."""
    values: dict[str, Any] = {
        "sop_class_uid": CR,
        "sop_instance_uid": f"1.2.3.{number}",
        "study_instance_uid": f"1.2.{number if study is None else study}",
        "modality": "CR",
        "body_part_examined": "CHEST",
        "view_position": "AP",
        "age_years": 3.0,
        "patient_id": f"P{number}",
        "patient_name": f"Invented^Patient{number}",
        "accession_number": f"A{number}",
    }
    return Header(**{**values, **changes})


def received(number: int = 1, study: int | None = None, content: str = "", **changes: Any) -> ReceivedInstance:
    """As the receiver would hand it to the database; ``content`` stands for the bytes of the file."""
    not_analysed = changes.pop("not_analysed", None)
    made = header(number, study, **changes)
    sha256 = hashlib.sha256((made.sop_instance_uid + made.study_instance_uid + content).encode()).hexdigest()
    return ReceivedInstance(header=made, sha256=sha256, size_bytes=1000, calling_ae="PACS", not_analysed=not_analysed)


def finding(p_pneumonia: float, weights_sha256: str = CARD.sha256) -> Finding:
    return Finding(
        weights_sha256=weights_sha256,
        p_normal=1.0 - p_pneumonia,
        p_bacterial=p_pneumonia * 0.7,
        p_viral=p_pneumonia * 0.3,
    )


def data_set(**changes: Any) -> Dataset:
    """The least a film can say of itself; None leaves a keyword out."""
    made = Dataset()
    values = {
        "SOPClassUID": CR,
        "SOPInstanceUID": "1.2.3.1",
        "StudyInstanceUID": "1.2.1",
        "PatientName": "Invented^Child",
        "Modality": "CR",
        **changes,
    }
    for keyword, value in values.items():
        if value is not None:
            setattr(made, keyword, value)
    return made


def encoded(made: Dataset) -> bytes:
    """As it travels in explicit VR, little endian."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, made)
    return buffer.getvalue()
