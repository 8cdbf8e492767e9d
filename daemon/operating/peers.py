"""Peers that we call: does each answer C-ECHO under the name that the settings give it?"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress

from daemon.dicom.echo import echo
from daemon.notation import split_application, split_repository
from daemon.operating.verdict import Area, Verdict, fail, ok, warn
from daemon.settings import Settings
from daemon.tls import Files, tls_problem
from triage.errors import TriageError

_SECONDS = 5.0
# Since TLS 1.3 whom we call looks at our certificate only after we are done with theirs (RFC 8446 4.4.2.4).
_REFUSAL_SECONDS = 0.5


def look_at_repository(settings: Settings) -> Iterator[Verdict]:
    """Whether who listens where audit messages go is who we trust; over UDP nobody would say so."""
    if not settings.audit_repository:
        return
    kind, host, port = split_repository(settings.audit_repository)
    words = f"audit_repository {settings.audit_repository}"
    if kind == "udp":
        yield ok(Area.PEERS, f"{words} cannot be asked")
        return
    try:
        tls = Files.of(settings, "audit").calling() if kind == "tls" else None
    except TriageError:  # told with the certificates
        return
    try:
        _greet(host, port, tls)
    except ssl.SSLError as error:
        fix = "give audit_tls_ca_file of who issued its certificate, which names the host that audit_repository names, "
        fix += "and audit_tls_certificate_file if it asks for one"
        yield fail(Area.PEERS, f"{words}: no TLS can be agreed on ({tls_problem(error)})", fix)
    except OSError as error:
        fix = f"bring it back: up to audit_waiting_max ({settings.audit_waiting_max}) messages wait for it"
        yield warn(Area.PEERS, f"{words} does not answer ({error.strerror or type(error).__name__})", fix)
    else:
        yield ok(Area.PEERS, f"{words} answers")


def _greet(host: str, port: int, tls: ssl.SSLContext | None) -> None:
    """Raise OSError; ssl.SSLError where one side does not trust the other."""
    with socket.create_connection((host, port), _SECONDS) as plain:
        if tls is None:
            return
        with tls.wrap_socket(plain, server_hostname=host) as secure:
            secure.settimeout(_REFUSAL_SECONDS)
            with suppress(TimeoutError):  # it has nothing to say to us
                if not secure.recv(1):
                    raise ConnectionResetError


def look_at_peers(settings: Settings) -> Iterator[Verdict]:
    """Those of dicom_peers call us: of them we know networks, and no port."""
    yield from look_at_repository(settings)
    called = [("ups_subscribers", each) for each in settings.ups_subscribers]
    called += [("mwl_peer", settings.mwl_peer)] if settings.mwl_peer else []
    try:
        files = Files.of(settings, "dicom_calling")
        tls = files.calling() if files.ca else None
    except TriageError:  # told with the certificates
        return
    for setting, text in called:
        peer, address = split_application(text, setting)
        found = echo(peer, address, settings.dicom_ae_title, _SECONDS, tls)
        words = f"{setting} {text}"
        if found.accepted:
            yield ok(Area.PEERS, f"{words} answers")
        elif found.answered:
            fix = f"let it know us as {settings.dicom_ae_title} from this machine's address, with Verification"
            yield fail(Area.PEERS, f"{words}: {found.problem}", fix)
        else:
            yield warn(Area.PEERS, f"{words} does not answer", "see that it runs, and that no firewall stands between")
    if not called:
        yield ok(Area.PEERS, "no DICOM application is called by us (ups_subscribers, mwl_peer)")
