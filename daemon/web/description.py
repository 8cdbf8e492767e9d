"""The interface as OpenAPI describes it: beyond what FastAPI knows, the form of failures, and who may ask."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from daemon.web.keys import COOKIE
from daemon.web.roles import find_rule
from daemon.web.schemas import WORKLIST_EXAMPLE, Problem, failures
from triage.user import Role

_TOKEN, _SESSION = "token", "session"
_SCHEMES = {
    _TOKEN: {
        "type": "http",
        "scheme": "bearer",
        "description": "For programs: `triage users token add`, or an access token of the site's identity provider.",
    },
    _SESSION: {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": "For the site's own pages, once somebody has signed in; over TLS its name begins with __Host-. "
        "What changes something has to come from such a page, by Origin or Sec-Fetch-Site.",
    },
}


class DescribedApp(FastAPI):
    """Adds to its OpenAPI the form of failures, which no function returns, an example (nulls would be dropped), and
    what the door asks for.
    """

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema:
            return self.openapi_schema
        described = super().openapi()
        components = described["components"]
        components["schemas"]["Problem"] = Problem.model_json_schema()
        components["schemas"]["Worklist"]["examples"] = [WORKLIST_EXAMPLE]
        components["securitySchemes"] = _SCHEMES
        for path, operations in described["paths"].items():
            for method, operation in operations.items():
                _say_who_may(operation, method.upper(), path)
        return described

    def query_keys(self, method: str, path: str) -> frozenset[str] | None:
        """That an operation is described with; None for what is not described."""
        operation = self.openapi()["paths"].get(path, {}).get(method.lower())
        if operation is None:
            return None
        return frozenset(each["name"] for each in operation.get("parameters", []) if each["in"] == "query")


def _say_who_may(operation: dict[str, Any], method: str, path: str) -> None:
    """Until the site has users nobody is asked: hence the last choice, which is none."""
    rule, _ = find_rule(method, path)
    if rule is None or rule.role is None:
        operation["security"] = []
        return
    operation["security"] = [{_TOKEN: []}, {_SESSION: []}, {}]
    can_be_too_low = rule.role is not Role.VIEWER or method != "GET"
    for status, answer in failures(401, *[403] * can_be_too_low).items():
        operation["responses"].setdefault(str(status), answer)
