"""Where a request comes from, and over what: what a proxy says of it counts only if the proxy is one of the site's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from starlette.datastructures import Headers
from starlette.types import Scope

Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Peers:
    """``public_url``: under which browsers ask, if that is not what the server sees."""

    proxies: Sequence[Network] = ()
    public_url: str = ""

    def address(self, scope: Scope) -> str:
        """Of who asks; "" where there is none. The last that no proxy of ours has added in good faith."""
        client = scope.get("client")
        address = str(client[0]) if client else ""
        told = Headers(scope=scope).get("x-forwarded-for", "")
        for hop in reversed([part.strip() for part in told.split(",") if part.strip()]):
            if not self._is_ours(address):
                break
            address = hop[:64]
        return address

    def is_secure(self, scope: Scope) -> bool:
        """Whether the browser speaks TLS, so that its cookies must never travel without."""
        if scope.get("scheme") == "https" or self.public_url.startswith("https://"):
            return True
        client = scope.get("client")
        forwarded = Headers(scope=scope).get("x-forwarded-proto", "")
        return forwarded == "https" and client is not None and self._is_ours(str(client[0]))

    def _is_ours(self, address: str) -> bool:
        try:
            found = ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self.proxies)
