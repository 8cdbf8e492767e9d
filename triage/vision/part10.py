"""Reading a DICOM file (PS3.10) that may be broken or hostile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from pydicom import Dataset
from pydicom.filereader import dcmread, read_dataset, read_partial
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from triage.errors import NotAnalysed, Reason

PREAMBLE_BYTES = 128
MAGIC = b"DICM"
_META_GROUP = 0x0002


@contextmanager
def exceptions_as_reasons() -> Iterator[None]:
    """Parsers and codecs raise whatever they like, with values of the data set in the text: it ends here."""
    try:
        yield
    except NotAnalysed:
        raise
    except MemoryError:
        raise NotAnalysed(Reason.TOO_LARGE) from None
    except Exception:  # noqa: BLE001 - RecursionError, struct.error, ... no list would be complete
        raise NotAnalysed(Reason.DECODE_ERROR) from None


def read_part10(file: BinaryIO, *, tags: list[BaseTag | int], stop_before_pixels: bool) -> Dataset:
    """The elements in ``tags``. Raise NotAnalysed, and nothing else."""
    with exceptions_as_reasons():
        _refuse_deflated(file)
        return dcmread(file, stop_before_pixels=stop_before_pixels, specific_tags=tags)


def read_beginning(file: BinaryIO, *, tags: list[BaseTag | int], last: BaseTag) -> Dataset:
    """Those of ``tags`` up to ``last``, whatever comes behind it. Raise NotAnalysed, and nothing else."""
    with exceptions_as_reasons():
        _refuse_deflated(file)
        return read_partial(file, stop_when=lambda tag, _vr, _length: tag > last, specific_tags=tags)


def _refuse_deflated(file: BinaryIO) -> None:
    """The parser inflates the whole stream, even for the header alone: 300 kB can be gigabytes of zeros."""
    file.seek(PREAMBLE_BYTES)
    if file.read(len(MAGIC)) == MAGIC:
        meta = read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag.group != _META_GROUP)  # noqa: FBT003 - pydicom's own order: explicit VR, little endian
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            raise NotAnalysed(Reason.UNSUPPORTED_SYNTAX)
    file.seek(0)
