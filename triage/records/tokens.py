"""Tokens of programs: random, shown once, kept as a digest, for a time, revocable."""

from __future__ import annotations

from secrets import token_hex, token_urlsafe

from sqlalchemy import RowMapping, insert, select, update

from triage.errors import TriageError
from triage.records.account_tables import tokens, users
from triage.records.sessions import digest
from triage.records.store import Store
from triage.user import Role, Token, User

# So that scanners for secrets know one when they see it.
PREFIX = "triage_"
_NOTED_EVERY_SECONDS = 60.0


class Tokens:
    """Every method is one transaction; times are the database's."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, owner: str, label: str, days: float, role: Role | None = None) -> tuple[str, str]:
        """(its name, the token itself, which nobody can see again).

        Raise TriageError if there is no such user or ``role`` is more than the user's.
        """
        token_id, secret = token_hex(4), PREFIX + token_urlsafe(32)
        row = {"token_id": token_id, "token_sha256": digest(secret), "user_name": owner, "label": label[:64]}
        with self._store.writing() as connection:
            found = select(users.c.role).where(users.c.user_name == owner).with_for_update()
            owned = connection.execute(found).scalar_one_or_none()
            if owned is None:
                raise TriageError("there is no user of this name")
            if role is not None and not Role(owned).covers(role):
                raise TriageError("a token cannot have a higher role than its owner")
            times = {"created_at": self._store.now(), "expires_at": self._store.after(days * 86400.0)}
            connection.execute(insert(tokens).values(row | times | {"role": role}))
        return token_id, secret

    def find(self, secret: str) -> User | None:
        """Whose it is, with the lower role of the two. None if it is unknown, has run out or was revoked."""
        own, store = tokens.c.token_sha256 == digest(secret), self._store
        is_old = (tokens.c.used_at.is_(None) | (tokens.c.used_at <= store.after(-_NOTED_EVERY_SECONDS))).label("is_old")
        lives = (tokens.c.expires_at > store.now()) & tokens.c.revoked_at.is_(None) & ~users.c.disabled
        query = (
            select(users.c.user_name, users.c.role, tokens.c.role.label("token_role"), is_old)
            .join(users, users.c.user_name == tokens.c.user_name)
            .where(own & lives)
        )
        with store.reading() as connection:
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            return None
        if row["is_old"]:
            with store.at_once() as connection:
                connection.execute(update(tokens).where(own).values(used_at=store.now()))
        limit = Role(row["token_role"]) if row["token_role"] else None
        return User(name=row["user_name"], role=Role(row["role"]).at_most(limit))

    def all(self, owner: str | None = None) -> list[Token]:
        """The newest first."""
        query = select(tokens).order_by(tokens.c.created_at.desc(), tokens.c.token_id)
        with self._store.reading() as connection:
            rows = connection.execute(query if owner is None else query.where(tokens.c.user_name == owner)).mappings()
            return [_token(row) for row in rows]

    def revoke(self, token_id: str) -> None:
        """Again: nothing changes. Raise TriageError if there is none of this name."""
        own = tokens.c.token_id == token_id
        with self._store.writing() as connection:
            if connection.execute(select(tokens.c.token_id).where(own)).one_or_none() is None:
                raise TriageError("there is no token of this name; `triage users token list` shows them")
            revoked = update(tokens).where(own & tokens.c.revoked_at.is_(None)).values(revoked_at=self._store.now())
            connection.execute(revoked)


def _token(row: RowMapping) -> Token:
    told = {name: row[name] for name in ("token_id", "label", "created_at", "expires_at", "used_at")}
    role = Role(row["role"]) if row["role"] else None
    return Token(owner=row["user_name"], role=role, revoked=row["revoked_at"] is not None, **told)
