"""Who may do what: users, the roles they have, and what is noted of each access to a study."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Self

NAME_MAX = 64


class Role(StrEnum):
    """Each may do what those before it may."""

    VIEWER = "viewer"
    RADIOLOGIST = "radiologist"
    ADMIN = "admin"

    def covers(self, needed: Role) -> bool:
        order = list(Role)
        return order.index(self) >= order.index(needed)

    def at_most(self, other: Role | None) -> Self:
        """The lower of the two."""
        return type(self)(other) if other is not None and self.covers(other) else self


@dataclass(frozen=True, kw_only=True)
class User:
    """Somebody with a name; ``issuer`` is empty for those who have their password here."""

    name: str
    role: Role
    issuer: str = ""
    disabled: bool = False
    created_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Token:
    """A program's key, without the key. ``role`` None: that of its owner."""

    token_id: str
    owner: str
    label: str
    role: Role | None
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None
    revoked: bool


class Outcome(StrEnum):
    """How an access ended."""

    SUCCESS = "success"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who did what to which study; no study: to the worklist, or to the door itself.

    ``details``: JSON, for an audit repository alone; it may name patients.
    """

    at: datetime
    who: str
    verb: str
    study_instance_uid: str = ""
    outcome: Outcome = Outcome.SUCCESS
    address: str = ""
    access_id: int | None = None
    details: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Whose study was accessed."""

    study_instance_uid: str = field(repr=False)
    accession_number: str = field(repr=False)
    patient_id: str = field(repr=False)
    patient_name: str = field(repr=False)
