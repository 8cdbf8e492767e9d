"""The decoder's child: a process for a few films, poor in rights, memory and time. Run by ``decoder`` as a program.

    worker --socket pair--> nursery (this module, codecs loaded, no threads) --fork--> child (some files) --> answers

The nursery never reads a file. A child that is taken over can send bytes of a fixed format, and die. It serves the next
film only after a sound one: a birth costs more than a look.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import io
import json
import logging
import os
import pickle
import resource
import select
import signal
import socket
import struct
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from daemon.confinement import Refused, give_up_rights, leave_network, prctl
from triage import policy
from triage.card import Preprocessing
from triage.errors import NotAnalysed, Reason
from triage.study import Header, PixelImage
from triage.vision.header import parse_header
from triage.vision.pixels import prepare, read_dicom, read_pixels

# First sign of life of a child: what goes wrong before it is the nursery's fault, after it the file's. The bits above
# say what the kernel would not take from it.
ALIVE = b"\x01"
REFUSED_SHIFT = 1
LENGTH = struct.Struct("<I")
# Before an answer: bytes of its report and of its pixels.
LENGTHS = struct.Struct("<II")
MOST_REPORT_BYTES = 64 * 1024

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_OPEN_FILES = 16
_NOT_YET_SECONDS = 0.02
_USUAL_BYTES = 64 * 2**20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LIBC = ctypes.CDLL(None)
_CODECS = ("JPEG8", "JPEGLS", "JPEG2K", "HTJ2K", "DICOMRLE")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one file may cost; ``memory_bytes`` is beyond what a child has at birth. ``films``: that one child sees."""

    seconds: float = 20.0
    films: int = 16
    memory_bytes: int = 2 * 2**30
    file_bytes: int = 512 * 2**20


@dataclass(frozen=True, kw_only=True)
class Request:
    """``gate`` is pickled by its name: a function of a module, or functools.partial of one."""

    path: Path
    sha256: str
    gate: Callable[[Header], Reason | None]
    preprocessing: Preprocessing
    limits: Limits


def main() -> None:
    """Fork a child for each socket that comes in on standard input, until the worker is gone."""
    worker = socket.socket(fileno=os.dup(0))
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    refused = leave_network()
    warm_up()
    child = 0
    while True:
        byte, sockets, _, _ = socket.recv_fds(worker, 1, 1)
        _bury(child)
        if not byte:
            return
        with socket.socket(fileno=sockets[0]) as line:
            child = _give_birth(worker, line, refused)


def warm_up() -> None:
    """What each child would otherwise do again. Libraries may put values into warnings: none is written."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    pickle.loads(pickle.dumps(policy.gate))  # noqa: S301 - its module: the usual gate is found there
    for name in _CODECS:
        getattr(imagecodecs, name).available  # noqa: B018 - looking loads it
    _look_at_a_wedge()
    gc.collect()
    gc.freeze()


def _look_at_a_wedge(side: int = 256) -> None:
    """The first film through the libraries costs 40 ms more than the next: tables, late imports."""
    wedge = Dataset()
    wedge.Rows = wedge.Columns = side
    wedge.SamplesPerPixel, wedge.PixelRepresentation, wedge.PhotometricInterpretation = 1, 0, "MONOCHROME2"
    wedge.BitsAllocated, wedge.BitsStored, wedge.HighBit = 16, 16, 15
    wedge.PixelData = np.tile(np.arange(0, 2**16, 2**16 // side, dtype="<u2"), side).tobytes()
    prepare(read_pixels(wedge), Preprocessing(size_px=224, stretch_percentiles=(1.0, 99.0), mean=0.5, std=0.25))


def _take_memory() -> None:
    """What a look will touch becomes this process's own while nobody waits, and stays so when freed (mallopt(3))."""
    for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
        _LIBC.mallopt(parameter, 2 * _USUAL_BYTES)
    np.ones(_USUAL_BYTES, dtype=np.uint8)


def _bury(child: int) -> None:
    """Nobody outlives its answer."""
    if child:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _give_birth(worker: socket.socket, line: socket.socket, refused: Refused) -> int:
    nursery = os.getpid()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        worker.close()
        _live(line, nursery, refused)
        status = 0
    finally:
        os._exit(status)  # no clean-up of what belongs to the nursery


def _live(line: socket.socket, nursery: int, refused: Refused) -> None:
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != nursery:  # it died before that
        return
    refused |= give_up_rights()
    line.sendall(bytes((ALIVE[0] | refused << REFUSED_SHIFT,)))
    if not select.select([line], [], [], _NOT_YET_SECONDS)[0]:
        _take_memory()
        _look_at_a_wedge()
    with line.makefile("rb") as incoming:
        while length := incoming.read(LENGTH.size):
            report, pixels = _answer(incoming.read(*LENGTH.unpack(length)))
            content = b"" if pixels is None else np.ascontiguousarray(pixels, "<f4").tobytes()
            line.sendall(LENGTHS.pack(len(report), len(content)) + report + content)


def _answer(content: bytes) -> tuple[bytes, NDArray[np.float32] | None]:
    """JSON of header, reason and shape, and the pixels if there is no reason against them."""
    try:
        request = cast("Request", pickle.loads(content))  # noqa: S301 - from our own worker
        confine(request.limits)
        return answer(request)
    except MemoryError:
        return _report(None, Reason.TOO_LARGE), None
    except Exception:  # noqa: BLE001 - ours or the gate's; its text may hold values of the data set
        return _report(None, Reason.INTERNAL_ERROR), None


def confine(limits: Limits) -> None:
    """From here on: no more memory, time or files than the films may cost. Again: changes nothing."""
    _limit(resource.RLIMIT_AS, _address_space() + limits.memory_bytes)
    _limit(
        resource.RLIMIT_CPU, int(limits.seconds * limits.films) + 2
    )  # for each film the worker's clock strikes first
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NPROC, 0)


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()


def answer(request: Request) -> tuple[bytes, NDArray[np.float32] | None]:
    """See ``_answer``; in here the header is known as soon as it can be."""
    header: Header | None = None
    try:
        content = _read(request)
        header = parse_header(content)
        image = _look(content, header, request)
        return _report(header, None, image), prepare(image, request.preprocessing)
    except NotAnalysed as outcome:
        return _report(header, outcome.reason), None
    except MemoryError:
        return _report(header, Reason.TOO_LARGE), None


def _read(request: Request) -> bytes:
    try:
        if request.path.stat().st_size > request.limits.file_bytes:
            raise NotAnalysed(Reason.TOO_LARGE)
        content = request.path.read_bytes()
    except OSError as error:
        # Where the folder is gone too, it is the disk that is missing.
        is_gone = isinstance(error, FileNotFoundError) and request.path.parent.is_dir()
        raise NotAnalysed(Reason.PIXELS_DAMAGED if is_gone else Reason.PIXELS_UNREADABLE) from None
    if hashlib.sha256(content).hexdigest() != request.sha256:
        raise NotAnalysed(Reason.PIXELS_DAMAGED)
    return content


def _look(content: bytes, header: Header, request: Request) -> PixelImage:
    reason = request.gate(header)
    if reason is not None:
        raise NotAnalysed(reason)
    return read_dicom(io.BytesIO(content), request.preprocessing.size_px)


def _report(header: Header | None, reason: Reason | None, image: PixelImage | None = None) -> bytes:
    shape = image and list(image.shape)
    return json.dumps({"header": header and asdict(header), "reason": reason and reason.value, "shape": shape}).encode()


if __name__ == "__main__":
    main()
