"""Weights and card on disk: loaded only if they belong together."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from making import CARD
from triage.card import Thorax, write_card
from triage.errors import CardMismatchError
from triage.vision.classifier import load_classifier, load_locator, networks_with
from triage.vision.efficientnet import EfficientNetLite0, stored_tensors
from triage.vision.thorax import Locator

Change = Callable[[dict[str, Tensor]], None]
THORAX = Thorax(margin=0.05, size_px=160)


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    torch.manual_seed(5)
    return {name: tensor.half() for name, tensor in stored_tensors(EfficientNetLite0()).items()}


@pytest.fixture(scope="module")
def located(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With those of a locator."""
    torch.manual_seed(6)
    return tensors | {f"locator.{name}": tensor.half() for name, tensor in stored_tensors(Locator()).items()}


def write_pair(folder: Path, weights: bytes, thorax: Thorax | None = None) -> Path:
    (folder / "net.safetensors").write_bytes(weights)
    card = dataclasses.replace(CARD, sha256=hashlib.sha256(weights).hexdigest(), thorax=thorax)
    write_card(card, folder / "net.json")
    return folder / "net.json"


def test_a_pair_that_belongs_together_is_loaded_and_scores(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    classifier = load_classifier(write_pair(tmp_path, save(tensors)))
    scores = classifier.score(np.full((1, 224, 224), 0.5, np.float32))
    np.testing.assert_allclose(scores.sum(), 1)


def test_the_very_numbers_stored_are_used(tensors: dict[str, Tensor]) -> None:
    network, locator = networks_with(save(tensors), thorax=False)
    loaded = stored_tensors(network)
    assert locator is None
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name].half(), tensor) for name, tensor in tensors.items())
    assert loaded["fc.weight"].dtype == torch.float32


def test_both_networks_are_loaded_where_the_card_tells_of_the_thorax(
    tmp_path: Path, located: dict[str, Tensor]
) -> None:
    card = write_pair(tmp_path, save(located), THORAX)
    classifier, locator = load_classifier(card), load_locator(card)
    assert classifier.crops(np.full((1, 224, 224), 0.5, np.float32)).pixels.shape == (1, 160, 160)
    assert locator is not None
    kept = stored_tensors(locator)
    assert all(torch.equal(kept[name].half(), located[f"locator.{name}"]) for name in kept)


def test_a_card_of_the_first_version_is_served_as_it_was(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    """It said nothing of the thorax or of a curve: the whole film is shown, and no image is refused."""
    path = write_pair(tmp_path, save(tensors))
    card = json.loads(path.read_text())
    del card["thorax"], card["curve"]
    path.write_text(json.dumps(card))
    classifier = load_classifier(path)
    assert classifier.locator is None
    assert load_locator(path) is None
    films = np.random.default_rng(1).random((2, 224, 224), np.float32)
    assert [finding.reason for finding in classifier.findings(films)] == [None, None]
    np.testing.assert_array_equal(classifier.crops(films).pixels, films)


@pytest.mark.parametrize(
    ("thorax", "change", "words"),
    [
        (THORAX, lambda t: t.pop("locator.centre"), r"'locator\.centre' is missing or unknown, 1 in all"),
        (THORAX, lambda t: t.update({"locator.centre": torch.zeros(4)}), r"'locator\.centre' has another shape"),
        (THORAX, lambda t: t.update({"locator.more": torch.zeros(4)}), r"'locator\.more' is missing or unknown"),
        (None, lambda _: None, r"'locator\..*' is missing or unknown"),
    ],
)
def test_a_locator_that_does_not_fit_is_refused(
    tmp_path: Path, located: dict[str, Tensor], thorax: Thorax | None, change: Change, words: str
) -> None:
    other = dict(located)
    change(other)
    with pytest.raises(CardMismatchError, match=words):
        load_classifier(write_pair(tmp_path, save(other), thorax))


@pytest.mark.fault(103)
def test_one_changed_byte_is_noticed(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    card = write_pair(tmp_path, save(tensors))
    weights = bytearray((tmp_path / "net.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "net.safetensors").write_bytes(weights)
    with pytest.raises(CardMismatchError, match="sha256 differs"):
        load_classifier(card)


@pytest.mark.fault(103)
def test_missing_weights_are_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    card = write_pair(tmp_path, save(tensors))
    (tmp_path / "net.safetensors").unlink()
    with pytest.raises(CardMismatchError, match=r"net\.safetensors: No such file"):
        load_classifier(card)


def test_a_missing_card_is_named(tmp_path: Path) -> None:
    with pytest.raises(CardMismatchError, match=r"net\.json: No such file"):
        load_classifier(tmp_path / "net.json")


@pytest.mark.fault(103)
def test_truncated_weights_are_refused_even_if_the_card_names_them(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    with pytest.raises(CardMismatchError, match="not a safetensors file"):
        load_classifier(write_pair(tmp_path, save(tensors)[:-1000]))


@pytest.mark.fault(104)
def test_a_pickle_is_never_opened(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    torch.save(tensors, tmp_path / "pickle")
    with pytest.raises(CardMismatchError, match="not a safetensors file"):
        load_classifier(write_pair(tmp_path, (tmp_path / "pickle").read_bytes()))


@pytest.mark.fault(103)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("fc.bias"), r"'fc\.bias' is missing or unknown, 1 in all"),
        (lambda t: t.update(more=torch.zeros(1)), "'more' is missing or unknown, 1 in all"),
        (lambda t: t.update({"fc.bias": torch.zeros(4)}), r"'fc\.bias' has another shape"),
        (lambda t: t.update({"fc.bias": torch.tensor([0, 0, torch.nan])}), "not a finite number"),
        (lambda t: t.update({"fc.bias": torch.zeros(3, dtype=torch.int64)}), "not a finite number"),
    ],
)
def test_weights_of_another_network_are_refused(
    tmp_path: Path, tensors: dict[str, Tensor], change: Change, words: str
) -> None:
    other = dict(tensors)
    change(other)
    with pytest.raises(CardMismatchError, match=words):
        load_classifier(write_pair(tmp_path, save(other)))


@pytest.mark.parametrize("change", [{"architecture": "resnet"}, {"temperature": -1}, {"threshold": 1.5}])
def test_a_card_that_makes_no_sense_is_refused(
    tmp_path: Path, tensors: dict[str, Tensor], change: dict[str, object]
) -> None:
    card = write_pair(tmp_path, save(tensors))
    card.write_text(json.dumps(json.loads(card.read_text()) | change))
    with pytest.raises(CardMismatchError, match=next(iter(change))):
        load_classifier(card)
