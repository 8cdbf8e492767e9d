"""A small OpenID provider as a process of its own: `python identity_provider.py PORT`. It signs everybody in.

Who signs in, and what is wrong with the answer, is told to it beforehand: POST /say with JSON, e.g. {"sub": "7",
"preferred_username": "adler", "roles": ["xray-readers"], "fault": "expired"}. POST /mint gives an access token.
"""

from __future__ import annotations

import base64
import hmac
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from secrets import token_urlsafe
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

CLIENT, AUDIENCE = "triage", "triage-api"


class Provider:
    """What it knows."""

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer
        self.key = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})
        self.person: dict[str, Any] = {}
        self.codes: dict[str, dict[str, str]] = {}

    def claims(self, audience: str, nonce: str | None) -> dict[str, Any]:
        now = int(time.time())
        told = {name: value for name, value in self.person.items() if name != "fault"}
        claims = {"iss": self.issuer, "aud": audience, "iat": now, "exp": now + 300, **told}
        return claims if nonce is None else {**claims, "nonce": nonce}

    def signed(self, audience: str, nonce: str | None = None) -> str:
        claims = self.claims(audience, nonce)
        match self.person.get("fault"):
            case "expired":
                claims["exp"] = int(time.time()) - 3600
            case "audience":
                claims["aud"] = "somebody-else"
            case "issuer":
                claims["iss"] = "https://elsewhere.example"
            case "nonce":
                claims["nonce"] = "another"
            case "no-subject":
                del claims["sub"]
            case "none":
                return f"{_part({'alg': 'none'})}.{_part(claims)}."
            case "forged":
                return jwt.encode({"alg": "RS256", "kid": "one"}, claims, RSAKey.generate_key(2048))
            case "shared-secret":  # the public key taken for a secret one
                signed = f"{_part({'alg': 'HS256', 'kid': self.key.kid})}.{_part(claims)}"
                made = hmac.digest(self.key.as_pem(private=False), signed.encode(), "sha256")
                return f"{signed}.{_encoded(made)}"
            case "new-key":
                self.key = RSAKey.generate_key(2048, {"kid": token_urlsafe(4), "use": "sig"})
        return jwt.encode({"alg": "RS256", "kid": self.key.kid}, claims, self.key)


def _part(content: dict[str, Any]) -> str:
    return _encoded(json.dumps(content).encode())


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


class Handler(BaseHTTPRequestHandler):
    provider: Provider

    def log_message(self, *_: object) -> None:
        """Nowhere."""

    def do_GET(self) -> None:
        parts, provider = urlsplit(self.path), self.provider
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/.well-known/openid-configuration":
            ends = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
            self.answer({"issuer": provider.issuer, **{k: f"{provider.issuer}/{v}" for k, v in ends.items()}})
        elif parts.path == "/keys":
            self.answer(KeySet([provider.key]).as_dict(private=False))
        elif parts.path == "/authorize":
            assert query["code_challenge_method"] == "S256"
            assert query["client_id"] == CLIENT
            assert query["response_type"] == "code"
            code = token_urlsafe(8)
            provider.codes[code] = query
            self.send_response(302)
            self.send_header(
                "Location", f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}"
            )
            self.end_headers()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path == "/say":
            self.provider.person = json.loads(body)
            self.answer({})
        elif self.path == "/mint":
            self.answer({"access_token": self.provider.signed(AUDIENCE)})
        else:
            self.exchange({name: values[0] for name, values in parse_qs(body).items()})

    def exchange(self, form: dict[str, str]) -> None:
        """RFC 7636, 4.6: only for the verifier of the challenge, and once."""
        asked = self.provider.codes.pop(form.get("code", ""), None)
        challenge = base64.urlsafe_b64encode(sha256(form.get("code_verifier", "").encode()).digest()).rstrip(b"=")
        if (
            asked is None
            or asked["code_challenge"] != challenge.decode()
            or form["redirect_uri"] != asked["redirect_uri"]
        ):
            self.answer({"error": "invalid_grant"}, 400)
            return
        token = self.provider.signed(CLIENT, asked["nonce"])
        self.answer({"access_token": "opaque", "token_type": "Bearer", "expires_in": 300, "id_token": token})

    def answer(self, content: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Identity:
    """The running provider, from the test's side."""

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer

    def say(self, **person: Any) -> None:
        httpx.post(f"{self.issuer}/say", json=person).raise_for_status()

    def mint(self, **person: Any) -> str:
        self.say(**person)
        return str(httpx.post(f"{self.issuer}/mint", json={}).json()["access_token"])


@contextmanager
def identity_provider() -> Iterator[Identity]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(Path(__file__)), str(port)], stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/keys")
                break
            except httpx.ConnectError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield Identity(f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    Handler.provider = Provider(f"http://127.0.0.1:{sys.argv[1]}")
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
