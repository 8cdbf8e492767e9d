"""Encryption by BCP 195 (RFC 8996, RFC 9325), as PS3.15 B.12 has it, from PEM files that may be exchanged meanwhile.

TLS 1.2 is the least and 1.3 preferred; only suites that RFC 9325 4.2 recommends, all with forward secrecy; keys and
signatures of at least 112 bits, so no RSA below 2048 and no SHA-1. Each connection makes a handshake of its own: a
session taken up again would outlive the certificate that opened it.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from daemon.settings import Settings, Wing
from daemon.telemetry import describe, log
from triage.errors import TriageError

# Of TLS 1.2; all three of 1.3 are recommended. OpenSSL's level 2 asks for the 112 bits.
_SUITES = "ECDHE+AESGCM:@SECLEVEL=2"
_LOOK_SECONDS = 2.0
_MISMATCH = "KEY_VALUES_MISMATCH"
# Reasons of OpenSSL for what its level forbids.
_WEAK = {"EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"}
_WEAK_WORDS = "too weak: RSA of 2048 or a curve of 256 bits, and SHA-256, are the least"

# Those that call others; the rest is called.
CALLING: frozenset[Wing] = frozenset({"dicom_calling", "audit"})
Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, kw_only=True)
class Files:
    """PEM files as the settings of one wing name them."""

    wing: Wing
    certificate: Path | None
    key: Path | None
    ca: Path | None

    @staticmethod
    def of(settings: Settings, wing: Wing) -> Files:
        def named(part: str) -> Path | None:
            found = getattr(settings, f"{wing}_tls_{part}_file", None)
            return found if isinstance(found, Path) else None

        return Files(wing=wing, certificate=named("certificate"), key=named("key"), ca=named("ca"))

    def stamp(self) -> Stamp:
        """Another one once any of the files is another."""
        return tuple(_stamp(path) for path in (self.certificate, self.key, self.ca) if path is not None)

    def serving(self) -> ssl.SSLContext:
        """With a CA file, clients must show a certificate. Raise TriageError, naming the setting."""
        context = _context(ssl.PROTOCOL_TLS_SERVER)
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        self._show(context)
        if self.ca is not None:
            self._trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def calling(self) -> ssl.SSLContext:
        """Whom we call must show a certificate for the name that we know it by. Raise TriageError."""
        context = _context(ssl.PROTOCOL_TLS_CLIENT)
        self._trust(context)
        if self.certificate is not None:
            self._show(context)
        return context

    def asking_ourselves(self) -> ssl.SSLContext:
        """For a process on this machine that asks another: who that is is no question. Raise TriageError."""
        context = _context(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._show(context)
        return context

    def _show(self, context: ssl.SSLContext) -> None:
        if self.certificate is None:
            raise TriageError(f"{self.wing}_tls_certificate_file is needed")
        _check_certificates(f"{self.wing}_tls_certificate_file", self.certificate)
        try:
            # Without the passphrase it would ask at the terminal.
            context.load_cert_chain(self.certificate, self.key, password="")
        except OSError as error:
            raise TriageError(self._pair_problem(error)) from error

    def _pair_problem(self, error: OSError) -> str:
        reason = getattr(error, "reason", "")
        if reason in _WEAK:
            return f"{self.wing}_tls_certificate_file {self.certificate}: {_WEAK_WORDS}"
        mismatch = f"not the key of {self.wing}_tls_certificate_file"
        words = mismatch if reason == _MISMATCH else _file_problem(error, "not a PEM key, or one with a passphrase")
        return f"{self.wing}_tls_key_file {self.key}: {words}"

    def _trust(self, context: ssl.SSLContext) -> None:
        if self.ca is None:
            raise TriageError(f"{self.wing}_tls_ca_file is needed")
        _check_certificates(f"{self.wing}_tls_ca_file", self.ca)
        context.load_verify_locations(self.ca)


class Credentials:
    """The context for new connections: of the files as they are now, or were when last they were sound."""

    def __init__(self, files: Files, make: Callable[[Files], ssl.SSLContext]) -> None:
        """Raise TriageError if they are not sound."""
        self._files = files
        self._make = make
        self._tried = self._seen = files.stamp()
        self._context = make(files)

    def __call__(self) -> ssl.SSLContext:
        return self._context

    def look(self) -> None:
        """Load them anew once they have changed and stood still for a look: certificate and key are two files."""
        stamp = self._files.stamp()
        stands_still, self._seen = stamp == self._seen, stamp
        if stamp == self._tried or not stands_still:
            return
        self._tried = stamp
        setting = f"{self._files.wing}_tls"
        try:
            self._context = self._make(self._files)
        except TriageError as error:
            log().error("tls_not_reloaded", setting=setting, problem=str(error))
        except OSError as error:  # exchanged between two looks at it: once more
            self._tried = ()
            log().error("tls_not_reloaded", setting=setting, **describe(error))
        else:
            log().info("tls_reloaded", setting=setting)


def serving(settings: Settings, wing: Wing) -> Credentials | None:
    """None where the wing speaks without TLS. Raise TriageError."""
    files = Files.of(settings, wing)
    return None if files.certificate is None else Credentials(files, Files.serving)


def calling(settings: Settings, wing: Wing) -> Credentials | None:
    """None where no CA file says whom to trust: then the wing speaks without TLS. Raise TriageError."""
    files = Files.of(settings, wing)
    return None if files.ca is None else Credentials(files, Files.calling)


def watch(credentials: Sequence[Credentials | None], stop: threading.Event) -> None:
    """Look after them until ``stop``, in a thread that the process does not wait for."""
    watched = [each for each in credentials if each is not None]

    def run() -> None:
        while not stop.wait(_LOOK_SECONDS):
            for each in watched:
                each.look()

    if watched:
        threading.Thread(target=run, name="tls", daemon=True).start()


def tls_problem(error: ssl.SSLError) -> str:
    """In OpenSSL's own words for it, which hold nothing of the peer's."""
    verified = getattr(error, "verify_message", "")
    return verified or (error.reason or type(error).__name__).replace("_", " ").lower()


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_SUITES)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    return context


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _check_certificates(setting: str, path: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except OSError as error:
        raise TriageError(f"{setting} {path}: {_file_problem(error, 'not a PEM certificate')}") from error


def _file_problem(error: OSError, not_pem: str) -> str:
    return not_pem if isinstance(error, ssl.SSLError) else error.strerror or type(error).__name__
