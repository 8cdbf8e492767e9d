"""A compressed frame is measured before it is decoded."""

from __future__ import annotations

import struct

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import (
    JPEG2000,
    MPEG2MPML,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

from triage.errors import NotAnalysed, Reason
from triage.vision.codestream import check_rle, read_codestream

FILM = np.arange(96 * 80, dtype=np.uint16).reshape(96, 80)
GREY8 = (FILM >> 5).astype(np.uint8)
STREAMS = {
    JPEGBaseline8Bit: (imagecodecs.jpeg8_encode(GREY8), 8),
    JPEGLosslessSV1: (imagecodecs.jpeg8_encode(FILM, lossless=True, bitspersample=16), 16),
    JPEGLSLossless: (imagecodecs.jpegls_encode(FILM), 16),
    JPEG2000Lossless: (imagecodecs.jpeg2k_encode(FILM, codecformat="J2K", reversible=True), 16),
    HTJ2KLossless: (imagecodecs.htj2k_encode(FILM, reversible=True), 16),
}


def reason_of(frame: bytes, syntax: str) -> Reason | None:
    try:
        read_codestream(frame, syntax)
    except NotAnalysed as refusal:
        return refusal.reason
    return None


def siz(columns: int, rows: int, *, tile: int = 2**20, components: int = 1, step: int = 1) -> bytes:
    """Start of a JPEG 2000 codestream (T.800 A.5.1)."""
    extent = struct.pack(">HHIIIIIIIIH", 41, 0, columns, rows, 0, 0, tile, tile, 0, 0, components)
    return b"\xff\x4f\xff\x51" + extent + bytes((15, step, step)) * components + b"\xff\xd9"


@pytest.mark.parametrize("syntax", STREAMS)
def test_size_and_precision_are_those_of_the_stream(syntax: str) -> None:
    frame, precision = STREAMS[syntax]
    stream = read_codestream(frame, syntax)
    assert (stream.rows, stream.columns, stream.components, stream.precision) == (96, 80, 1, precision)


def test_colour_has_three_components() -> None:
    frame = imagecodecs.jpeg8_encode(np.dstack([GREY8] * 3))
    assert read_codestream(frame, JPEGBaseline8Bit).components == 3


def test_a_thumbnail_in_an_application_segment_is_not_the_frame() -> None:
    frame, _ = STREAMS[JPEGBaseline8Bit]
    inner = imagecodecs.jpeg8_encode(GREY8[:16, :16])
    segment = b"\xff\xe1" + struct.pack(">H", len(inner) + 2) + inner
    assert read_codestream(frame[:2] + segment + frame[2:], JPEGBaseline8Bit).rows == 96


@pytest.mark.fault(71)
def test_a_small_stream_that_asks_for_gigabytes_is_seen_as_such() -> None:
    stream = read_codestream(siz(20_000, 20_000), JPEG2000Lossless)
    assert (stream.rows, stream.columns) == (20_000, 20_000)


@pytest.mark.parametrize("frame", [siz(4096, 4096, tile=1), siz(64, 64, tile=0), siz(64, 64, step=2)])
def test_odd_tilings_are_refused(frame: bytes) -> None:
    assert reason_of(frame, JPEG2000Lossless) is Reason.BAD_PIXELS


WAVELETS = FILM.repeat(8, 0).repeat(8, 1)
J2K = imagecodecs.jpeg2k_encode(WAVELETS, codecformat="J2K", reversible=True, resolutions=4)
COD, SOT, SOD = (J2K.index(marker) for marker in (b"\xff\x52", b"\xff\x90", b"\xff\x93"))


def inserted(at: int, segment: bytes) -> bytes:
    return J2K[:at] + segment + J2K[at:]


def changed(at: int, value: bytes) -> bytes:
    return J2K[:at] + value + J2K[at + len(value) :]


@pytest.mark.parametrize(
    ("frame", "syntax", "levels", "reversible"),
    [
        (J2K, JPEG2000Lossless, 3, True),
        (J2K + b"\0", JPEG2000Lossless, 3, True),
        (imagecodecs.jpeg2k_encode(WAVELETS, codecformat="J2K", level=80), JPEG2000, 5, False),
        (imagecodecs.htj2k_encode(WAVELETS, reversible=True, resolutions=2), HTJ2KLossless, 2, True),
        (imagecodecs.htj2k_encode(WAVELETS, reversible=True, tile=(200, 100)), HTJ2KLossless, 5, True),
        (changed(SOT + 6, b"\0\0\0\0"), JPEG2000Lossless, 3, True),  # a last tile-part without its length
        (inserted(SOT, b"\xff\x64\0\4\0\0"), JPEG2000Lossless, 3, True),  # a comment
    ],
)
def test_levels_and_kind_of_wavelets_are_those_of_the_stream(
    frame: bytes,
    syntax: str,
    levels: int,
    reversible: bool,  # noqa: FBT001 - a table
) -> None:
    stream = read_codestream(frame, syntax)
    assert (stream.levels, stream.is_reversible) == (levels, reversible)


@pytest.mark.parametrize(
    "frame",
    [
        imagecodecs.jpeg2k_encode(WAVELETS, codecformat="JP2", reversible=True),
        imagecodecs.jpeg2k_encode(WAVELETS.astype(np.int16), codecformat="J2K", reversible=True),
        inserted(SOT, b"\xff\x53\0\x09\0\0\1\4\4\0\1"),  # COC: the component differs
        inserted(SOD, b"\xff\x52\0\x0c\0\0\0\1\0\1\4\4\0\1"),  # COD: the tile differs
        changed(SOT + 6, (2**20).to_bytes(4)),  # a tile longer than the stream
        changed(SOT + 6, (20).to_bytes(4)),  # a tile that ends in no other
        changed(COD + 9, b"\x21"),  # more levels than there are
        changed(COD + 13, b"\7"),  # wavelets of part 2
        changed(COD, b"\xff\x64"),
        changed(16, (5).to_bytes(4)),  # an image beside the origin
        J2K[: SOT // 2] + b"\xff\xd9",
    ],
)
def test_without_certainty_there_are_no_levels_to_leave_out(frame: bytes) -> None:
    assert read_codestream(frame, JPEG2000Lossless).levels == 0


@pytest.mark.parametrize("syntax", STREAMS)
def test_a_stream_cut_in_its_header_is_a_decode_error(syntax: str) -> None:
    frame, _ = STREAMS[syntax]
    for length in range(8):
        assert reason_of(frame[:length], syntax) is Reason.DECODE_ERROR


@pytest.mark.fault(70)
@pytest.mark.parametrize("syntax", STREAMS)
def test_a_stream_without_its_end_is_bad_pixels(syntax: str) -> None:
    frame, _ = STREAMS[syntax]
    assert reason_of(frame[:-2], syntax) is Reason.BAD_PIXELS
    assert reason_of(frame + b"\xff", syntax) is None
    assert reason_of(frame + b"\0\0\0", syntax) is None


@pytest.mark.fault(70)
@pytest.mark.parametrize("syntax", STREAMS)
@given(st.binary(max_size=300))
def test_any_bytes_end_in_an_answer_or_a_reason(syntax: str, content: bytes) -> None:
    reason_of(STREAMS[syntax][0][:30] + content, syntax)
    reason_of(content, syntax)


def test_other_syntaxes_are_unsupported() -> None:
    assert reason_of(b"", MPEG2MPML) is Reason.UNSUPPORTED_SYNTAX


def rle(*segments: bytes) -> bytes:
    starts = [64 + sum(len(s) for s in segments[:n]) for n in range(len(segments))]
    return struct.pack("<16I", len(segments), *starts, *[0] * (15 - len(segments))) + b"".join(segments)


def test_rle_that_can_hold_the_film_passes() -> None:
    check_rle(rle(b"\x81\x00" * 32), segments=1, segment_bytes=4096)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (rle(b"\x81\x00" * 32), Reason.BAD_PIXELS),  # 64 bytes make 4,096, not 65,000
        (rle(b"\x81\x00" * 1024, b""), Reason.BAD_PIXELS),
        (b"\1\0\0\0", Reason.DECODE_ERROR),
        (struct.pack("<16I", 1, 4000, *[0] * 14) + b"\0" * 4096, Reason.DECODE_ERROR),
    ],
)
def test_rle_that_cannot_hold_the_film_is_refused(frame: bytes, reason: Reason) -> None:
    with pytest.raises(NotAnalysed) as refusal:
        check_rle(frame, segments=1, segment_bytes=65_000)
    assert refusal.value.reason is reason
