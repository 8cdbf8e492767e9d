"""Gates for the decoder's child: it imports this module by name, so it must stay light."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

from triage.errors import Reason
from triage.study import Header


def open_gate(header: Header) -> Reason | None:
    del header


def closed_gate(header: Header) -> Reason | None:
    return Reason.NOT_CHEST_FRONTAL if header.modality else None


def broken_gate(header: Header) -> Reason | None:
    raise ValueError(header.patient_id)


def crash(header: Header) -> Reason | None:
    del header
    os.kill(os.getpid(), signal.SIGSEGV)


def sleep(header: Header, sign: str = "") -> Reason | None:
    """``sign``: a name under which the process can be seen, since it can leave no other."""
    del header
    if sign:
        ctypes.CDLL(None).prctl(15, sign.encode())  # PR_SET_NAME
    time.sleep(60)


def spin(header: Header) -> Reason | None:
    while header:
        pass


def hog(header: Header) -> Reason | None:
    hoard = [bytearray(2**26) for _ in range(2**10)]
    return Reason.FOR_PROCESSING if hoard and header else None


def write_a_file(header: Header, *, folder: str) -> Reason | None:
    del header
    Path(folder, "leak").write_text("x", encoding="ascii")


def print_much(header: Header) -> Reason | None:
    os.write(1, header.patient_id.encode())
    os.write(2, header.patient_id.encode())


def tell_if_torch(header: Header) -> Reason | None:
    del header
    return Reason.UNSUPPORTED_MODALITY if "torch" in sys.modules else Reason.FOR_PROCESSING


def babble(header: Header) -> Reason | None:
    """Answers out of turn, as code that has taken over the child would."""
    del header
    for descriptor in range(3, 16):
        try:
            os.write(descriptor, b"\x05\x00\x00\x00nopes" + b"\0" * 2**20)
        except OSError:
            continue
    os._exit(0)
