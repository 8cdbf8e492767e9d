"""What each address needs: a role, or none. An address that does not stand here is not served to anybody.

The verb is what the audit says of an access; where the address names a study, every access is noted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from re import Pattern

from starlette.routing import compile_path

from triage.user import Role


@dataclass(frozen=True)
class Rule:
    """``role`` None: open to all. ``speaks``: the body has to say who reads, and the door may say it instead.
    ``lasts``: the answer goes on until who asked has gone, or may no longer hear it.
    """

    method: str
    path: str
    role: Role | None
    verb: str = ""
    speaks: bool = False
    lasts: bool = False

    @cached_property
    def pattern(self) -> Pattern[str]:
        return compile_path(self.path)[0]

    @property
    def is_page(self) -> bool:
        """Asked for by people: who has not signed in is led to where one can."""
        return not self.path.startswith(INTERFACES)


_STUDY = "/dicom-web/studies/{uid}"
_SERIES = f"{_STUDY}/series/{{series}}"
_INSTANCE = f"{_SERIES}/instances/{{instance}}"
# By its own UID, not its study's.
_WORKITEM = "/dicom-web/workitems/{uid}"
# What programs ask; anything else is asked by people.
INTERFACES = ("/api", "/dicom-web")

RULES = (
    # Before one has signed in.
    Rule("GET", "/static/{path:path}", None),
    Rule("GET", "/api/health/live", None),
    Rule("GET", "/login", None),
    Rule("POST", "/login", None),
    Rule("GET", "/login/oidc", None),
    Rule("GET", "/login/oidc/back", None),
    Rule("POST", "/logout", None),
    # The pages.
    Rule("GET", "/", Role.VIEWER, "list"),
    Rule("GET", "/account", Role.VIEWER),
    Rule("GET", "/opinions", Role.VIEWER),
    Rule("GET", "/reader", Role.VIEWER),
    Rule("POST", "/reader", Role.VIEWER),
    Rule("GET", "/studies/{uid}", Role.VIEWER, "look"),
    Rule("GET", "/studies/{uid}/explanation", Role.VIEWER, "explain"),
    Rule("POST", "/studies/{uid}/{verb}", Role.RADIOLOGIST),
    # The interface.
    Rule("GET", "/api/worklist", Role.VIEWER, "list"),
    Rule("GET", "/api/studies/{uid}", Role.VIEWER, "look"),
    Rule("GET", "/api/studies/{uid}/explanation", Role.VIEWER, "explain"),
    Rule("GET", "/api/studies/{uid}/events", Role.VIEWER, "look"),
    Rule("GET", "/api/studies/{uid}/film.png", Role.VIEWER, "film"),
    Rule("GET", "/api/studies/{uid}/film.dcm", Role.VIEWER, "film"),
    Rule("GET", "/api/changes", Role.VIEWER, "list", lasts=True),
    Rule("GET", "/api/opinions", Role.VIEWER),
    Rule("POST", "/api/studies/{uid}/start", Role.RADIOLOGIST, "start", speaks=True),
    Rule("POST", "/api/studies/{uid}/read", Role.RADIOLOGIST, "read"),
    Rule("POST", "/api/studies/{uid}/release", Role.RADIOLOGIST, "release"),
    Rule("POST", "/api/studies/{uid}/reopen", Role.RADIOLOGIST, "reopen"),
    Rule("POST", "/api/studies/{uid}/reanalyse", Role.RADIOLOGIST, "reanalyse"),
    Rule("PUT", "/api/studies/{uid}/clinical-priority", Role.RADIOLOGIST, "prioritise"),
    Rule("PUT", "/api/studies/{uid}/opinion", Role.RADIOLOGIST, "opine", speaks=True),
    Rule("GET", "/api/health/ready", Role.VIEWER),
    Rule("GET", "/api/docs", Role.VIEWER),
    Rule("GET", "/api/openapi.json", Role.VIEWER),
    Rule("GET", "/api/audit", Role.ADMIN, "audit"),
    Rule("GET", "/api/orders/kept", Role.ADMIN, "orders_kept"),
    # DICOMweb: studies, and workitems for them.
    Rule("GET", "/dicom-web/studies", Role.VIEWER, "list"),
    Rule("GET", "/dicom-web/series", Role.VIEWER, "list"),
    Rule("GET", "/dicom-web/instances", Role.VIEWER, "list"),
    Rule("GET", f"{_STUDY}/series", Role.VIEWER, "list"),
    Rule("GET", f"{_STUDY}/instances", Role.VIEWER, "list"),
    Rule("GET", f"{_SERIES}/instances", Role.VIEWER, "list"),
    Rule("GET", _STUDY, Role.VIEWER, "film"),
    Rule("GET", f"{_STUDY}/metadata", Role.VIEWER, "look"),
    Rule("GET", _SERIES, Role.VIEWER, "film"),
    Rule("GET", f"{_SERIES}/metadata", Role.VIEWER, "look"),
    Rule("GET", _INSTANCE, Role.VIEWER, "film"),
    Rule("GET", f"{_INSTANCE}/metadata", Role.VIEWER, "look"),
    Rule("GET", f"{_INSTANCE}/frames/{{frames}}", Role.VIEWER, "film"),
    Rule("GET", f"{_INSTANCE}/rendered", Role.VIEWER, "film"),
    Rule("GET", "/dicom-web/workitems", Role.VIEWER, "list"),
    Rule("POST", "/dicom-web/workitems", Role.RADIOLOGIST),
    Rule("GET", _WORKITEM, Role.VIEWER, "workitem"),
    Rule("POST", _WORKITEM, Role.RADIOLOGIST, "workitem"),
    Rule("PUT", f"{_WORKITEM}/state", Role.RADIOLOGIST, "workitem"),
    Rule("POST", f"{_WORKITEM}/cancelrequest", Role.RADIOLOGIST, "workitem"),
    Rule("POST", f"{_WORKITEM}/subscribers/{{ae_title}}", Role.RADIOLOGIST, "subscribe"),
    Rule("DELETE", f"{_WORKITEM}/subscribers/{{ae_title}}", Role.RADIOLOGIST, "subscribe"),
    Rule("POST", f"{_WORKITEM}/subscribers/{{ae_title}}/suspend", Role.RADIOLOGIST, "subscribe"),
    Rule("GET", "/dicom-web/subscribers/{ae_title}", Role.RADIOLOGIST, "subscribe"),
)

# What an address may call a verb; anything else that stands in its place is noted as unknown.
_BUTTONS = {
    "start",
    "read",
    "release",
    "reopen",
    "reanalyse",
    "agree",
    "disagree",
    "unsure",
    "stat",
    "urgent",
    "routine",
}
VERBS = frozenset({*_BUTTONS, *(rule.verb for rule in RULES)})


def find_rule(method: str, path: str) -> tuple[Rule | None, dict[str, str]]:
    """The first that fits, with what the address holds."""
    wanted = "GET" if method == "HEAD" else method
    for rule in RULES:
        if rule.method == wanted and (found := rule.pattern.match(path)):
            return rule, found.groupdict()
    return None, {}


def methods_of(path: str) -> list[str]:
    """That are served there."""
    return sorted({rule.method for rule in RULES if rule.pattern.match(path)})
