"""The network is not what its card says, or does not do what it did: nothing is analysed, everything is received."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import chests
import numpy as np
import pytest
import torch
from running import Daemon
from safetensors.numpy import load as parse
from safetensors.numpy import save as serialised
from sending import send

from daemon.settings import DEFAULT_WEIGHTS
from triage.card import Card, read_card, write_card
from triage.errors import CardMismatchError
from triage.learning.training import with_golden
from triage.vision.classifier import Classifier, load_classifier
from triage.vision.golden import TOLERANCE, answers, golden_films, refuse_wrong

SHIPPED = DEFAULT_WEIGHTS.with_suffix(".safetensors")
SIGN = "opened"
LAST = "fc.weight"


class Bomb:
    """Leaves a file behind if anybody unpickles it."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path(SIGN),)


def altered(weights: bytes) -> bytes:
    """The last layer the other way round: as sound a file as any, and every answer wrong."""
    tensors = parse(weights)
    return serialised({**tensors, LAST: -tensors[LAST]})


def paired(folder: Path, weights: bytes, **changes: object) -> Path:
    """A card that names these very weights, beside them."""
    card = folder / "network.json"
    card.with_suffix(".safetensors").write_bytes(weights)
    write_card(replace(read_card(DEFAULT_WEIGHTS), **{"sha256": hashlib.sha256(weights).hexdigest(), **changes}), card)
    return card


@pytest.fixture(scope="module")
def shipped() -> Classifier:
    return load_classifier(DEFAULT_WEIGHTS)


@pytest.mark.fault(107)
def test_the_shipped_network_says_of_the_golden_films_what_its_card_says(shipped: Classifier) -> None:
    assert shipped.card.golden
    refuse_wrong(shipped)
    assert np.abs(np.subtract(answers(shipped), shipped.card.golden)).max() <= TOLERANCE / 4


@pytest.mark.fault(107)
def test_the_golden_films_are_as_films_are_and_no_two_alike(shipped: Classifier) -> None:
    films = golden_films(224)
    assert films.shape == (3, 224, 224)
    assert films.dtype == np.float32
    assert 0.0 <= films.min() < 0.01
    assert 0.9 < films.max() <= 1.0
    said = np.array(answers(shipped))
    assert 0.05 < said[:, 0].min() < said[:, 0].max() < 0.95, "answers at an end would hide what is off"
    assert np.abs(said[0] - said[1]).max() > TOLERANCE


@pytest.mark.fault(107)
@pytest.mark.parametrize(
    "change",
    [
        {"bias": (0.0, 0.5, 0.0)},
        {"temperature": 2.0},
        {"preprocessing": replace(read_card(DEFAULT_WEIGHTS).preprocessing, mean=0.4)},
        {"thorax": replace(read_card(DEFAULT_WEIGHTS).thorax, margin=0.4)},
    ],
)
def test_a_card_whose_sums_were_changed_is_noticed(tmp_path: Path, change: dict[str, object]) -> None:
    classifier = load_classifier(paired(tmp_path, SHIPPED.read_bytes(), **change))
    with pytest.raises(CardMismatchError, match="self-test: golden films are judged otherwise"):
        refuse_wrong(classifier)


@pytest.mark.fault(107)
def test_a_processor_that_counts_wrong_is_noticed(shipped: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.nn.functional.conv2d
    for wrong in (lambda *a, **k: real(*a, **k) * 1.1, lambda *a, **k: real(*a, **k) * torch.nan):
        monkeypatch.setattr(torch.nn.functional, "conv2d", wrong)
        with pytest.raises(CardMismatchError, match="self-test"):
            refuse_wrong(shipped)
        monkeypatch.undo()
    refuse_wrong(shipped)


@pytest.mark.fault(107)
def test_a_card_from_before_the_golden_films_is_served(tmp_path: Path) -> None:
    classifier = load_classifier(paired(tmp_path, SHIPPED.read_bytes(), golden=()))
    refuse_wrong(classifier)


@pytest.mark.fault(107)
def test_a_new_card_holds_what_its_own_weights_say() -> None:
    card: Card = replace(read_card(DEFAULT_WEIGHTS), golden=())
    assert with_golden(card, SHIPPED.read_bytes()).golden == read_card(DEFAULT_WEIGHTS).golden
    assert with_golden(card, altered(SHIPPED.read_bytes())).golden != read_card(DEFAULT_WEIGHTS).golden


@pytest.mark.fault(107, 103)
def test_a_network_that_fails_its_self_test_ranks_nobody_until_it_is_put_right(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = make_daemon(weights_card=paired(tmp_path, altered(SHIPPED.read_bytes()))).serve()
    film = chests.chest(tmp_path / "films", side=256)
    assert send(daemon, film.dataset) == [0]
    entry = daemon.settled(film.study, 180)
    assert (entry["analysis"], entry["reason"], entry["flagged"]) == ("not_analysed", "model_unavailable", False)
    assert "self-test" in daemon.lines("model_unavailable")[0]["problem"]
    assert (daemon.get("/api/health/live").status_code, daemon.get("/api/health/ready").status_code) == (200, 503)
    assert not daemon.lines("child_died")
    paired(tmp_path, SHIPPED.read_bytes())
    daemon.wait_for_log("model_loaded", 120)
    daemon.wait_for_log("study_ranked")
    assert daemon.entry(film.study)["analysis"] == "analysed"


@pytest.mark.fault(104)
def test_a_pickle_in_the_place_of_weights_is_never_opened_whatever_its_card_says(
    make_daemon: Callable[..., Daemon], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = make_daemon(weights_card=paired(tmp_path, pickle.dumps(Bomb())))
    daemon.start("work")
    assert "not a safetensors file" in daemon.wait_for_log("model_unavailable")["problem"]
    assert not (daemon.scratch / SIGN).exists()
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Bomb()))
    assert Path(SIGN).exists(), "the bomb is none"


@pytest.mark.fault(101)
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_asked_for_and_absent_is_said_and_without_the_asking_the_processor_serves(
    make_daemon: Callable[..., Daemon],
) -> None:
    asked, free = make_daemon(device="cuda"), make_daemon(device="auto")
    asked.start("work")
    assert "no GPU" in asked.wait_for_log("model_unavailable")["problem"]
    free.start("work")
    assert free.wait_for_log("model_loaded")["device"] == "cpu"
