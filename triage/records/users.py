"""Users: who they are, what they may do, and whether a password is theirs."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, RowMapping, delete, exists, insert, select, update
from sqlalchemy.exc import IntegrityError

from triage.errors import ConflictError, TriageError
from triage.passwords import NOBODY, hash_password, is_password
from triage.records.account_tables import sessions, users
from triage.records.store import Store
from triage.user import NAME_MAX, Role, User


class Users:
    """Every method is one transaction. Users are disabled, never deleted: their names stand in histories."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def exist(self) -> bool:
        """Whether there has ever been one: disabling the last opens no door."""
        with self._store.reading() as connection:
            return bool(connection.execute(select(exists().where(users.c.user_name.is_not(None)))).scalar_one())

    def add(self, name: str, role: Role, password: str) -> None:
        """Raise TriageError if the name or the password will not do, ConflictError if there is such a user."""
        _check_name(name)
        row = {"role": role, "password_hash": hash_password(password), "issuer": "", "subject": name}
        with self._store.writing() as connection:
            self._insert(connection, name, row)

    def all(self) -> list[User]:
        """In the order of their names."""
        with self._store.reading() as connection:
            rows = connection.execute(select(users).order_by(users.c.folded_name)).mappings()
            return [_user(row) for row in rows]

    def set_role(self, name: str, role: Role) -> None:
        """Raise TriageError if there is no such user, or the identity provider says which role it has."""
        with self._store.writing() as connection:
            if self._locked(connection, name)["issuer"]:
                raise TriageError("the role of this user comes from the identity provider")
            self._change(connection, name, {"role": role})

    def set_password(self, name: str, password: str) -> None:
        """And end all sessions. Raise TriageError if there is no such user, or its password is not kept here."""
        hashed = hash_password(password)
        with self._store.writing() as connection:
            if self._locked(connection, name)["issuer"]:
                raise TriageError("this user has no password here: the identity provider knows it")
            self._change(connection, name, {"password_hash": hashed})
            connection.execute(delete(sessions).where(sessions.c.user_name == name))

    def disable(self, name: str, *, disabled: bool = True) -> None:
        """Sessions end, tokens no longer open anything. Raise TriageError if there is no such user."""
        with self._store.writing() as connection:
            self._locked(connection, name)
            self._change(connection, name, {"disabled": disabled})
            connection.execute(delete(sessions).where(sessions.c.user_name == name))

    def unlock(self, name: str) -> None:
        """Attempts to sign in until now count no more. Raise TriageError if there is no such user."""
        with self._store.writing() as connection:
            self._locked(connection, name)
            self._change(connection, name, {"unlocked_at": self._store.now()})

    def unlocked_seconds_ago(self, name: str) -> float | None:
        """None if never, or if there is no such user."""
        query = select(users.c.unlocked_at, self._store.now()).where(users.c.user_name == name)
        with self._store.reading() as connection:
            at, now = connection.execute(query).one_or_none() or (None, None)
        return None if at is None or now is None else float((now - at).total_seconds())

    def find(self, name: str) -> User | None:
        """Only if it is not disabled."""
        with self._store.reading() as connection:
            row = connection.execute(select(users).where(users.c.user_name == name)).mappings().one_or_none()
        return _user(row) if row is not None and not row["disabled"] else None

    def with_password(self, name: str, password: str) -> User | None:
        """Whose password it is. Takes as long for a name that nobody has."""
        with self._store.reading() as connection:
            row = connection.execute(select(users).where(users.c.user_name == name)).mappings().one_or_none()
        matches = is_password(password, (row["password_hash"] if row is not None else None) or NOBODY)
        return _user(row) if matches and row is not None and not row["disabled"] else None

    def from_issuer(self, issuer: str, subject: str, name: str, role: Role) -> User | None:
        """Who the identity provider says it is, with the role it says; known from then on. None if disabled.

        Known by the subject: who gets a new name there keeps the old one here. Raise ConflictError if the name is
        another user's here, TriageError if it will not do.
        """
        same = (users.c.issuer == issuer) & (users.c.subject == subject)
        with self._store.reading() as connection:
            known = connection.execute(select(users).where(same)).mappings().one_or_none()
        if known is not None and (known["disabled"] or known["role"] == role):
            return None if known["disabled"] else _user(known)
        with self._store.writing() as connection:
            if known is None:
                _check_name(name)
                self._insert(connection, name, {"role": role, "issuer": issuer, "subject": subject})
            else:
                connection.execute(update(users).where(same).values(role=role))
        return User(name=name if known is None else known["user_name"], role=role, issuer=issuer)

    def _insert(self, connection: Connection, name: str, row: dict[str, Any]) -> None:
        plain = {"user_name": name, "folded_name": name.casefold(), "disabled": False, "created_at": self._store.now()}
        try:
            connection.execute(insert(users).values(plain | row))
        except IntegrityError:
            raise ConflictError(
                "there is a user of this name; one that is disabled comes back by `triage users disable NAME --undo`"
            ) from None

    def _locked(self, connection: Connection, name: str) -> RowMapping:
        found = select(users).where(users.c.user_name == name).with_for_update()
        row = connection.execute(found).mappings().one_or_none()
        if row is None:
            raise TriageError("there is no user of this name")
        return row

    def _change(self, connection: Connection, name: str, values: dict[str, Any]) -> None:
        connection.execute(update(users).where(users.c.user_name == name).values(values))


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= NAME_MAX or not name.isprintable() or name != name.strip():
        raise TriageError(f"a name has 1 to {NAME_MAX} characters that can be seen, and no space at its ends")


def _user(row: RowMapping) -> User:
    role = Role(row["role"])
    told = {name: row[name] for name in ("issuer", "disabled", "created_at")}
    return User(name=row["user_name"], role=role, **told)
