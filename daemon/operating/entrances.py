"""Who can come in on the web, and whether the identity provider is who it should be."""

from __future__ import annotations

from collections.abc import Iterator

from daemon.entry import oidc_client
from daemon.operating.verdict import Area, Verdict, fail, ok, warn
from daemon.settings import Settings
from daemon.web.oidc import Provider, SignInError
from triage.records.users import Users
from triage.user import Role


def look_at_web(settings: Settings, users: Users) -> Iterator[Verdict]:
    where, everybody = settings.http_url or settings.http_host, users.all()
    has_keys = bool(everybody) or bool(settings.oidc_issuer)
    if not settings.http_is_reached and not has_keys:
        yield ok(Area.WEB, "the page is open to this machine alone, without users")
        return
    if not has_keys:
        yield _open(settings)
        return
    if settings.http_is_reached and not settings.http_is_encrypted:
        words = f"the page is reached at {where}, and passwords travel in the clear"
        yield warn(Area.WEB, words, "set http_tls_certificate_file, or http_url to https://NAME of a proxy with TLS")
    if not settings.oidc_issuer and not any(user.role is Role.ADMIN and not user.disabled for user in everybody):
        yield warn(Area.WEB, "there is no admin: nobody sees the audit on the web", "triage users role NAME admin")
    yield ok(Area.WEB, f"{len(everybody)} users; the page asks who it is")


def _open(settings: Settings) -> Verdict:
    words = f"the page shows patients at {settings.http_url or settings.http_host} to everybody"
    if settings.http_allow_remote:
        return warn(Area.WEB, f"{words}, unless the proxy before it asks who it is", "make users, or see that it does")
    return fail(Area.WEB, f"{words}: `triage web` does not start", "triage users add NAME --role admin")


def look_at_provider(settings: Settings, users: Users) -> Iterator[Verdict]:
    """Its discovery document, and its keys."""
    if not settings.oidc_issuer:
        return
    words = f"identity provider {settings.oidc_issuer}"
    try:
        Provider(oidc_client(settings), users).check()
    except SignInError as error:
        yield fail(Area.IDENTITY_PROVIDER, f"{words}: {error}", "see oidc_issuer, and that this machine reaches it")
    else:
        yield ok(Area.IDENTITY_PROVIDER, f"{words} says where to sign in, and shows its keys")
