"""Passwords as they are kept: Argon2id with the second recommendation of RFC 9106 (64 MiB, three passes)."""

from __future__ import annotations

import threading

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from argon2.profiles import RFC_9106_LOW_MEMORY

from triage.errors import TriageError

PASSWORD_MIN, PASSWORD_MAX = 12, 1024
_HASHER = PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)
# Of no password; checking against it takes as long as against any other.
NOBODY = "$argon2id$v=19$m=65536,t=3,p=4$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
# Each check takes 64 MiB and a core: a flood of them waits here instead of in memory.
_turns = threading.BoundedSemaphore(2)


def hash_password(password: str) -> str:
    """Raise TriageError if it is too short or too long."""
    if not PASSWORD_MIN <= len(password) <= PASSWORD_MAX:
        raise TriageError(f"a password has {PASSWORD_MIN} to {PASSWORD_MAX} characters")
    with _turns:
        return _HASHER.hash(password)


def is_password(password: str, hashed: str) -> bool:
    with _turns:
        try:
            return _HASHER.verify(hashed, password[: PASSWORD_MAX + 1])
        except (Argon2Error, InvalidHashError):
            return False
