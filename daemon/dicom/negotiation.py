"""Who may associate with us, and what is agreed on: pure functions of what a peer proposes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TYPE_CHECKING, TypeAlias

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import build_context
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from pynetdicom.presentation import PresentationContext

# Ours in our order: pynetdicom takes the first that the peer proposes too. No deflate (bombs), no big endian (retired).
TRANSFER_SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    JPEGLossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    HTJ2K,
    RLELossless,
)
# For messages whose data sets hold no pixels.
PLAIN_SYNTAXES = TRANSFER_SYNTAXES[:2]
VERIFICATION = "1.2.840.10008.1.1"
STORAGE_ROOT = "1.2.840.10008.5.1.4.1.1."
DICOM_ROOT = "1.2.840.10008."
UID_LENGTH_MAX = 64

# A-ASSOCIATE-RJ as result, source, reason (PS3.8 9.3.4).
Rejection: TypeAlias = tuple[int, int, int]
CALLING_AE_UNKNOWN = (1, 1, 3)
CALLED_AE_UNKNOWN = (1, 1, 7)
LOCAL_LIMIT_EXCEEDED = (2, 3, 2)

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class Peer:
    """An application entity that may send to us, and from where."""

    ae_title: str
    network: IPv4Network | IPv6Network


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Who may associate. AE titles are no authentication: address and title must both match."""

    ae_title: str
    peers: tuple[Peer, ...]
    strict_loopback: bool = False

    def rejection(self, calling_ae: str, called_ae: str, address: str) -> Rejection | None:
        source = ip_address(address)
        if source.is_loopback and not self.strict_loopback:
            return None
        if not any(peer.ae_title.strip() == calling_ae and source in peer.network for peer in self.peers):
            return CALLING_AE_UNKNOWN
        return None if called_ae == self.ae_title.strip() else CALLED_AE_UNKNOWN


def is_storage(abstract_syntax: str) -> bool:
    """Every storage class of the standard, known or new, and private ones; not queries under the same root.

    Some known ones lie elsewhere: those of radiotherapy's delivery instructions are beside the worklists.
    """
    new_or_private = abstract_syntax.startswith(STORAGE_ROOT) or not abstract_syntax.startswith(DICOM_ROOT)
    service = uid_to_service_class(abstract_syntax)
    return service is StorageServiceClass or (new_or_private and service is ServiceClass)


def contexts_for(proposed: Iterable[PresentationContext], answered: Collection[str] = ()) -> list[PresentationContext]:
    """What we support of what is proposed: ``answered`` are classes of questions, beside storage and verification.

    Only syntaxes that are proposed, as each that is built costs 7 us: senders propose a hundred classes, some of them
    for each film anew.
    """
    wanted: dict[str, set[str]] = {}
    for each in proposed:
        if each.abstract_syntax:
            wanted.setdefault(str(each.abstract_syntax), set()).update(each.transfer_syntax)
    return [
        _context(uid, tuple(_ours(syntaxes, PLAIN_SYNTAXES if uid in answered else TRANSFER_SYNTAXES)))
        for uid, syntaxes in wanted.items()
        if uid in answered or uid == VERIFICATION or is_storage(uid)
    ]


@lru_cache(maxsize=512)
def _context(uid: str, syntaxes: tuple[str, ...]) -> PresentationContext:
    """What we support is looked at by a negotiation, never changed."""
    return build_context(uid, list(syntaxes))


def _ours(proposed: Collection[str], supported: tuple[str, ...]) -> list[str]:
    """In our order. With none in common one of ours stands there: the class is known, its syntaxes are refused."""
    return [syntax for syntax in supported if syntax in proposed] or [supported[0]]


def usable_uid(received: str | None) -> str:
    """The UID without padding, or "". Leading zeros are common and harmless, so tolerated against PS3.5 9.1."""
    text = str(received or "").strip(" \0")
    return text if len(text) <= UID_LENGTH_MAX and _UID.fullmatch(text) else ""
