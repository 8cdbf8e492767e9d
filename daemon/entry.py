"""Who may come in on the web: the entrance as the settings have it, or a refusal to open to everybody."""

from __future__ import annotations

from daemon.house import House
from daemon.notation import split_proxy, split_role
from daemon.settings import Settings
from daemon.telemetry import log
from daemon.web.keys import Keys
from daemon.web.login import Entrance
from daemon.web.oidc import BACK, Client, Provider
from daemon.web.peer import Peers
from triage.errors import TriageError
from triage.records.sessions import Sessions
from triage.records.tokens import Tokens


def build_entrance(house: House) -> Entrance:
    """Raise TriageError if everybody could come in from elsewhere."""
    settings = house.settings
    keys = Keys(
        users=house.users,
        sessions=Sessions(
            store=house.store,
            idle_seconds=settings.session_idle_minutes * 60,
            total_seconds=settings.session_hours * 3600,
        ),
        tokens=Tokens(house.store),
        peers=Peers(tuple(map(split_proxy, settings.http_proxies)), settings.http_url),
        provider=Provider(oidc_client(settings), house.users) if settings.oidc_issuer else None,
    )
    _refuse_open_door(settings, has_keys=keys.are_needed())
    return Entrance(keys=keys, trail=house.trail, audit=house.audit, orders=house.orders)


def _refuse_open_door(settings: Settings, *, has_keys: bool) -> None:
    where = settings.http_url or settings.http_host
    is_reached = settings.http_is_reached
    if is_reached and not has_keys:
        if not settings.http_allow_remote:
            raise TriageError(
                f"http_host {where}: the page shows patients, and nobody has a password yet. Make a user with "
                "`triage users add NAME --role admin`, or set oidc_issuer, or keep it on loopback, without a proxy"
            )
        log().warning("web_open_to_all", host=where, setting="http_allow_remote")
    if is_reached and has_keys and not settings.http_is_encrypted:
        log().warning("web_without_tls", host=where, problem="passwords travel in the clear; see http_url")


def oidc_client(settings: Settings) -> Client:
    """Raise TriageError if the secret cannot be read."""
    secret_file = settings.oidc_client_secret_file
    try:
        secret = secret_file.read_text(encoding="utf-8").strip() if secret_file else ""
    except (OSError, UnicodeDecodeError) as error:
        raise TriageError(f"oidc_client_secret_file {secret_file}: cannot be read ({type(error).__name__})") from None
    return Client(
        issuer=settings.oidc_issuer,
        client_id=settings.oidc_client_id,
        client_secret=secret,
        redirect_uri=settings.http_url + BACK,
        audience=settings.oidc_audience,
        name_claim=settings.oidc_name_claim,
        roles_claim=settings.oidc_roles_claim,
        roles=tuple(map(split_role, settings.oidc_roles)),
    )
