"""From stored values to what a display would show: the grayscale chain of PS3.3 C.11 and PS3.4 N.2.

Each step works on the table of all possible stored values (at most 65,536), never on the film: a film is one look-up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from triage.errors import NotAnalysed, Reason
from triage.vision.frame import Geometry, Samples, subsample, words

Table = NDArray[np.float64]
Counts = NDArray[np.int64]
Tones = Callable[[Samples], NDArray[np.float32]]

# Without a window: the range between these percentiles of the film is shown (percent).
FALLBACK_PERCENTILES = (0.5, 99.5)
# A window that puts nearly all of the film at black or white was not meant for it.
_SHOWN_SHARE_AT_LEAST = 0.05
_GREY_DIMENSIONS = 2
# ITU-R BT.601, as in PS3.3 C.7.6.3.1.2 for Y.
_LUMINANCE = (0.299, 0.587, 0.114)


def tones(dataset: Dataset, geometry: Geometry, samples: Samples) -> Tones:
    """What makes any part of ``frame.read_samples`` a film in [0, 1], bright = dense. Raise NotAnalysed(BAD_PIXELS).

    Without a window the range is that of ``samples``.
    """
    interpretation = geometry.photometric_interpretation
    if interpretation == "PALETTE COLOR":
        return partial(_look_up, _palette_luminance(dataset, stored_values(geometry)).astype(np.float32))
    if geometry.samples_per_pixel == 1:
        counts = np.bincount(subsample(samples).reshape(-1), minlength=2**geometry.bits_stored)
        return partial(_look_up, presented(dataset, geometry, counts).astype(np.float32))
    return partial(_luminance, interpretation, np.float32(2**geometry.bits_stored - 1))


def _look_up(table: NDArray[np.float32], samples: Samples) -> NDArray[np.float32]:
    return np.take(table, samples, mode="clip")


def _luminance(interpretation: str, white: np.float32, samples: Samples) -> NDArray[np.float32]:
    """PS3.3 C.7.6.3.1.2: Y as it is, or of RGB; (H, W) is Y already."""
    if samples.ndim == _GREY_DIMENSIONS:
        return samples.astype(np.float32) / white
    if interpretation.startswith("YBR_FULL"):
        return samples[..., 0].astype(np.float32) / white
    luminance: NDArray[np.float32] = samples.astype(np.float32) @ np.array(_LUMINANCE, np.float32)
    return luminance / white


def presented(dataset: Dataset, geometry: Geometry, counts: Counts) -> Table:
    """Brightness in [0, 1] for each code; ``counts`` says how often the film has it, padding still included."""
    stored = stored_values(geometry)
    padding = _padding(dataset, stored, geometry.bits_stored)
    counts = np.where(padding, 0, counts)
    shown = _voi(dataset, _modality(dataset, stored, signed=geometry.is_signed), counts, signed=geometry.is_signed)
    if is_inverted(dataset):
        shown = 1.0 - shown
    return np.where(padding, 0.0, shown)


def stored_values(geometry: Geometry) -> Table:
    """PS3.5 8.1.1: what each code of BitsStored bits stands for."""
    codes = np.arange(2**geometry.bits_stored, dtype=np.float64)
    if geometry.is_signed:
        codes[codes.size // 2 :] -= codes.size
    return codes


def is_inverted(dataset: Dataset) -> bool:
    """The smallest value is shown white. Once in all, whoever says it.

    PS3.3 C.7.6.3.1.2 says so for MONOCHROME1, C.11.6.1.2 for INVERSE; in radiographs they go together (C.8.11.3.1.2).
    """
    return words(dataset, "PhotometricInterpretation") == "MONOCHROME1" or (
        words(dataset, "PresentationLUTShape") == "INVERSE"
    )


def _padding(dataset: Dataset, stored: Table, bits_stored: int) -> NDArray[np.bool_]:
    """PS3.3 C.7.5.1.1.2: values outside the film, from PixelPaddingValue to PixelPaddingRangeLimit."""
    first = _first_number(dataset.get("PixelPaddingValue"))
    if first is None:
        return np.zeros(stored.shape, np.bool_)
    limit = _first_number(dataset.get("PixelPaddingRangeLimit"))
    ends = [_as_stored(value, stored, bits_stored) for value in (first, first if limit is None else limit)]
    return (stored >= min(ends)) & (stored <= max(ends))


def _as_stored(value: float, stored: Table, bits_stored: int) -> float:
    """The value with the sign of the pixels, whichever of US and SS it was written in."""
    return value if stored.min() <= value <= stored.max() else float(stored[int(value) % 2**bits_stored])


def _modality(dataset: Dataset, stored: Table, *, signed: bool) -> Table:
    """PS3.3 C.11.1: a table, or a line; a line that is none (slope 0, NaN) is passed over."""
    if dataset.get("ModalityLUTSequence"):
        try:
            return _through(dataset.ModalityLUTSequence[0], stored, signed=signed)[0]
        except Exception:  # noqa: BLE001 - whatever a broken table raises; without it the values mean nothing
            raise NotAnalysed(Reason.BAD_PIXELS) from None
    slope, intercept = (_first_number(dataset.get(k)) for k in ("RescaleSlope", "RescaleIntercept"))
    if not slope or intercept is None:
        return stored
    return stored * slope + intercept


def _voi(dataset: Dataset, values: Table, counts: Counts, *, signed: bool) -> Table:
    """PS3.3 C.11.2: the first table or window that shows this film, else the range between two percentiles."""
    with suppress(Exception):
        shown, largest = _through(dataset.VOILUTSequence[0], values, signed=signed)
        shown = np.clip(shown / largest, 0.0, 1.0)
        if _shows(shown, counts):
            return shown
    windowed = _windowed(dataset, values)
    if windowed is not None and _shows(windowed, counts):
        return windowed
    return _between_percentiles(values, counts)


def _windowed(dataset: Dataset, values: Table) -> Table | None:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3; None without a window that makes sense."""
    center, width = (_first_number(dataset.get(k)) for k in ("WindowCenter", "WindowWidth"))
    if center is None or width is None or width <= 0:
        return None
    function = words(dataset, "VOILUTFunction")
    if function == "SIGMOID":
        exponent = np.clip(-4.0 * (values - center) / width, -500.0, 500.0)
        return 1.0 / (1.0 + np.exp(exponent))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0.0, 1.0)
    if width <= 1:
        return None
    return np.clip((values - (center - 0.5)) / (width - 1.0) + 0.5, 0.0, 1.0)


