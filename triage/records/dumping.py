"""How pg_dump(1) and pg_restore(1) are told which PostgreSQL is meant: never by a password that others could see."""

from __future__ import annotations

from sqlalchemy import URL, make_url


def libpq(database_url: str) -> tuple[str, str]:
    """A URL as libpq reads it, without its password, and the password; "" for none."""
    url = make_url(database_url)
    query = {name: value for name, value in url.query.items() if name != "password"}
    given = url.query.get("password", "")
    password = str(url.password or (given if isinstance(given, str) else given[0]))
    # Not url.set: there None means "as it was".
    plain = URL.create("postgresql", url.username, None, url.host, url.port, url.database, query)
    return plain.render_as_string(hide_password=False), password
