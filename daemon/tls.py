"""Encryption of DICOM associations, from the settings."""

from __future__ import annotations

import ssl
from pathlib import Path

from daemon.settings import Settings
from triage.errors import TriageError


def build_tls(settings: Settings) -> ssl.SSLContext | None:
    """TLS 1.2 or newer (PS3.15 B.12); with a CA file, clients must show a certificate."""
    if settings.dicom_tls_certificate_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _check_certificates("dicom_tls_certificate_file", settings.dicom_tls_certificate_file)
    try:
        # Without the passphrase it would ask at the terminal.
        context.load_cert_chain(settings.dicom_tls_certificate_file, settings.dicom_tls_key_file, password="")
    except OSError as error:
        not_pem = "not a PEM key, or one with a passphrase"
        mismatch = getattr(error, "reason", "") == "KEY_VALUES_MISMATCH"
        words = "not the key of dicom_tls_certificate_file" if mismatch else _file_problem(error, not_pem)
        raise TriageError(f"dicom_tls_key_file {settings.dicom_tls_key_file}: {words}") from error
    if settings.dicom_tls_ca_file is not None:
        _check_certificates("dicom_tls_ca_file", settings.dicom_tls_ca_file)
        context.load_verify_locations(settings.dicom_tls_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _check_certificates(setting: str, path: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except OSError as error:
        raise TriageError(f"{setting} {path}: {_file_problem(error, 'not a PEM certificate')}") from error


def _file_problem(error: OSError, not_pem: str) -> str:
    return not_pem if isinstance(error, ssl.SSLError) else error.strerror or type(error).__name__
