"""The table of what networks said that had not seen a film: kept beside its weights, found by the film's pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from triage.errors import CardMismatchError
from triage.learning.out_of_fold import digest_of, path_beside, read_out_of_fold, write_out_of_fold

WEIGHTS = "ab" * 32
LOGITS = np.array([[1.5, -0.25, 1e-7], [-12.345678, 3.0, 0.0]])


@pytest.fixture
def card(tmp_path: Path) -> Path:
    return tmp_path / "pneumonia.json"


def test_what_was_written_is_found_by_digests_of_any_length(card: Path) -> None:
    digests = ["0123456789abcdef" + "0" * 48, "fedcba9876543210"]
    write_out_of_fold(card, WEIGHTS, digests, [3, 0], LOGITS)
    found = read_out_of_fold(card, WEIGHTS)
    assert found
    for digest, logits in zip(digests, LOGITS, strict=True):
        assert found.of(digest) == pytest.approx(logits, rel=1e-5)
    assert found.of("0000000000000000") is None
    assert [path.name for path in card.parent.iterdir()] == ["pneumonia.out-of-fold.csv"]  # nothing aside is left


def test_the_table_can_be_read_by_people_and_says_whose_it_is(card: Path) -> None:
    write_out_of_fold(card, WEIGHTS, ["0123456789abcdef"], [2], LOGITS[:1])
    assert path_beside(card).read_text(encoding="utf-8").splitlines() == [
        f"# weights {WEIGHTS}",
        "digest,fold,logit_normal,logit_bacterial,logit_viral",
        "0123456789abcdef,2,1.5,-0.25,1e-07",
    ]


def test_films_that_are_alike_are_said_once(card: Path) -> None:
    write_out_of_fold(card, WEIGHTS, ["a" * 16, "a" * 16], [1, 1], LOGITS[[0, 0]])
    assert len(path_beside(card).read_text(encoding="utf-8").splitlines()) == 3


def test_a_card_without_a_table_has_none(card: Path) -> None:
    assert read_out_of_fold(card, WEIGHTS) is None


def test_a_table_of_other_weights_is_refused(card: Path) -> None:
    write_out_of_fold(card, "cd" * 32, ["a" * 16], [1], LOGITS[:1])
    with pytest.raises(CardMismatchError, match="other weights than abababababab"):
        read_out_of_fold(card, WEIGHTS)


@pytest.mark.parametrize(
    "body",
    [
        "",
        f"# weights {WEIGHTS}\n",
        f"# weights {WEIGHTS}\ndigest,fold,logit_normal\n",
        f"# weights {WEIGHTS}\ndigest,fold,logit_normal,logit_bacterial,logit_viral\naaaa,1,0.5\n",
        f"# weights {WEIGHTS}\ndigest,fold,logit_normal,logit_bacterial,logit_viral\naaaa,1,0.5,x,1\n",
        f"# weights {WEIGHTS}\ndigest,fold,logit_normal,logit_bacterial,logit_viral\naaaa,1,0.5,nan,1\n",
    ],
)
def test_half_a_table_is_refused(card: Path, body: str) -> None:
    path_beside(card).write_text(body, encoding="utf-8")
    with pytest.raises(CardMismatchError, match="not a table of out-of-fold logits"):
        read_out_of_fold(card, WEIGHTS)


def test_the_digest_is_of_the_film_in_256_levels() -> None:
    film = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    assert len(digest_of(film)) == 16
    assert digest_of(film) == digest_of(film + np.float32(1e-5))
    assert digest_of(film) != digest_of(film[::-1].copy())
