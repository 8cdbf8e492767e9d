"""What a compressed frame says of its own size, read before a codec allocates by it.

A JPEG 2000 stream of 4 kB can ask for gigabytes, whatever Rows and Columns say.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from triage.errors import NotAnalysed, Reason

JPEG_SYNTAXES = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1})
JPEG_LS_SYNTAXES = frozenset({JPEGLSLossless, JPEGLSNearLossless})
JPEG_2000_SYNTAXES = frozenset({JPEG2000Lossless, JPEG2000})
HTJ2K_SYNTAXES = frozenset({HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K})
LOSSY_SYNTAXES = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K})

# ITU-T T.81 table B.1 (Huffman coding: baseline, extended, progressive, lossless) and T.87 table C.1 (SOF55).
_JPEG_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3)
_JPEG_LS_FRAMES = (0xF7,)
_LOSSLESS_FRAME = 0xC3
_MARKERS_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
_SOI, _EOI, _SOS, _FILL = 0xD8, 0xD9, 0xDA, 0xFF
_END = bytes((_FILL, _EOI))

# ITU-T T.800 A.5.1: start of codestream, directly followed by SIZ.
_SOC_SIZ = b"\xff\x4f\xff\x51"
_SIZ = struct.Struct(">HHIIIIIIIIH")
_COMPONENT = struct.Struct(">BBB")
_SIGNED = 0x80
# T.800 A.6.1 and A.6.2: decomposition levels and kind of wavelets, counted from the marker.
_COD, _COC = 0xFF52, 0xFF53
_SEGMENT = struct.Struct(">HH")
_LEVELS_AT, _KIND_AT, _REVERSIBLE = 9, 13, 1
_MOST_LEVELS = 32
_MOST_SEGMENTS = 64
# T.800 A.4.2: SOT, Lsot, Isot, Psot, TPsot, TNsot; and the marker after it.
_TILE_PART = struct.Struct(">HHHIBBH")
_SOT, _SOD, _PLT = 0xFF90, 0xFF93, 0xFF58
_MOST_TILE_PARTS = 2**15
# A film has one tile, or some dozens; each costs the decoder memory.
_MOST_TILES = 4096
# A JP2 wrapper is not allowed in DICOM (PS3.5 A.4.4), yet it is met; its boxes before the stream are short.
_LONGEST_WRAPPER = 4096

# PS3.5 G.3: a replicate run makes at most 128 bytes of 2.
_RLE_HEADER = struct.Struct("<16I")
_RLE_LARGEST_RATIO = 64
_RLE_MOST_SEGMENTS = 15


@dataclass(frozen=True, kw_only=True)
class Codestream:
    """``precision`` in bits per sample; ``is_lossless_jpeg`` for the frame type of T.81 process 14.

    ``levels``: decomposition levels of a JPEG 2000 stream (T.800 B.5) that a decoder may leave out, ``is_reversible``
    their kind.
    """

    rows: int
    columns: int
    components: int
    precision: int
    is_lossless_jpeg: bool = False
    levels: int = 0
    is_reversible: bool = True


def read_codestream(frame: bytes, transfer_syntax_uid: str) -> Codestream:
    """Raise NotAnalysed: UNSUPPORTED_SYNTAX, DECODE_ERROR without a header to read, BAD_PIXELS if it is cut short."""
    stream = _header(frame, transfer_syntax_uid)
    # EOI (T.81) and EOC (T.800) are the same bytes. Without them JPEG and HTJ2K decoders make up the rest of the film
    # and say nothing, and a JPEG-LS decoder takes seconds to fail.
    if not frame.rstrip(b"\0\xff").endswith(_END):
        raise NotAnalysed(Reason.BAD_PIXELS)
    return stream


def _header(frame: bytes, transfer_syntax_uid: str) -> Codestream:
    try:
        if transfer_syntax_uid in JPEG_SYNTAXES:
            return _jpeg(frame, _JPEG_FRAMES)
        if transfer_syntax_uid in JPEG_LS_SYNTAXES:
            return _jpeg(frame, _JPEG_LS_FRAMES)
        if transfer_syntax_uid in JPEG_2000_SYNTAXES | HTJ2K_SYNTAXES:
            return _jpeg_2000(frame)
    except (struct.error, IndexError):
        raise NotAnalysed(Reason.DECODE_ERROR) from None
    raise NotAnalysed(Reason.UNSUPPORTED_SYNTAX)


def _jpeg(frame: bytes, wanted: tuple[int, ...]) -> Codestream:
    """Walk the marker segments up to the frame header (T.81 B.2.2)."""
    if frame[:2] != bytes((_FILL, _SOI)):
        raise NotAnalysed(Reason.DECODE_ERROR)
    at = 2
    while True:
        marker, at = _next_marker(frame, at)
        if marker in wanted:
            precision, rows, columns, components = struct.unpack_from(">BHHB", frame, at + 2)
            return Codestream(
                rows=rows,
                columns=columns,
                components=components,
                precision=precision,
                is_lossless_jpeg=marker == _LOSSLESS_FRAME,
            )
        if marker in (_SOS, _EOI):
            raise NotAnalysed(Reason.DECODE_ERROR)
        if marker not in _MARKERS_WITHOUT_LENGTH:
            at += max(2, struct.unpack_from(">H", frame, at)[0])


def _next_marker(frame: bytes, at: int) -> tuple[int, int]:
    """Marker code and the place after it; any number of fill bytes may stand before it (T.81 B.1.1.2)."""
    if frame[at] != _FILL:
        raise NotAnalysed(Reason.DECODE_ERROR)
    while frame[at] == _FILL:
        at += 1
    return frame[at], at + 1


def _jpeg_2000(frame: bytes) -> Codestream:
    start = frame.find(_SOC_SIZ, 0, _LONGEST_WRAPPER)
    if start < 0:
        raise NotAnalysed(Reason.DECODE_ERROR)
    _, _, right, bottom, left, top, tile_width, tile_height, tile_left, tile_top, components = _SIZ.unpack_from(
        frame, start + len(_SOC_SIZ)
    )
    depth, across, down = _COMPONENT.unpack_from(frame, start + len(_SOC_SIZ) + _SIZ.size)
    tiles = _tiles(right - tile_left, tile_width) * _tiles(bottom - tile_top, tile_height)
    if (across, down) != (1, 1) or not 0 < tiles <= _MOST_TILES:
        raise NotAnalysed(Reason.BAD_PIXELS)
    # Every 2^n-th pixel is counted from the origin of the canvas; a wrapper may hold more than the stream says.
    plain = depth < _SIGNED and (start, top, left) == (0, 0, 0)
    levels, kind = _wavelets(frame) if plain else (0, _REVERSIBLE)
    return Codestream(
        rows=bottom - top,
        columns=right - left,
        components=components,
        precision=(depth & 0x7F) + 1,
        levels=levels,
        is_reversible=kind == _REVERSIBLE,
    )


def _wavelets(frame: bytes) -> tuple[int, int]:
    """Levels and kind, of the main header's COD; no levels if a component or tile may differ, or is cut short."""
    at, levels, kind = len(_SOC_SIZ) // 2, 0, _REVERSIBLE
    for _ in range(_MOST_SEGMENTS):
        segment = frame[at : at + _KIND_AT + 1]
        if len(segment) <= _KIND_AT:
            break
        marker, length = _SEGMENT.unpack_from(segment)
        if marker == _SOT and levels <= _MOST_LEVELS and kind in (0, _REVERSIBLE) and _tiles_are_whole(frame, at):
            return levels, kind
        if marker in (_COC, _SOT):
            break
        if marker == _COD:
            levels, kind = segment[_LEVELS_AT], segment[_KIND_AT]
        at += 2 + length
    return 0, _REVERSIBLE


