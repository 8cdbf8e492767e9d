"""What each verb of the audit is in DICOM's terms (PS3.16 CID 400 to 402, PS3.15 A.5.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Code:
    """Of the terminology DCM unless said otherwise."""

    value: str
    words: str
    system: str = "DCM"


@dataclass(frozen=True)
class Kind:
    """``action``: Create, Read, Update, Delete or Execute."""

    event: Code
    action: str
    type: Code | None = None


APPLICATION_ACTIVITY = Code("110100", "Application Activity")
AUDIT_LOG_USED = Code("110101", "Audit Log Used")
INSTANCES_ACCESSED = Code("110103", "DICOM Instances Accessed")
INSTANCES_TRANSFERRED = Code("110104", "DICOM Instances Transferred")
STUDY_DELETED = Code("110105", "DICOM Study Deleted")
QUERY = Code("110112", "Query")
SECURITY_ALERT = Code("110113", "Security Alert")
USER_AUTHENTICATION = Code("110114", "User Authentication")

APPLICATION = Code("110150", "Application")
DESTINATION = Code("110152", "Destination Role ID")
SOURCE = Code("110153", "Source Role ID")
STUDY_UID = Code("110180", "Study Instance UID")
CLASS_UID = Code("110181", "SOP Class UID")
NODE_ID = Code("110182", "Node ID")
PATIENT_NUMBER = Code("2", "Patient Number", "RFC-3881")
URI = Code("12", "URI", "RFC-3881")

LOGIN = Code("110122", "Login")
_NODE = Code("110126", "Node Authentication")
_RESTRICTED = Code("110132", "Use of Restricted Function")
_ROLES = Code("110136", "Security Roles Changed")
_USERS = Code("110137", "User Security Attributes Changed")
_STOPPED = Code("110133", "Audit Recording Stopped")

FAILED_SIGN_IN = Kind(SECURITY_ALERT, "E", LOGIN)
# Whoever asks without a key.
KEYLESS = Kind(SECURITY_ALERT, "E", _RESTRICTED)
# Of one who may, to a study or workitem.
_SEEN = Kind(INSTANCES_ACCESSED, "R")
_CHANGED = replace(_SEEN, action="U")
_READS = ("look", "film", "explain", "orders_refused", "orders_kept", "unknown")
_CHANGES = (
    "start", "read", "release", "reopen", "reanalyse", "prioritise", "opine", "agree", "disagree", "unsure", "stat",
    "urgent", "routine", "workitem", "subscribe", "rebuild",
)  # fmt: skip
_USER_CHANGES = (
    "user_add", "user_password", "user_disable", "user_enable", "user_unlock", "token_add", "token_revoke",
)  # fmt: skip

KINDS = {
    **dict.fromkeys(_READS, _SEEN),
    **dict.fromkeys(_CHANGES, _CHANGED),
    **dict.fromkeys(_USER_CHANGES, Kind(SECURITY_ALERT, "E", _USERS)),
    "user_role": Kind(SECURITY_ALERT, "E", _ROLES),
    "list": Kind(QUERY, "E"),
    "find": Kind(QUERY, "E"),
    "store": Kind(INSTANCES_TRANSFERRED, "C"),
    **dict.fromkeys(("delete", "purge", "purge_orders"), Kind(STUDY_DELETED, "D")),
    "backup": Kind(Code("110106", "Export"), "R"),
    "restore": Kind(Code("110107", "Import"), "C"),
    "audit": Kind(AUDIT_LOG_USED, "R"),
    "sign_in": Kind(USER_AUTHENTICATION, "E", LOGIN),
    "sign_out": Kind(USER_AUTHENTICATION, "E", Code("110123", "Logout")),
    "associate": Kind(SECURITY_ALERT, "E", _NODE),
    "connect": Kind(SECURITY_ALERT, "E", _NODE),
    "application_start": Kind(APPLICATION_ACTIVITY, "E", Code("110120", "Application Start")),
    "application_stop": Kind(APPLICATION_ACTIVITY, "E", Code("110121", "Application Stop")),
    "audit_given_up": Kind(SECURITY_ALERT, "E", _STOPPED),
}
