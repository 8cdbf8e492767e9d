"""A sender that never gives up, as a program: LEDGER ADDRESS:PORT PAUSE_SECONDS FILE...

Each file is sent until it is answered with Success, over a new association after each loss, and only then is its SOP
Instance UID written to the ledger and fsynced: what stands there was promised to be kept.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from pydicom import dcmread
from pynetdicom import AE
from pynetdicom.association import Association

SUCCESS = 0x0000
SAME_AGAIN_EVERY = 7


def associate(to: str) -> Association:
    ae = AE("LEDGER")
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 10
    ae.add_requested_context("1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.1.2.1")
    address, _, port = to.rpartition(":")
    return ae.associate(address, int(port), ae_title="TRIAGE")


def main(ledger: Path, to: str, pause_seconds: float, files: list[Path]) -> None:
    association = None
    with ledger.open("a", encoding="ascii") as book:
        for number, file in enumerate(files):
            dataset = dcmread(file)
            for _ in range(2 if number % SAME_AGAIN_EVERY == 0 else 1):
                association = send(association, dataset, to)
            book.write(f"{dataset.SOPInstanceUID}\n")
            book.flush()
            os.fsync(book.fileno())
            time.sleep(pause_seconds)
    if association and association.is_established:
        association.release()


def send(association: Association | None, dataset: object, to: str) -> Association:
    """Until it is stored. The association that it went over."""
    while True:
        if association is None or not association.is_established:
            association = associate(to)
        if association.is_established:
            answer = association.send_c_store(dataset)
            if "Status" in answer and answer.Status == SUCCESS:
                return association
        time.sleep(0.1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), [Path(name) for name in sys.argv[4:]])
