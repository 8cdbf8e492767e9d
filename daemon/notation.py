"""How settings write down addresses, peers and roles: one text each, to what it stands for; and our own machine."""

from __future__ import annotations

import re
import socket
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from urllib.parse import quote

from triage.errors import SettingsError
from triage.user import Role

_AE_CHARACTERS = 16
_PORTS = 2**16
_WITHOUT_PASSWORD = re.compile(r"(postgresql(?:\+\w+)?://[^:/?#@]+)(@.*)", re.DOTALL)
# RFC 5425, RFC 6587 and RFC 5426.
_SYSLOG_PORTS = {"tls": 6514, "tcp": 601, "udp": 514}
_ODD = re.compile(r"[^A-Za-z0-9._-]")
_HOST_NAME = re.compile(r"[A-Za-z0-9_-]*[A-Za-z][A-Za-z0-9._-]*$")


def this_host() -> str:
    """What our files and rows call this machine."""
    return _ODD.sub("_", socket.gethostname())[:40]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def lacks_password(url: str) -> bool:
    """Whether it names a user of PostgreSQL without a password."""
    return _WITHOUT_PASSWORD.fullmatch(url) is not None


def with_password(url: str, file: Path) -> str:
    """``url`` and what stands in ``file``. Raise SettingsError, without any of it."""
    try:
        password = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        words = getattr(error, "strerror", None) or "no text"
        raise SettingsError(f"database_password_file {file}: {words}") from None
    return _WITHOUT_PASSWORD.sub(lambda found: f"{found[1]}:{quote(password, safe='')}{found[2]}", url)


def split_proxy(text: str) -> IPv4Network | IPv6Network:
    """Raise ValueError."""
    try:
        return ip_network(text)
    except ValueError:
        raise ValueError(f"http_proxies: {text!r} is no IP address or network") from None


def split_role(text: str) -> tuple[Role, str]:
    """Role and group of "ROLE=GROUP". Raise ValueError."""
    role, _, group = text.partition("=")
    if role.strip() not in set(Role) or not group.strip():
        raise ValueError(f"oidc_roles: {text!r} is not of the form ROLE=GROUP with a role of {', '.join(Role)}")
    return Role(role.strip()), group.strip()


def split_peer(text: str) -> tuple[str, IPv4Network | IPv6Network]:
    """AE title and network of "AE@ADDRESS" or "AE@NETWORK". Raise ValueError."""
    ae_title, at, network = text.rpartition("@")
    if not at or not ae_title.strip() or len(ae_title) > _AE_CHARACTERS:
        raise ValueError(f"dicom_peers: {text!r} is not of the form AE@ADDRESS or AE@NETWORK")
    return ae_title.strip(), _network(text, ae_title, network)


def split_application(text: str, setting: str) -> tuple[str, tuple[str, int]]:
    """AE title, host and port of "AE@HOST:PORT". Raise ValueError, naming the setting."""
    ae_title, _, where = text.rpartition("@")
    host, _, port = where.rpartition(":")
    if (
        not ae_title.strip()
        or len(ae_title) > _AE_CHARACTERS
        or not host
        or not (port.isascii() and port.isdecimal() and int(port) < _PORTS)
    ):
        raise ValueError(f"{setting}: {text!r} is not of the form AE@HOST:PORT")
    return ae_title.strip(), (host.strip("[]"), int(port))


def _network(text: str, ae_title: str, network: str) -> IPv4Network | IPv6Network:
    try:
        found = ip_network(network, strict=False)
    except ValueError:
        words = "host names are not supported, write the address" if _HOST_NAME.match(network) else "no such address"
        raise ValueError(f"dicom_peers: {network!r} in {text!r} is no IP address or network; {words}") from None
    address, slash, _ = network.partition("/")
    if slash and ip_address(address) != found.network_address:
        raise ValueError(
            f"dicom_peers: {text!r} is neither one address nor a network; did you mean {ae_title}@{found} or "
            f"{ae_title}@{address}?"
        )
    return found


def sender_network(text: str) -> IPv4Network | IPv6Network:
    """Of an address or a network. Raise ValueError."""
    try:
        return ip_network(text)
    except ValueError:
        raise ValueError(f"hl7_peers: {text!r} is neither an IP address nor a network like 10.1.0.0/16") from None


def split_repository(text: str) -> tuple[str, str, int]:
    """Kind (tls, tcp or udp), host and port of "syslog-KIND://HOST:PORT"; without port that of the kind."""
    scheme, _, where = text.partition("://")
    kind = scheme.removeprefix("syslog-")
    host, port = where, ""
    if not where.endswith("]"):
        host, _, port = where.rpartition(":") if ":" in where else (where, "", "")
    return kind, host.strip("[]"), int(port) if port else _SYSLOG_PORTS[kind]
