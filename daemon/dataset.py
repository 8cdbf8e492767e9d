"""What the header of a kept file says, or where its frames lie: a program of its own, poor in rights.

    python -m daemon.dataset < {"ask": "metadata" or "frames", "paths": [...]}

answers a line of JSON for each path. The parser may be made to use any amount of time and memory: here it ends nobody
but itself.
"""

from __future__ import annotations

import json
import logging
import math
import os
import struct
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import Dataset

from daemon.confinement import give_up_rights, leave_network
from daemon.sandbox import Limits, confine
from triage.errors import NotAnalysed, Reason
from triage.vision.part10 import exceptions_as_reasons, read_part10

# Longer binary values are bulk data (PS3.18 8.7.3.3.1), and left out.
_INLINE_BYTES_MAX = 1024
_ANSWER_BYTES_MAX = 4 * 2**20
_FRAMES_MAX = 100_000
_LEFT_OUT = "left out"
_UTF_8 = "ISO_IR 192"
# PS3.5 A.4: item, sequence delimiter.
_ITEM, _END = 0xE000FFFE, 0xE0DDFFFE
_UNDEFINED = 0xFFFFFFFF
_TAG_AND_LENGTH = struct.Struct("<LL")
_PIXEL_DATA = 0x00107FE0
_LIMITS = Limits(seconds=20.0, memory_bytes=2**30, films=1)

Range = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Element:
    """Pixel Data (7FE0,0010): where its value begins in the file, and how long it is, -1 if encapsulated."""

    start: int
    length: int


def main() -> None:
    """Whatever goes wrong with a file is its reason; other files are still answered."""
    warnings.simplefilter("ignore")  # they hold values of data sets
    logging.disable(logging.CRITICAL)
    request = json.loads(sys.stdin.buffer.read())
    leave_network()
    give_up_rights()
    confine(_LIMITS)
    for path in request["paths"]:
        sys.stdout.write(answer(Path(path), _ASKED[request["ask"]]) + "\n")
    sys.stdout.flush()


def answer(path: Path, ask: Callable[[BinaryIO], Any]) -> str:
    """JSON of what was asked for, or of {"reason": code}."""
    try:
        with path.open("rb") as file, exceptions_as_reasons():
            return _bounded(json.dumps(ask(file), allow_nan=False))
    except NotAnalysed as outcome:
        return json.dumps({"reason": outcome.reason.value})
    except OSError:
        return json.dumps({"reason": Reason.PIXELS_DAMAGED.value})


def _bounded(told: str) -> str:
    if len(told) > _ANSWER_BYTES_MAX:
        raise NotAnalysed(Reason.TOO_LARGE)
    return told


def metadata(file: BinaryIO) -> dict[str, Any]:
    """DICOM JSON (PS3.18 annex F) without bulk data, in UTF-8 whatever the file is in."""
    dataset = read_part10(file, tags=[], stop_before_pixels=True)  # no tags: all
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    told = dataset.to_json_dict(
        bulk_data_threshold=_INLINE_BYTES_MAX,
        bulk_data_element_handler=lambda _: _LEFT_OUT,
        suppress_invalid_tags=True,
    )
    if "00080005" in told:
        told["00080005"] = {"vr": "CS", "Value": [_UTF_8]}
    told["00083002"] = {"vr": "UI", "Value": [syntax]}  # Available Transfer Syntax UID
    return _cleaned(told)


def _cleaned(told: dict[str, Any]) -> dict[str, Any]:
    """Without bulk data, and without numbers that JSON does not have."""
    kept = {tag: element for tag, element in told.items() if element.get("BulkDataURI") != _LEFT_OUT}
    for element in kept.values():
        if "Value" in element:
            element["Value"] = [_plain(value) for value in element["Value"]]
    return dict(sorted(kept.items()))


def _plain(value: Any) -> Any:  # noqa: ANN401 - any value of JSON
    if isinstance(value, float) and not math.isfinite(value):
        return None
    is_item = isinstance(value, dict) and all(isinstance(part, dict) for part in value.values())
    return _cleaned(value) if is_item else value


# -- frames --------------------------------------------------------------------------------------------------------


def frames(file: BinaryIO) -> list[list[Range]]:
    """For each frame where its bytes lie in the file, as (start, length) of each fragment."""
    dataset = read_part10(file, tags=[], stop_before_pixels=True)
    count = int(dataset.get("NumberOfFrames") or 1)
    if not 1 <= count <= _FRAMES_MAX:
        raise NotAnalysed(Reason.BAD_PIXELS)
    element = _pixel_data(file, is_implicit=bool(dataset.original_encoding[0]))
    if element.length < 0:
        return _encapsulated(file, element.start, count)
    size = _frame_bytes(dataset)
    here = min(element.length, os.fstat(file.fileno()).st_size - element.start)
    if size <= 0 or size * count > here:
        raise NotAnalysed(Reason.BAD_PIXELS)
    return [[(element.start + number * size, size)] for number in range(count)]


def _pixel_data(file: BinaryIO, *, is_implicit: bool) -> Element:
    """The parser stands before it."""
    tag, length = _TAG_AND_LENGTH.unpack(file.read(_TAG_AND_LENGTH.size))
    if tag != _PIXEL_DATA:
        raise NotAnalysed(Reason.MISSING_PIXELS)
    if not is_implicit:  # VR and two bytes reserved, then the length (PS3.5 7.1.2)
        (length,) = struct.unpack("<L", file.read(4))
    return Element(start=file.tell(), length=-1 if length == _UNDEFINED else length)


def _frame_bytes(dataset: Dataset) -> int:
    """Only whole bytes: frames of single bits may begin within one."""
    bits = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel) * int(dataset.BitsAllocated)
    return 0 if int(dataset.BitsAllocated) % 8 else bits // 8


def _encapsulated(file: BinaryIO, start: int, count: int) -> list[list[Range]]:
    """PS3.5 A.4: a basic offset table, then fragments; one each a frame, or told apart by the table."""
    (table, *fragments) = _items(file, start)
    if count == 1:
        return [fragments]
    if count == len(fragments):
        return [[fragment] for fragment in fragments]
    file.seek(table[0])
    offsets = [each for (each,) in struct.iter_unpack("<L", file.read(table[1]))]
    first = table[0] + table[1]
    begins = [first + offset for offset in offsets]
    if len(begins) != count or begins != sorted(begins):
        raise NotAnalysed(Reason.BAD_PIXELS)
    ends = [*begins[1:], sys.maxsize]
    header = _TAG_AND_LENGTH.size
    return [
        [(at, length) for at, length in fragments if begin <= at - header < end]
        for begin, end in zip(begins, ends, strict=True)
    ]


def _items(file: BinaryIO, start: int) -> list[Range]:
    size = os.fstat(file.fileno()).st_size
    found: list[Range] = []
    file.seek(start)
    while True:
        tag, length = _TAG_AND_LENGTH.unpack(file.read(_TAG_AND_LENGTH.size))
        if tag == _END:
            return found
        at = file.tell()
        if tag != _ITEM or at + length > size or len(found) > _FRAMES_MAX:
            raise NotAnalysed(Reason.BAD_PIXELS)
        found.append((at, length))
        file.seek(length, os.SEEK_CUR)


_ASKED: dict[str, Callable[[BinaryIO], Any]] = {"metadata": metadata, "frames": frames}

if __name__ == "__main__":
    main()
