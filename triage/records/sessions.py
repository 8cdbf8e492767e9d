"""Sessions of browsers, known by the digest of what the browser holds: the table opens no door to who reads it."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from secrets import token_urlsafe

from sqlalchemy import delete, insert, select, update

from triage.records.account_tables import sessions, users
from triage.records.store import Store
from triage.user import Role, User

# To note each request would be a write for each look at the page.
_NOTED_EVERY_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Sessions:
    """Every method is one transaction; times are the database's. ``idle_seconds`` without a request end a session."""

    store: Store
    idle_seconds: float = 1800.0
    total_seconds: float = 43200.0

    def open(self, user_name: str) -> str:
        """What the browser is to hold, never the same twice. Those that have run out are swept."""
        secret, store = token_urlsafe(32), self.store
        row = {"session_sha256": digest(secret), "user_name": user_name}
        times = {"created_at": store.now(), "seen_at": store.now(), "expires_at": store.after(self.total_seconds)}
        stale = (sessions.c.expires_at <= store.now()) | (sessions.c.seen_at <= store.after(-self.idle_seconds))
        with store.writing() as connection:
            connection.execute(delete(sessions).where(stale))
            connection.execute(insert(sessions).values(row | times))
        return secret

    def find(self, secret: str, *, is_use: bool = True) -> User | None:
        """Whose session it is, with the role that the user has now. None if it has run out or the user is disabled.

        ``is_use``: somebody asks for something; else the session runs out as if nobody had looked.
        """
        store, own = self.store, sessions.c.session_sha256 == digest(secret)
        is_old = (sessions.c.seen_at <= store.after(-_NOTED_EVERY_SECONDS)).label("is_old")
        query = select(users.c.user_name, users.c.role, users.c.issuer, is_old).join(
            users, users.c.user_name == sessions.c.user_name
        )
        lives = (sessions.c.expires_at > store.now()) & (sessions.c.seen_at > store.after(-self.idle_seconds))
        with store.reading() as connection:
            row = connection.execute(query.where(own & lives & ~users.c.disabled)).mappings().one_or_none()
        if row is None:
            return None
        if row["is_old"] and is_use:
            with store.at_once() as connection:
                connection.execute(update(sessions).where(own).values(seen_at=store.now()))
        return User(name=row["user_name"], role=Role(row["role"]), issuer=row["issuer"])

    def close(self, secret: str) -> None:
        with self.store.at_once() as connection:
            connection.execute(delete(sessions).where(sessions.c.session_sha256 == digest(secret)))


def digest(secret: str) -> str:
    """Of 256 random bits: nothing slower than sha256 is needed."""
    return sha256(secret.encode("utf-8", "replace")).hexdigest()
