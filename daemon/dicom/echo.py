"""Verification, SCU (PS3.4 annex A): does a DICOM application answer there, under that name?"""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE

from daemon.dicom.silence import silence_libraries

_VERIFICATION = "1.2.840.10008.1.1"


@dataclass(frozen=True, kw_only=True)
class Echo:
    """``answered``: DICOM is spoken there. ``accepted``: with us; ``problem`` says what was answered instead."""

    answered: bool
    accepted: bool
    problem: str = ""


def echo(
    peer: str, address: tuple[str, int], our_ae_title: str, seconds: float, tls: ssl.SSLContext | None = None
) -> Echo:
    """C-ECHO to ``peer``, an AE title. Never raises."""
    silence_libraries()
    ae = AE(our_ae_title)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = seconds
    ae.add_requested_context(_VERIFICATION, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    host, port = address
    association = ae.associate(host, port, ae_title=peer, tls_args=(tls, None) if tls else None)  # type: ignore[arg-type]
    if association.is_rejected:
        return Echo(answered=True, accepted=False, problem="the association is rejected")
    if not association.is_established:
        return Echo(answered=False, accepted=False, problem="no association")
    try:
        status = association.send_c_echo().get("Status")
    except (RuntimeError, ValueError):
        return Echo(answered=True, accepted=False, problem="Verification is not accepted")
    finally:
        if association.is_established:
            association.release()
        association.join(seconds)
    if status != 0:
        return Echo(answered=True, accepted=False, problem="no answer" if status is None else f"status {status:04X}")
    return Echo(answered=True, accepted=True)