def _shows(shown: Table, counts: Counts) -> bool:
    """Whether enough of the film lies between black and white."""
    between = counts[(shown > 0.0) & (shown < 1.0)].sum()
    return bool(between >= _SHOWN_SHARE_AT_LEAST * max(1, counts.sum()))


def _between_percentiles(values: Table, counts: Counts) -> Table:
    order = np.argsort(values, kind="stable")
    below = np.cumsum(counts[order])
    marks = np.array(FALLBACK_PERCENTILES) / 100.0 * below[-1]
    low, high = values[order][np.minimum(np.searchsorted(below, marks), values.size - 1)]
    if high <= low:
        raise NotAnalysed(Reason.BAD_PIXELS)
    shown: Table = np.clip((values - low) / (high - low), 0.0, 1.0)
    return shown


def _through(lut: Dataset, values: Table, *, signed: bool) -> tuple[Table, float]:
    """Outputs of a Modality or VOI LUT (PS3.3 C.11.1.1.1, C.11.2.1.1) and the largest output it can have."""
    return _looked_up(lut.LUTDescriptor, lut.LUTData, values, signed=signed)


def _looked_up(descriptor: Sequence[int], data: object, values: Table, *, signed: bool) -> tuple[Table, float]:
    """Values before the first or after the last entry get that entry."""
    entries, first, bits = (int(n) for n in descriptor)
    entries = entries or 2**16  # 0 stands for 65,536
    if signed and first >= 2**15:
        first -= 2**16
    outputs = _outputs(data, entries)
    at = np.clip(np.floor(values) - first, 0, entries - 1).astype(np.intp)
    return outputs[at], float(max(2**bits - 1, 1))


def _outputs(data: object, entries: int) -> Table:
    """Raise ValueError if there are fewer outputs than entries. 8-bit tables come two a word, or one a byte."""
    if not isinstance(data, bytes):
        outputs = np.atleast_1d(np.asarray(data, np.float64))
    else:
        outputs = np.frombuffer(data, "<u2" if len(data) >= 2 * entries else "u1").astype(np.float64)
    if outputs.size < entries:
        raise ValueError("table too short")
    return outputs


def _palette_luminance(dataset: Dataset, stored: Table) -> Table:
    """PS3.3 C.7.6.3.1.5 and C.7.6.3.1.6; segmented tables are not read."""
    luminance = np.zeros(stored.shape)
    try:
        for colour, weight in zip(("Red", "Green", "Blue"), _LUMINANCE, strict=True):
            descriptor = dataset[f"{colour}PaletteColorLookupTableDescriptor"].value
            data = dataset[f"{colour}PaletteColorLookupTableData"].value
            outputs, largest = _looked_up(descriptor, data, stored, signed=False)
            luminance += weight * np.clip(outputs / largest, 0.0, 1.0)
    except Exception:  # noqa: BLE001 - whatever a broken table raises
        raise NotAnalysed(Reason.BAD_PIXELS) from None
    return luminance


def _first_number(value: object) -> float | None:
    """The first of several values; None if it is absent, no number, or not finite."""
    with suppress(Exception):
        found = float(value[0] if isinstance(value, Sequence) and not isinstance(value, str) else value)  # type: ignore[arg-type] # suppressed with the rest
        return found if math.isfinite(found) else None
    return None
