"""The data set of a workitem (PS3.4 table CC.2.5-3): what the worklist knows, and every attribute that must be there.

Scheduled Procedure Step Priority has three values only: HIGH for STAT orders and for whatever is flagged or overdue,
MEDIUM for urgent orders, LOW for the rest. The exact place is in the Worklist Label, and in the order of the answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from itertools import groupby
from typing import Any

from pydicom import DataElement, Dataset, config
from pydicom.datadict import dictionary_VR
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence as Items
from pydicom.tag import BaseTag, Tag

from triage.records.subscriptions import Notice
from triage.study import ClinicalPriority
from triage.workitem import StepState, Workitem

UPS_PUSH = "1.2.840.10008.5.1.4.34.6.1"
STATE_REPORT, CANCEL_REQUESTED, PROGRESS_REPORT = 1, 2, 3
CHARACTER_SET = "ISO_IR 192"
# What performers may say of their work; the rest is ours to say.
PROGRESS = ("ProcedureStepProgressInformationSequence", "UnifiedProcedureStepPerformedProcedureSequence")
SEQUENCES = ("ScheduledWorkitemCodeSequence", "InputInformationSequence", "ReferencedRequestSequence", *PROGRESS)
PROGRESS_CHARACTERS_MAX = 64 * 1024
_REPORTED = (
    "ProcedureStepProgress", "ProcedureStepProgressDescription", "ProcedureStepProgressParametersSequence",
    "ProcedureStepCommunicationsURISequence",
)  # fmt: skip
_INTERPRETATION = ("110005", "DCM", "Interpretation")
_TEXT_MAX = {"LO": 64, "SH": 16, "CS": 16, "ST": 1024}
_DATE = re.compile(r"[0-9]{8}")

# Type 2: present, and empty where the worklist knows nothing of it.
_EMPTY = (
    "ScheduledProcessingParametersSequence", "ScheduledStationNameCodeSequence", "ScheduledStationClassCodeSequence",
    "ScheduledStationGeographicLocationCodeSequence", "ScheduledHumanPerformersSequence", "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence", "OtherPatientIDsSequence", "AdmissionID", "IssuerOfAdmissionIDSequence",
    "AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence", "MedicalAlerts", "PregnancyStatus",
    "SpecialNeeds", "ReplacedProcedureStepSequence", *PROGRESS,
)  # fmt: skip
_EMPTY_OF_REQUEST = (
    "IssuerOfAccessionNumberSequence", "PlacerOrderNumberImagingServiceRequest", "OrderPlacerIdentifierSequence",
    "FillerOrderNumberImagingServiceRequest", "OrderFillerIdentifierSequence", "RequestedProcedureID",
    "RequestedProcedureCodeSequence", "ReasonForTheRequestedProcedure", "ReasonForRequestedProcedureCodeSequence",
    "RequestingService", "RequestingPhysician",
)  # fmt: skip


def plain(workitem: Workitem) -> dict[str, str]:
    """Attributes without sequences, by keyword: enough for most queries, and made in microseconds."""
    study = workitem.study
    rank = study.get("rank")
    return {
        "SOPClassUID": UPS_PUSH,
        "SOPInstanceUID": workitem.workitem_uid,
        "ScheduledProcedureStepPriority": priority(study),
        "ScheduledProcedureStepModificationDateTime": moment(workitem.changed_at),
        "ProcedureStepLabel": study["study_description"] or study["modality"] or "film",
        "WorklistLabel": f"READING {rank:06d}" if rank else "READING",
        "ScheduledProcedureStepStartDateTime": moment(study["waiting_since"]),
        "ExpectedCompletionDateTime": moment(study["overdue_at"]),
        "CommentsOnTheScheduledProcedureStep": study.get("why") or study["words"],
        "InputReadinessState": "READY",
        "StudyInstanceUID": workitem.study_instance_uid,
        "PatientName": study["patient_name"],
        "PatientID": study["patient_id"],
        "PatientBirthDate": study["patient_birth_date"] if _DATE.fullmatch(study["patient_birth_date"]) else "",
        "PatientSex": study["patient_sex"],
        "ProcedureStepState": workitem.state,
    }


def priority(study: Mapping[str, Any]) -> str:
    """HIGH, MEDIUM or LOW."""
    if study["clinical_priority"] == ClinicalPriority.STAT or study["flagged"] or study.get("overdue"):
        return "HIGH"
    return "MEDIUM" if study["clinical_priority"] == ClinicalPriority.URGENT else "LOW"


def moment(at: datetime | None) -> str:
    """DT in UTC, "" for none."""
    return f"{at:%Y%m%d%H%M%S}.{at.microsecond:06d}+0000" if at else ""


def data_set(
    workitem: Workitem,
    films: Sequence[Mapping[str, str]],
    retrieve_ae: str = "",
    wanted: Collection[str] | None = None,
) -> Dataset:
    """``wanted``: keywords, or all of them. ``films``: what is read; ``retrieve_ae``: of the archive, "" for who sent
    each film.
    """
    made = Dataset()

    def asked(keywords: Iterable[str]) -> list[str]:
        return [keyword for keyword in keywords if wanted is None or keyword in wanted]

    for keyword in asked(_EMPTY):
        put(made, keyword, "")
    values = {"SpecificCharacterSet": CHARACTER_SET, **plain(workitem)}
    for keyword in asked(values):
        put(made, keyword, values[keyword])
    for keyword in asked(SEQUENCES):
        put(made, keyword, sequence(workitem, keyword, films, retrieve_ae))
    return made


def sequence(
    workitem: Workitem, keyword: str, films: Sequence[Mapping[str, str]], retrieve_ae: str = ""
) -> list[Dataset]:
    """Items of one sequence, without all the rest; empty where the worklist has nothing to tell in it."""
    if keyword == "ScheduledWorkitemCodeSequence":
        return [_code(*_INTERPRETATION)]
    if keyword == "InputInformationSequence":
        return _inputs(films, retrieve_ae)
    if keyword == "ReferencedRequestSequence":
        return [_request(workitem)]
    said = _said(workitem).get(keyword, [])
    if keyword == PROGRESS[1] and workitem.state is StepState.COMPLETED and not said:
        return [_performed(workitem)]
    return said


def event_type(notice: Notice) -> int:
    """Event Type ID, PS3.4 table CC.2.4-1."""
    if notice.asked_by:
        return CANCEL_REQUESTED
    return PROGRESS_REPORT if notice.progress else STATE_REPORT


def event_information(notice: Notice) -> Dataset:
    """Of a UPS State Report, UPS Cancel Requested or UPS Progress Report (PS3.4 table CC.2.4-1)."""
    made = Dataset()
    if notice.progress:
        put(made, PROGRESS[0], [_reported(item) for item in Dataset.from_json(notice.progress).get(PROGRESS[0], [])])
        put(made, "SpecificCharacterSet", CHARACTER_SET)
        return made
    if notice.asked_by:
        # Programs and people over HTTP have names that no AE title holds.
        put(made, "RequestingAE", re.sub(r"[^ -\[\]-~]", "", notice.asked_by)[:16].strip() or "UNKNOWN")
        put(made, "ContactDisplayName", notice.asked_by)
        put(made, "ReasonForCancellation", notice.reason)
        put(made, "SpecificCharacterSet", CHARACTER_SET)
        return made
    put(made, "InputReadinessState", "READY")
    put(made, "ProcedureStepState", notice.state)
    return made


def _reported(item: Dataset) -> Dataset:
    """What the table names: subscribers are sent nothing else that a performer may have said."""
    made = Dataset()
    for keyword in _REPORTED:
        if keyword in item:
            made[keyword] = item[keyword]
    return made


def put(made: Dataset, keyword: str, value: str | list[Dataset]) -> None:
    """What was received is passed on as it is: nothing is checked, only cut to what the representation holds."""
    tag, vr = _element(keyword)
    if vr == "SQ":
        made[tag] = DataElement(tag, vr, Items([] if isinstance(value, str) else value))
        return
    made[tag] = DataElement(tag, vr, str(value)[: _TEXT_MAX.get(vr)] or None, validation_mode=config.IGNORE)


@cache
def _element(keyword: str) -> tuple[BaseTag, str]:
    tag = Tag(keyword)
    return tag, dictionary_VR(tag)


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    made = Dataset()
    for keyword, text in (("CodeValue", value), ("CodingSchemeDesignator", scheme), ("CodeMeaning", meaning)):
        put(made, keyword, text)
    return made


def _request(workitem: Workitem) -> Dataset:
    made = Dataset()
    for keyword in _EMPTY_OF_REQUEST:
        put(made, keyword, "")
    put(made, "StudyInstanceUID", workitem.study_instance_uid)
    put(made, "AccessionNumber", workitem.study["accession_number"])
    put(made, "RequestedProcedureDescription", workitem.study["study_description"])
    return made


def _inputs(films: Iterable[Mapping[str, str]], retrieve_ae: str) -> list[Dataset]:
    """An item for each series and archive (PS3.3 table 10-3b)."""

    def place(film: Mapping[str, str]) -> tuple[str, str, str]:
        return film["study_instance_uid"], film["series_instance_uid"], retrieve_ae or film["calling_ae"]

    return [_input(*where, list(own)) for where, own in groupby(sorted(films, key=place), key=place)]


def _input(study_instance_uid: str, series_instance_uid: str, ae_title: str, films: list[Mapping[str, str]]) -> Dataset:
    made, archive = Dataset(), Dataset()
    put(made, "TypeOfInstances", "DICOM")
    put(made, "StudyInstanceUID", study_instance_uid)
    put(made, "SeriesInstanceUID", series_instance_uid)
    put(made, "ReferencedSOPSequence", [_reference(film) for film in films])
    put(archive, "RetrieveAETitle", ae_title)
    put(made, "DICOMRetrievalSequence", [archive])
    return made


def _reference(film: Mapping[str, str]) -> Dataset:
    made = Dataset()
    put(made, "ReferencedSOPClassUID", film["sop_class_uid"])
    put(made, "ReferencedSOPInstanceUID", film["sop_instance_uid"])
    return made


def _performed(workitem: Workitem) -> Dataset:
    """The final state's requirements, where the performer has said nothing: who read it, and when."""
    made, reader = Dataset(), Dataset()
    put(reader, "HumanPerformerName", workitem.reader)
    put(made, "ActualHumanPerformersSequence", [reader] if workitem.reader else [])
    put(made, "PerformedStationNameCodeSequence", [])
    put(made, "PerformedWorkitemCodeSequence", [_code(*_INTERPRETATION)])
    put(made, "PerformedProcedureStepStartDateTime", moment(workitem.study["status_at"]))
    put(made, "PerformedProcedureStepEndDateTime", moment(workitem.changed_at))
    put(made, "OutputInformationSequence", [])
    return made


