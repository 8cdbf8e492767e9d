"""Audit messages as XML, by the schema of PS3.15 A.5.1. They name patients: none may come near a log."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from daemon.auditing.codes import (
    APPLICATION,
    APPLICATION_ACTIVITY,
    AUDIT_LOG_USED,
    CLASS_UID,
    DESTINATION,
    FAILED_SIGN_IN,
    INSTANCES_TRANSFERRED,
    KEYLESS,
    KINDS,
    NODE_ID,
    PATIENT_NUMBER,
    QUERY,
    SECURITY_ALERT,
    SOURCE,
    STUDY_UID,
    URI,
    USER_AUTHENTICATION,
    Code,
    Kind,
)
from triage.user import Access, Outcome, Subject

# What XML 1.0 has no way to write.
_UNSPEAKABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MACHINE, _IP_ADDRESS = "1", "2"
_PERSON, _SYSTEM = "1", "2"
_PATIENT, _REPORT, _SECURITY_RESOURCE = "1", "3", "13"
_APPLICATION_SERVER = "4"
# Reading worklist: UPS Query is what it answers to over DICOM.
_WORKLIST_CLASS = "1.2.840.10008.5.1.4.34.6.5"
_SUCCESS, _MINOR, _SERIOUS, _MAJOR = "0", "4", "8", "12"
_MAJOR_VERBS = {"audit_given_up"}
_SERIOUS_VERBS = {"associate", "connect"}


@dataclass(frozen=True, kw_only=True)
class Reporter:
    """Who we are in the messages: Audit Source ID, AE title and host."""

    source: str
    ae_title: str
    host: str


def messages(access: Access, subject: Subject | None, us: Reporter) -> list[bytes]:
    """One; for a sign-in that failed two, because it is an alert besides."""
    if access.verb == "sign_in" and access.outcome is Outcome.REFUSED:
        return [_message(access, subject, us, KINDS["sign_in"]), _message(access, subject, us, FAILED_SIGN_IN)]
    is_keyless = access.outcome is Outcome.REFUSED and not access.who
    own = KINDS.get(access.verb, KINDS["unknown"])
    kind = KEYLESS if is_keyless and own.event is not SECURITY_ALERT else own
    return [_message(access, subject, us, kind)]


def _message(access: Access, subject: Subject | None, us: Reporter, kind: Kind) -> bytes:
    details = json.loads(access.details or "{}")
    root = Element("AuditMessage")
    _identify_event(root, access, kind)
    _name_participants(root, access, details, us, kind)
    source = SubElement(root, "AuditSourceIdentification", AuditSourceID=us.source)
    SubElement(source, "AuditSourceTypeCode", {"csd-code": _APPLICATION_SERVER})
    if kind.event is QUERY:
        _add_query(root, details)
    elif kind.event is SECURITY_ALERT:
        _add_alert(root, access, details)
    elif kind.event is AUDIT_LOG_USED:
        _object(root, "triage:audit", (_SYSTEM, _SECURITY_RESOURCE, URI), name="Security Audit Log")
    elif kind.event not in {APPLICATION_ACTIVITY, USER_AUTHENTICATION}:
        _add_study(root, access, subject, details)
    return bytes(tostring(root, encoding="utf-8", xml_declaration=True))


def _identify_event(root: Element, access: Access, kind: Kind) -> None:
    event = SubElement(
        root,
        "EventIdentification",
        EventActionCode=kind.action,
        EventDateTime=access.at.isoformat(timespec="milliseconds"),
        EventOutcomeIndicator=_outcome(access),
    )
    _code(event, "EventID", kind.event)
    if kind.type:
        _code(event, "EventTypeCode", kind.type)


def _outcome(access: Access) -> str:
    if access.outcome is Outcome.SUCCESS:
        return _SUCCESS
    if access.verb in _MAJOR_VERBS:
        return _MAJOR
    is_minor = access.outcome is Outcome.REFUSED and access.verb not in _SERIOUS_VERBS
    return _MINOR if is_minor else _SERIOUS


def _name_participants(root: Element, access: Access, details: Mapping[str, Any], us: Reporter, kind: Kind) -> None:
    """Who did it, and this application."""
    if kind.event is APPLICATION_ACTIVITY:
        _participant(root, access.who, name="triage", host=us.host, role=APPLICATION, ae_title=us.ae_title)
        return
    is_transfer = kind.event in {INSTANCES_TRANSFERRED, QUERY}
    _participant(
        root,
        details.get("calling") or access.who or "unknown",
        name=access.who,
        address=access.address,
        role=SOURCE if is_transfer else None,
        ae_title=details.get("calling", ""),
        is_requestor=True,
    )
    _participant(
        root, us.ae_title, name="triage", host=us.host, role=DESTINATION if is_transfer else None, ae_title=us.ae_title
    )


def _participant(
    root: Element,
    user_id: str,
    *,
    name: str,
    address: str = "",
    host: str = "",
    role: Code | None = None,
    ae_title: str = "",
    is_requestor: bool = False,
) -> None:
    made = SubElement(root, "ActiveParticipant", UserID=_plain(user_id))
    if ae_title:
        made.set("AlternativeUserID", _plain(f"AETITLES={ae_title}"))
    if name:
        made.set("UserName", _plain(name))
    made.set("UserIsRequestor", str(is_requestor).lower())
    if address or host:
        made.set("NetworkAccessPointID", _plain(address or host))
        made.set("NetworkAccessPointTypeCode", _IP_ADDRESS if address else _MACHINE)
    if role:
        _code(made, "RoleIDCode", role)


def _add_query(root: Element, details: Mapping[str, Any]) -> None:
    """The identifier as it came, in base64; "" where it was asked for by other means than DICOM."""
    told = _object(root, details.get("class") or _WORKLIST_CLASS, (_SYSTEM, _REPORT, CLASS_UID))
    SubElement(told, "ParticipantObjectQuery").text = details.get("query", "")
    if details.get("syntax"):
        _detail(told, "TransferSyntax", details["syntax"])


def _add_alert(root: Element, access: Access, details: Mapping[str, Any]) -> None:
    node = access.address or access.who or "unknown"
    told = _object(root, node, (_SYSTEM, _SECURITY_RESOURCE, NODE_ID), name=access.who)
    _detail(told, "Alert Description", details.get("problem") or access.verb.replace("_", " "))


def _add_study(root: Element, access: Access, subject: Subject | None, details: Mapping[str, Any]) -> None:
    uid = subject.study_instance_uid if subject else access.study_instance_uid
    told = _object(root, uid or "unknown", (_SYSTEM, _REPORT, STUDY_UID), name="study")
    classes = details.get("classes", {})
    number = subject.accession_number if subject else ""
    if number or classes:
        described = SubElement(told, "ParticipantObjectDescription")
        if number:
            SubElement(described, "Accession", Number=_plain(number))
        for sop_class, count in classes.items():
            SubElement(described, "SOPClass", UID=_plain(sop_class), NumberOfInstances=str(count))
    if subject:
        _object(root, subject.patient_id or "unknown", (_PERSON, _PATIENT, PATIENT_NUMBER), name=subject.patient_name)


def _object(root: Element, identifier: str, what: tuple[str, str, Code], *, name: str | None = None) -> Element:
    """``what``: its type, role and kind of identifier."""
    told = SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=_plain(identifier),
        ParticipantObjectTypeCode=what[0],
        ParticipantObjectTypeCodeRole=what[1],
    )
    _code(told, "ParticipantObjectIDTypeCode", what[2])
    if name is not None:
        SubElement(told, "ParticipantObjectName").text = _plain(name)
    return told


def _detail(told: Element, kind: str, text: str) -> None:
    SubElement(told, "ParticipantObjectDetail", type=kind, value=b64encode(text.encode()).decode())


def _code(parent: Element, name: str, code: Code) -> None:
    SubElement(parent, name, {"csd-code": code.value, "codeSystemName": code.system, "originalText": code.words})


def _plain(text: str) -> str:
    return _UNSPEAKABLE.sub("?", text)