def _tiles_are_whole(frame: bytes, at: int) -> bool:
    """Whether tile-parts (T.800 A.4.2) follow each other up to the end, none with more than lengths in its header."""
    for _ in range(_MOST_TILE_PARTS):
        if frame[at : at + 2] == _END:
            return True
        part = frame[at : at + _TILE_PART.size]
        if len(part) < _TILE_PART.size:
            return False
        marker, _, _, length, _, _, first = _TILE_PART.unpack(part)
        if marker != _SOT or first not in (_SOD, _PLT):
            return False
        if length == 0:  # the last one, up to the end
            return True
        at += length
    return False


def _tiles(extent: int, tile: int) -> int:
    return -(-extent // tile) if tile > 0 else 0


def check_rle(frame: bytes, *, segments: int, segment_bytes: int) -> None:
    """Raise NotAnalysed if the header (PS3.5 G.5) does not fit, or so few bytes cannot hold so many samples."""
    if len(frame) < _RLE_HEADER.size:
        raise NotAnalysed(Reason.DECODE_ERROR)
    count, *offsets = _RLE_HEADER.unpack_from(frame)
    if count != segments or count > _RLE_MOST_SEGMENTS:
        raise NotAnalysed(Reason.BAD_PIXELS)
    bounds = [*offsets[:count], len(frame)]
    if bounds[0] != _RLE_HEADER.size or any(b < a for a, b in pairwise(bounds)):
        raise NotAnalysed(Reason.DECODE_ERROR)
    if any((b - a) * _RLE_LARGEST_RATIO < segment_bytes for a, b in pairwise(bounds)):
        raise NotAnalysed(Reason.BAD_PIXELS)