# -- what performers say -------------------------------------------------------------------------------------------


def _said(workitem: Workitem) -> dict[str, list[Dataset]]:
    if not workitem.progress:
        return {}
    said = Dataset.from_json(workitem.progress)
    return {keyword: list(said[keyword].value) for keyword in PROGRESS if keyword in said}


def progress(asked: Dataset) -> str:
    """What is said now, as JSON, to be put over what was said before; of what is ours to say nothing.

    Raise ValueError for what could not be told to anybody else: JSON and DICOM do not hold the same.
    """
    said = Dataset()
    for keyword in PROGRESS:
        if keyword in asked:
            said[keyword] = asked[keyword]
    try:
        text = json.dumps(said.to_json_dict(), separators=(",", ":"), allow_nan=False)
        told = Dataset.from_json(text)
        put(told, "SpecificCharacterSet", CHARACTER_SET)
        for is_implicit in (True, False):
            write_dataset(_sink(is_implicit=is_implicit), told)
    except Exception as error:  # each kind of value is refused in pydicom's own way
        raise ValueError("a value does not fit its representation") from error
    return text


def _sink(*, is_implicit: bool) -> DicomBytesIO:
    sink = DicomBytesIO()
    sink.is_little_endian, sink.is_implicit_VR = True, is_implicit
    return sink
