"""Codecs and network, as `triage doctor` tries them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from verdicts import faults, only, with_

from daemon.operating import codecs, weighing
from daemon.operating.codecs import look_at_codecs, sample
from daemon.operating.verdict import Grade
from daemon.operating.weighing import look_at_network
from daemon.sandbox import Limits
from daemon.settings import DEFAULT_WEIGHTS, Settings
from triage.card import read_card, write_card
from triage.vision.frame import DECODED_SYNTAXES


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


def test_every_syntax_that_is_taken_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr(codecs, "sample", lambda syntax: tried.append(syntax) or sample(syntax))
    assert faults(look_at_codecs(Limits())) == []
    assert set(tried) == set(DECODED_SYNTAXES)


def test_a_codec_that_fails_or_decodes_something_else_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def bent(syntax: Any) -> bytes:
        made = sample(syntax)
        if syntax == codecs.JPEGLSLossless:
            return made[: len(made) // 2]
        if syntax == codecs.RLELossless:
            plain = sample(codecs.ExplicitVRLittleEndian)
            return plain[:-8192] + np.frombuffer(plain[-8192:], "<u2")[::-1].tobytes()
        return made

    monkeypatch.setattr(codecs, "sample", bent)
    jpeg_ls, rle = faults(look_at_codecs(Limits()))
    assert "RLE Lossless" in rle
    assert "decoded wrongly" in rle
    assert "JPEG-LS Lossless" in jpeg_ls


def test_the_shipped_network_answers_as_it_was_released(settings: Settings) -> None:
    (verdict,) = look_at_network(with_(settings, device="cpu"))
    assert verdict.grade == Grade.OK
    assert "answers as released" in verdict.words


def test_a_gpu_that_torch_cannot_use_is_told_unless_the_cpu_was_asked_for(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(weighing, "_GPU", tmp_path / "nvidia0")
    assert faults(look_at_network(settings)) == []
    (tmp_path / "nvidia0").touch()
    assert only(look_at_network(settings)).startswith("warn there is a GPU, and this build of torch cannot use it")
    assert faults(look_at_network(with_(settings, device="cpu"))) == []


def test_another_answer_than_released_is_found(settings: Settings, tmp_path: Path) -> None:
    card = read_card(DEFAULT_WEIGHTS)
    golden = tuple((0.1, 0.5, 0.4) for _ in card.golden)
    write_card(dataclasses.replace(card, golden=golden), tmp_path / "card.json")
    (tmp_path / "card.safetensors").write_bytes(DEFAULT_WEIGHTS.with_suffix(".safetensors").read_bytes())
    assert "golden films are judged otherwise" in only(
        look_at_network(with_(settings, weights_card=tmp_path / "card.json"))
    )


def test_weights_that_are_not_those_of_the_card_are_found(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "card.json").write_bytes(DEFAULT_WEIGHTS.read_bytes())
    (tmp_path / "card.safetensors").write_bytes(b"altered")
    assert "sha256 differs" in only(look_at_network(with_(settings, weights_card=tmp_path / "card.json")))
