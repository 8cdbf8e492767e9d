"""Peers that send: dcmtk's programs, and pynetdicom where a test must see or bend the dialogue."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import running
from pydicom import Dataset
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.pdu_primitives import P_DATA
from running import Daemon


def storescu(dcmtk: Path, daemon: Daemon, *files: Path, propose: str = "-R") -> subprocess.CompletedProcess[str]:
    return _peer(dcmtk / "storescu", "-v", "-aec", "TRIAGE", "-aet", "PACS", propose, *_at(daemon), *files)


def dcmsend(dcmtk: Path, daemon: Daemon, *files: Path) -> subprocess.CompletedProcess[str]:
    return _peer(dcmtk / "dcmsend", "-v", "-dn", "-aec", "TRIAGE", "-aet", "PACS", *_at(daemon), *files)


def echoscu(dcmtk: Path, daemon: Daemon) -> subprocess.CompletedProcess[str]:
    return _peer(dcmtk / "echoscu", "-v", "-aec", "TRIAGE", *_at(daemon))


def _at(daemon: Daemon) -> tuple[str, str]:
    return daemon.address, str(daemon.dicom_port)


def _peer(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120, check=False)


@contextmanager
def associated(daemon: Daemon, *datasets: Dataset) -> Iterator[Association]:
    """An association that can carry these, each in its own syntax; established or not."""
    pairs = sorted({(each.SOPClassUID, each.file_meta.TransferSyntaxUID) for each in datasets})
    with running.associated(daemon.dicom_port, pairs, address=daemon.address) as association:
        yield association


def send(daemon: Daemon, *datasets: Dataset) -> list[int | None]:
    """The status of each; None if there was no answer."""
    with associated(daemon, *datasets) as association:
        assert association.is_established
        return [association.send_c_store(each).get("Status") for each in datasets]


def send_as(daemon: Daemon, dataset: Dataset, *, sop_instance_uid: str = "", whole: bytes | None = None) -> int | None:
    """Under a command of our own choosing: another UID, or other bytes than the data set's."""
    with associated(daemon, dataset) as association:
        assert association.is_established
        context = association.accepted_contexts[0]
        encoded = encode(dataset, context.transfer_syntax[0].is_implicit_VR, is_little_endian=True)
        request = C_STORE()
        request.MessageID, request.Priority = 1, 2
        request.AffectedSOPClassUID = dataset.SOPClassUID
        request.AffectedSOPInstanceUID = sop_instance_uid or dataset.SOPInstanceUID
        request.DataSet = BytesIO(encoded or b"" if whole is None else whole)
        # From now on nobody but this function listens to the answer.
        association._reactor_checkpoint.clear()
        try:
            association.dimse.send_msg(request, context.context_id)
            if whole == b"":  # pynetdicom then sends no fragment at all
                nothing = P_DATA()
                nothing.presentation_data_value_list.append([context.context_id, b"\x02"])
                association.dul.send_pdu(nothing)
            _, response = association.dimse.get_msg(block=True)
        finally:
            association._reactor_checkpoint.set()
        return getattr(response, "Status", None)
