"""Certificates of each file that the settings name: do they belong together, and until when do they hold?"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from daemon.operating.verdict import Area, Verdict, fail, ok, warn
from daemon.settings import WINGS, Settings
from daemon.tls import CALLING, Files
from triage.errors import TriageError

_SOON = timedelta(days=30)


def look_at_certificates(settings: Settings) -> Iterator[Verdict]:
    """Of every wing that encrypts. Raise nothing: files that cannot be read are a verdict."""
    if settings.dicom_tls_certificate_file is None:
        yield ok(Area.CERTIFICATES, "associations are not encrypted (dicom_tls_certificate_file is not set)")
    for wing in WINGS:
        yield from _look(Files.of(settings, wing))


def _look(files: Files) -> Iterator[Verdict]:
    try:
        if files.wing in CALLING and files.ca:
            files.calling()
        elif files.certificate:
            files.serving()
    except TriageError as error:
        yield fail(Area.CERTIFICATES, str(error), "give PEM files that the daemon's user can read")
        return
    if files.certificate:
        yield from _chain(f"{files.wing}_tls_certificate_file", files.certificate)
    if files.key:
        yield from _private(f"{files.wing}_tls_key_file", files.key)
    if files.ca:
        for each in _read(files.ca):
            yield _validity(f"{files.wing}_tls_ca_file", each)


def _read(path: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(path.read_bytes())


def _chain(setting: str, path: Path) -> Iterator[Verdict]:
    """The server's own first, then each issuer (RFC 8446, 4.4.2)."""
    found = _read(path)
    for each in found:
        yield _validity(setting, each)
    for child, parent in pairwise(found):
        try:
            child.verify_directly_issued_by(parent)
        except (ValueError, TypeError, InvalidSignature):
            words = f"{setting}: {_name(child)} was not issued by {_name(parent)}, which follows it"
            yield fail(Area.CERTIFICATES, words, "put the server's certificate first, then each issuer")


def _validity(setting: str, certificate: x509.Certificate) -> Verdict:
    now, first, last = datetime.now(UTC), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    words = f"{setting}: {_name(certificate)} holds until {last:%Y-%m-%d}"
    if now < first:
        return fail(
            Area.CERTIFICATES, f"{setting}: {_name(certificate)} holds from {first:%Y-%m-%d} on", "see the clock"
        )
    if now > last:
        return fail(Area.CERTIFICATES, words.replace("holds", "held"), "renew it; nothing needs to be restarted")
    if now + _SOON > last:
        return warn(Area.CERTIFICATES, words, "renew it; nothing needs to be restarted")
    return ok(Area.CERTIFICATES, words)


def _name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or f"number {certificate.serial_number:x}"


def _private(setting: str, path: Path) -> Iterator[Verdict]:
    if path.stat().st_mode & stat.S_IRWXO:
        yield warn(Area.CERTIFICATES, f"{setting} {path} is open to all users", f"chmod o= {path}")
