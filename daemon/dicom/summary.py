"""What a connection came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from daemon.dicom.transfers import Transfers

if TYPE_CHECKING:
    from daemon.dicom.guard import Outcome
    from daemon.dicom.negotiation import Rejection


@dataclass(frozen=True, kw_only=True)
class AssociationSummary:
    """For one log line a connection. AE titles are "" where none was received; ``statuses`` counts C-STORE answers.

    ``questions`` counts the final answers to all other requests but C-ECHO. ``problem``: of TLS, in words of OpenSSL.
    """

    calling_ae: str = ""
    called_ae: str = ""
    address: str
    outcome: Outcome
    stored: int = 0
    failed: int = 0
    echoes: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    questions: dict[int, int] = field(default_factory=dict)
    bytes_received: int = 0
    seconds: float = 0.0
    rejection: Rejection | None = None
    problem: str = ""
    transfers: Transfers = field(default_factory=Transfers, repr=False, compare=False)
