"""What networks that had not seen a training film said of it: a table beside the weights.

The shipped network knows its training films by heart, so it must not be measured on them. Each was judged once by a
network fitted without it and its patient's other films; that answer stands here under the film's digest.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from triage.errors import CardMismatchError

ENDING = ".out-of-fold.csv"
DIGEST_LENGTH = 16
COLUMNS = ("digest", "fold", "logit_normal", "logit_bacterial", "logit_viral")
_FIRST_WORDS = "# weights "


@dataclass(frozen=True, kw_only=True, eq=False)
class OutOfFold:
    """``logits``: of each digest, float64 (3), uncalibrated. ``weights_sha256``: of the weights trained on these."""

    weights_sha256: str
    logits: dict[str, NDArray[np.float64]]

    def of(self, digest: str) -> NDArray[np.float64] | None:
        return self.logits.get(digest[:DIGEST_LENGTH])


def digest_of(film: NDArray[np.float32]) -> str:
    """Of a film (size, size) in [0, 1], as ``pixels.prepare`` gives it, in 256 levels: 16 hexadecimal digits."""
    return hashlib.sha256(np.rint(film * 255).astype(np.uint8).tobytes()).hexdigest()[:DIGEST_LENGTH]


def path_beside(card: Path) -> Path:
    return card.with_suffix(ENDING)


def write_out_of_fold(
    card: Path, weights_sha256: str, digests: Sequence[str], folds: Sequence[int], logits: NDArray[np.float64]
) -> None:
    """Write the table beside a card; ``logits`` (N, 3). Digests of any length are cut, the same film is said once.

    Written aside, then renamed: a reader sees the old table or the new one.
    """
    rows = {
        digest[:DIGEST_LENGTH]: (fold, *(f"{logit:.6g}" for logit in row))
        for digest, fold, row in zip(digests, folds, logits, strict=True)
    }
    text = io.StringIO()
    text.write(f"{_FIRST_WORDS}{weights_sha256}\n")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows((digest, *row) for digest, row in sorted(rows.items()))
    path = path_beside(card)
    aside = path.with_suffix(".part")
    aside.write_text(text.getvalue(), encoding="utf-8")
    aside.replace(path)


def read_out_of_fold(card: Path, weights_sha256: str) -> OutOfFold | None:
    """Read the table beside a card, None if there is none. Raise CardMismatchError if it is of other weights."""
    path = path_beside(card)
    try:
        first, *lines = path.read_text(encoding="utf-8").splitlines()
        rows = [(digest, _logits(row)) for digest, _, *row in _rows(lines)]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CardMismatchError(f"{path.name}: {error.strerror}") from error
    except ValueError as error:
        raise CardMismatchError(f"{path.name}: not a table of out-of-fold logits ({error})") from error
    if first != f"{_FIRST_WORDS}{weights_sha256}":
        raise CardMismatchError(f"{path.name}: belongs to other weights than {weights_sha256[:12]}")
    return OutOfFold(weights_sha256=weights_sha256, logits=dict(rows))


def _rows(lines: Sequence[str]) -> list[list[str]]:
    """Raise ValueError."""
    header, *rows = csv.reader(lines)
    if tuple(header) != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
        raise ValueError("other columns")
    return rows


def _logits(row: Sequence[str]) -> NDArray[np.float64]:
    """Raise ValueError."""
    logits = np.array([float(logit) for logit in row], np.float64)
    if not np.isfinite(logits).all():
        raise ValueError("not a finite number")
    return logits
