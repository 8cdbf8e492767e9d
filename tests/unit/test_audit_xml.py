"""Audit messages are as PS3.15 A.5 has them, whatever stands in what they tell."""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from daemon.auditing import xml
from daemon.auditing.codes import KINDS
from daemon.auditing.xml import Reporter, messages
from daemon.web.roles import VERBS
from repository import kind, valid
from triage.user import Access, Outcome, Subject

US = Reporter(source="triage@st-elsewhere", ae_title="TRIAGE", host="node-1")
CHILD = Subject(
    study_instance_uid="1.2.3", accession_number="A<1>", patient_id='P&"1"', patient_name="Invented^Child=発明^\x0b子供"
)


def access(
    verb: str, outcome: Outcome = Outcome.SUCCESS, details: dict[str, Any] | None = None, **other: Any
) -> Access:
    told = json.dumps(details) if details else ""
    given = {"who": "Dr Adler", "address": "10.1.2.3", "study_instance_uid": "1.2.3", **other}
    return Access(at=datetime(2026, 1, 5, 8, tzinfo=UTC), verb=verb, outcome=outcome, details=told, **given)


def one(given: Access, subject: Subject | None = None) -> etree._Element:
    (message,) = messages(given, subject, US)
    return valid(message)


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("verb", sorted({*KINDS, *VERBS}))
@pytest.mark.parametrize("who", ["", "Dr <Adler> & \x00\ud800 over DICOM"])
def test_every_access_is_told_as_the_schema_has_it(verb: str, outcome: Outcome, who: str) -> None:
    details = {"calling": "A<B", "classes": {"1.2": 3}, "problem": "no & such", "query": b64encode(b"\0").decode()}
    for subject in (None, CHILD):
        for told in (None, details):
            for message in messages(access(verb, outcome, told, who=who), subject, US):
                valid(message)


@pytest.mark.parametrize("verb", sorted(VERBS - {""}))
def test_every_verb_of_the_web_has_its_kind(verb: str) -> None:
    assert verb in KINDS


def test_every_verb_that_a_command_notes_has_its_kind() -> None:
    """Words given to `accounts.noted` and its like, found in the code."""
    calls = re.compile(r"(?:noted\(\w+, |note_beside\([\w., ]+, |verb=)\"([a-z_]+)\"")
    code = [path.read_text(encoding="utf-8") for path in Path(xml.__file__).parents[1].rglob("*.py")]
    verbs = {verb for text in code for verb in calls.findall(text)}
    assert {"backup", "user_add", "delete"} <= verbs
    assert verbs - KINDS.keys() == set()


@pytest.mark.parametrize(
    ("verb", "outcome", "told"),
    [
        ("application_start", Outcome.SUCCESS, "Application Activity/Application Start 0"),
        ("application_stop", Outcome.SUCCESS, "Application Activity/Application Stop 0"),
        ("store", Outcome.SUCCESS, "DICOM Instances Transferred 0"),
        ("store", Outcome.FAILED, "DICOM Instances Transferred 8"),
        ("look", Outcome.REFUSED, "DICOM Instances Accessed 4"),
        ("delete", Outcome.SUCCESS, "DICOM Study Deleted 0"),
        ("find", Outcome.SUCCESS, "Query 0"),
        ("audit", Outcome.SUCCESS, "Audit Log Used 0"),
        ("sign_in", Outcome.SUCCESS, "User Authentication/Login 0"),
        ("sign_out", Outcome.SUCCESS, "User Authentication/Logout 0"),
        ("associate", Outcome.REFUSED, "Security Alert/Node Authentication 8"),
        ("connect", Outcome.REFUSED, "Security Alert/Node Authentication 8"),
        ("user_role", Outcome.SUCCESS, "Security Alert/Security Roles Changed 0"),
        ("token_add", Outcome.REFUSED, "Security Alert/User Security Attributes Changed 4"),
        ("audit_given_up", Outcome.FAILED, "Security Alert/Audit Recording Stopped 12"),
    ],
)
def test_an_access_is_told_as_its_kind_of_event(verb: str, outcome: Outcome, told: str) -> None:
    assert kind(one(access(verb, outcome))) == told


def test_a_sign_in_that_failed_is_an_alert_besides() -> None:
    told = [kind(valid(message)) for message in messages(access("sign_in", Outcome.REFUSED), None, US)]
    assert told == ["User Authentication/Login 4", "Security Alert/Login 4"]


def test_who_asks_without_a_key_raises_an_alert() -> None:
    assert kind(one(access("look", Outcome.REFUSED, who=""))) == "Security Alert/Use of Restricted Function 4"


def test_a_transfer_names_both_nodes_the_study_its_instances_and_the_patient() -> None:
    given = access("store", details={"calling": "PACS", "called": "TRIAGE", "classes": {"1.2.840.1": 3}})
    message = one(given, CHILD)
    source, us = message.findall("ActiveParticipant")
    assert (source.get("UserID"), source.get("AlternativeUserID")) == ("PACS", "AETITLES=PACS")
    assert (source.get("NetworkAccessPointID"), source.get("NetworkAccessPointTypeCode")) == ("10.1.2.3", "2")
    assert source.find("RoleIDCode").get("csd-code") == "110153"
    assert us.find("RoleIDCode").get("csd-code") == "110152"
    assert message.find("AuditSourceIdentification").get("AuditSourceID") == "triage@st-elsewhere"
    study, patient = message.findall("ParticipantObjectIdentification")
    assert study.get("ParticipantObjectID") == "1.2.3"
    assert study.find("ParticipantObjectDescription/Accession").get("Number") == "A<1>"
    assert dict(study.find("ParticipantObjectDescription/SOPClass").attrib) == {
        "UID": "1.2.840.1", "NumberOfInstances": "3"
    }  # fmt: skip
    assert patient.get("ParticipantObjectID") == 'P&"1"'
    assert patient.findtext("ParticipantObjectName") == "Invented^Child=発明^?子供"


def test_a_query_is_told_as_it_came() -> None:
    asked = b"\x10\0\x10\0PN\x04\0A^B*"
    details = {
        "class": "1.2.840.10008.5.1.4.1.2.2.1",
        "query": b64encode(asked).decode(),
        "syntax": "1.2.840.10008.1.2.1",
    }
    (told,) = one(access("find", details=details)).findall("ParticipantObjectIdentification")
    assert told.get("ParticipantObjectID") == "1.2.840.10008.5.1.4.1.2.2.1"
    assert b64decode(told.findtext("ParticipantObjectQuery")) == asked
    assert b64decode(told.find("ParticipantObjectDetail").get("value")) == b"1.2.840.10008.1.2.1"


def test_the_time_of_an_event_says_its_zone() -> None:
    assert one(access("look")).find("EventIdentification").get("EventDateTime") == "2026-01-05T08:00:00.000+00:00"
