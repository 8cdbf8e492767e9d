"""Signing in at the site's identity provider: OpenID Connect, authorization code flow with PKCE (RFC 7636).

What the browser holds while it is away is one random cookie; state, nonce and verifier are derived from it, so that
nothing is kept here, and an answer meant for another browser fits nowhere.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

import httpx2
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.httpx_client import OAuth2Client
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from daemon.telemetry import describe, log
from daemon.web.remembered import Remembered
from triage.errors import ConflictError, TriageError
from triage.records.users import Users
from triage.user import Role, User

BACK = "/login/oidc/back"
# Signatures only: with a shared secret, whoever can check a token could also make one, and "none" is none.
_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"]
_SECONDS = 10.0
_KEYS_SECONDS = 3600.0
# Not every forged key name may send us to the provider, nor every request to one that does not answer.
_KEYS_AGAIN_SECONDS = 10.0
_LEEWAY_SECONDS = 30


class SignInError(TriageError):
    """The identity provider, or what came from it, does not do; the text says why, and may be shown."""


@dataclass(frozen=True, kw_only=True)
class Client:
    """What the site has agreed on with its identity provider. ``audience`` empty: no tokens for programs."""

    issuer: str
    client_id: str
    redirect_uri: str
    client_secret: str = field(default="", repr=False)
    audience: str = ""
    roles_claim: str = "roles"
    name_claim: str = "preferred_username"
    roles: Sequence[tuple[Role, str]] = ()


class Provider:
    """The identity provider. What it says of itself and its keys is asked for when first needed, and kept a while."""

    def __init__(self, client: Client, users: Users) -> None:
        self._client = client
        self._users = users
        self._about = Remembered(self._ask_about, _KEYS_AGAIN_SECONDS)
        self._keys = Remembered(self._ask_keys, _KEYS_AGAIN_SECONDS)

    # -- people ----------------------------------------------------------------------------------------------------

    def address(self, secret: str) -> str:
        """Where to send a browser that holds ``secret``. Raise SignInError, BusyError as everything here."""
        with self._session() as session:
            url, _ = session.create_authorization_url(
                self._described()["authorization_endpoint"],
                state=_derived(secret, "state"),
                nonce=_derived(secret, "nonce"),
                code_verifier=_derived(secret, "verifier"),
            )
        return str(url)

    def user_back(self, secret: str, query: Mapping[str, str]) -> User:
        """Who comes back. Raise SignInError."""
        if not secret or not hmac.compare_digest(query.get("state", "").encode(), _derived(secret, "state").encode()):
            raise SignInError("This sign-in was not begun in this browser, or too long ago. Begin again.")
        if query.get("iss", self._client.issuer) != self._client.issuer:  # RFC 9207
            raise SignInError("The answer comes from another identity provider.")
        if "code" not in query:
            raise SignInError("The identity provider has not signed you in.")
        claims = self._checked(self._id_token(query["code"], secret), self._client.client_id)
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), _derived(secret, "nonce").encode()):
            raise SignInError("The identity provider's answer belongs to another sign-in.")
        if claims.get("azp", self._client.client_id) != self._client.client_id:
            raise SignInError("The identity provider's answer is meant for another application.")
        return self._user(claims)

    def _id_token(self, code: str, secret: str) -> str:
        endpoint = self._described()["token_endpoint"]
        try:
            with self._session() as session:
                found = session.fetch_token(endpoint, code=code, code_verifier=_derived(secret, "verifier"))
        except (OAuthError, httpx2.HTTPError, ValueError) as error:
            log().warning("oidc_failed", **describe(error))
            raise SignInError("The identity provider does not accept this sign-in.") from None
        return str(found.get("id_token", ""))

    def _session(self) -> OAuth2Client:
        client = self._client
        return OAuth2Client(
            client_id=client.client_id,
            client_secret=client.client_secret or None,
            token_endpoint_auth_method="client_secret_basic" if client.client_secret else "none",
            scope="openid profile",
            redirect_uri=client.redirect_uri,
            code_challenge_method="S256",
            timeout=_SECONDS,
        )

    # -- programs --------------------------------------------------------------------------------------------------

    def user_of_token(self, token: str) -> User | None:
        """Whose access token it is (RFC 9068), None if it does not do. Raise BusyError if that cannot be told yet."""
        if not self._client.audience or token.count(".") != 2:  # noqa: PLR2004 - header, claims, signature
            return None
        try:
            return self._user(self._checked(token, self._client.audience))
        except SignInError:
            return None

    # -- the site --------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Ask it what it says of itself, and for its keys. Raise SignInError."""
        self._described()
        self._keys.get(0.0)

    # -- both ------------------------------------------------------------------------------------------------------

    def _user(self, claims: Mapping[str, Any]) -> User:
        role = self._role(claims)
        subject = str(claims["sub"])
        name = str(claims.get(self._client.name_claim) or claims.get("client_id") or subject)
        try:
            user = self._known(subject, name, role)
        except ConflictError:
            raise SignInError("Another user has this name here. Ask who looks after this server.") from None
        except TriageError as error:
            raise SignInError(f"The name does not do: {error}.") from None
        if user is None:
            raise SignInError("This user is disabled here.")
        return user

    def _known(self, subject: str, name: str, role: Role) -> User | None:
        try:
            return self._users.from_issuer(self._client.issuer, subject, name, role)
        except ConflictError:  # perhaps with itself: two first requests at once
            return self._users.from_issuer(self._client.issuer, subject, name, role)

    def _role(self, claims: Mapping[str, Any]) -> Role:
        """The highest of those that the claim stands for."""
        found: Any = claims
        for part in self._client.roles_claim.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        groups = {found} if isinstance(found, str) else {each for each in found or () if isinstance(each, str)}
        roles = [role for role, group in self._client.roles if group in groups]
        if not roles:
            raise SignInError("The identity provider gives you no role here.")
        return max(roles, key=list(Role).index)

    def _checked(self, token: str, audience: str) -> Mapping[str, Any]:
        """The claims of a token that the provider has signed for ``audience`` and that holds now."""
        options: dict[str, Any] = {
            "iss": {"essential": True, "value": self._client.issuer},
            "aud": {"essential": True, "value": audience},
            "exp": {"essential": True},
            "sub": {"essential": True},
        }
        try:
            decoded = self._decoded(token)
            jwt.JWTClaimsRegistry(leeway=_LEEWAY_SECONDS, **options).validate(decoded.claims)
        except (JoseError, ValueError) as error:
            log().warning("oidc_token_refused", error=type(error).__name__)
            raise SignInError("The identity provider's token does not do.") from None
        return decoded.claims

    def _decoded(self, token: str) -> jwt.Token:
        """With the keys that are known, or those that the provider has by now."""
        try:
            return jwt.decode(token, self._keys.get(_KEYS_SECONDS, or_older=True), algorithms=_ALGORITHMS)
        except (JoseError, ValueError):
            return jwt.decode(token, self._keys.get(_KEYS_AGAIN_SECONDS), algorithms=_ALGORITHMS)

    def _ask_keys(self) -> KeySet:
        found = self._get(self._described()["jwks_uri"])
        try:
            return KeySet.import_key_set({"keys": [key for key in found["keys"] if key["kty"] != "oct"]})
        except (JoseError, KeyError, TypeError, ValueError):
            raise SignInError("The identity provider's keys cannot be read.") from None

    def _described(self) -> dict[str, Any]:
        return self._about.get(math.inf)

    def _ask_about(self) -> dict[str, Any]:
        """OpenID Connect Discovery 1.0, 4."""
        found = self._get(self._client.issuer.rstrip("/") + "/.well-known/openid-configuration")
        if found.get("issuer") != self._client.issuer:
            raise SignInError("The identity provider calls itself by another name than oidc_issuer.")
        names = ("authorization_endpoint", "token_endpoint", "jwks_uri")
        if not all(is_safe(str(found.get(name, ""))) for name in names):
            raise SignInError("The identity provider does not say where to sign in, or not over https.")
        return found

    def _get(self, url: str) -> dict[str, Any]:
        try:
            answer = httpx2.get(url, timeout=_SECONDS).raise_for_status().json()
        except (httpx2.HTTPError, ValueError) as error:
            log().error("oidc_unavailable", **describe(error))
            raise SignInError("The identity provider does not answer.") from None
        if not isinstance(answer, dict):
            raise SignInError("The identity provider does not answer as it should.")
        return answer


def is_safe(url: str) -> bool:
    """Over TLS, or on this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in {"localhost", "127.0.0.1", "::1"})


def _derived(secret: str, purpose: str) -> str:
    """64 hexadecimal digits: within what a verifier may be (RFC 7636, 4.1)."""
    return hmac.new(secret.encode(), purpose.encode(), sha256).hexdigest()
