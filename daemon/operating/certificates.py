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
from daemon.settings import Settings
from daemon.tls import build_tls
from triage.errors import TriageError

_SOON = timedelta(days=30)


def look_at_certificates(settings: Settings) -> Iterator[Verdict]:
    """Of the receiver. Raise nothing: files that cannot be read are a verdict."""
    if settings.dicom_tls_certificate_file is None:
        yield ok(Area.CERTIFICATES, "associations are not encrypted (dicom_tls_certificate_file is not set)")
        return
    try:
        build_tls(settings)
    except TriageError as error:
        yield fail(Area.CERTIFICATES, str(error), "give PEM files that the daemon's user can read")
        return
    yield from _chain(settings.dicom_tls_certificate_file)
    if settings.dicom_tls_key_file:
        yield from _private(settings.dicom_tls_key_file)
    if settings.dicom_tls_ca_file:
        for each in _read(settings.dicom_tls_ca_file):
            yield _validity("dicom_tls_ca_file", each)


def _read(path: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(path.read_bytes())


def _chain(path: Path) -> Iterator[Verdict]:
    """The server's own first, then each issuer (RFC 8446, 4.4.2)."""
    found = _read(path)
    for each in found:
        yield _validity("dicom_tls_certificate_file", each)
    for child, parent in pairwise(found):
        try:
            child.verify_directly_issued_by(parent)
        except (ValueError, TypeError, InvalidSignature):
            words = f"dicom_tls_certificate_file: {_name(child)} was not issued by {_name(parent)}, which follows it"
            yield fail(Area.CERTIFICATES, words, "put the server's certificate first, then each issuer")


def _validity(setting: str, certificate: x509.Certificate) -> Verdict:
    now, first, last = datetime.now(UTC), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    words = f"{setting}: {_name(certificate)} holds until {last:%Y-%m-%d}"
    if now < first:
        return fail(
            Area.CERTIFICATES, f"{setting}: {_name(certificate)} holds from {first:%Y-%m-%d} on", "see the clock"
        )
    if now > last:
        return fail(Area.CERTIFICATES, words.replace("holds", "held"), "renew it, then restart the receiver")
    if now + _SOON > last:
        return warn(Area.CERTIFICATES, words, "renew it, then restart the receiver")
    return ok(Area.CERTIFICATES, words)


def _name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or f"number {certificate.serial_number:x}"


def _private(path: Path) -> Iterator[Verdict]:
    if path.stat().st_mode & stat.S_IRWXO:
        yield warn(Area.CERTIFICATES, f"dicom_tls_key_file {path} is open to all users", f"chmod o= {path}")
