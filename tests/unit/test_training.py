"""Who is in which split, what augmentation may change, how thresholds and figures are reckoned."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator

from triage.card import Thorax
from triage.errors import TriageError
from triage.learning.augmentation import (
    augmented,
    histograms_of,
    rising_curves,
    with_borrowed_detail,
    with_repeated_edges,
    with_tone,
)
from triage.learning.calibration import HIGHEST, LOWEST, calibration_of, likely_threshold, sensitive_threshold
from triage.learning.films import BACTERIAL, NORMAL, VIRAL, LabelledFilm, folds_by_patient, groups, labelled, patient_of
from triage.learning.fitting import batches, class_weights
from triage.learning.imagenet import own_name

PERCENTILES = (1.0, 99.0)
THORAX = Thorax(margin=0.05, size_px=32)


def film(patient: str, label: int | None = NORMAL) -> LabelledFilm:
    return LabelledFilm(path=Path(patient), pneumonia=label != NORMAL, label=label, patient=patient)


def many_films() -> list[LabelledFilm]:
    return [film(f"p{i // 3}", (NORMAL, BACTERIAL, VIRAL)[i % 3]) for i in range(300)]


def digests_of(films: list[LabelledFilm]) -> list[str]:
    return [str(i) for i in range(len(films))]


# Whose film is it?


@pytest.mark.parametrize(
    ("names", "patients"),
    [
        (("person7_bacteria_1.jpeg", "person7_bacteria_22.jpeg", "person7_virus_9.jpeg"), 1),
        (("person7_bacteria_1.jpeg", "person70_bacteria_1.jpeg"), 2),
        (("IM-0115-0001.jpeg", "IM-0115-0002.jpeg", "NORMAL2-IM-0115-0001-0003.jpeg"), 1),
        (("IM-0115-0001.jpeg", "IM-1150-0001.jpeg"), 2),
        (("IM-0007-0001.jpeg", "person7_virus_1.jpeg"), 2),
        (("a.png", "b.png"), 2),
    ],
)
def test_films_of_one_patient_share_a_key(names: tuple[str, ...], patients: int) -> None:
    assert len({patient_of(name) for name in names}) == patients


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("NORMAL/IM-0115-0001.jpeg", NORMAL),
        ("PNEUMONIA/person7_bacteria_1.jpeg", BACTERIAL),
        ("pneumonia/person7_virus_1.jpeg", VIRAL),
        ("Pneumonia/7.png", None),
        ("bacterial/7.png", BACTERIAL),
        ("viral/7.dcm", VIRAL),
    ],
)
def test_label_comes_from_folder_and_name(path: str, label: int | None) -> None:
    found = labelled(Path(path))
    assert found.label == label
    assert found.pneumonia is (label != NORMAL)


def test_no_patient_is_in_two_folds_and_no_fold_is_far_larger_than_another() -> None:
    films = many_films()
    folds = folds_by_patient(films, digests_of(films), count=3, seed=1)
    assert {folds[i] for i in range(300)} == {0, 1, 2}
    assert all(len({folds[i] for i in range(300) if films[i].patient == film.patient}) == 1 for film in films)
    assert all(60 < folds.count(fold) < 140 for fold in range(3))


def test_duplicates_under_two_names_stay_together_through_others() -> None:
    films = [film("a"), film("b"), film("b"), film("c"), film("d")]
    found = groups(films, ["1", "1", "2", "2", "3"])
    assert sorted(map(sorted, found)) == [[0, 1, 2, 3], [4]]


def test_folds_depend_on_the_seed_and_on_nothing_else() -> None:
    films = many_films()
    again = [folds_by_patient(films, digests_of(films), count=3, seed=seed) for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]


def test_more_films_move_no_other() -> None:
    films = many_films()
    more = [*films, *(film(f"q{i}") for i in range(50))]
    folds, later = (folds_by_patient(its, digests_of(its), count=3, seed=1) for its in (films, more))
    assert later[:300] == folds


def test_a_table_decides_where_it_says_so() -> None:
    films = [replace(its, fold=int(its.patient[1:]) % 2) for its in many_films()]
    assert folds_by_patient(films, digests_of(films), count=2, seed=1) == [its.fold for its in films]


def test_twins_in_two_folds_of_a_table_are_refused() -> None:
    films = [replace(film("a"), fold=0), replace(film("b"), fold=1)]
    with pytest.raises(TriageError, match="in two folds under two names"):
        folds_by_patient(films, ["1", "1"], count=2, seed=1)


def test_a_fold_without_both_kinds_is_refused() -> None:
    films = [film("a", NORMAL), film("b", VIRAL)]
    with pytest.raises(TriageError, match="too few patients"):
        folds_by_patient(films, ["1", "2"], count=2, seed=1)


# What augmentation may do


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    ramp = torch.linspace(0, 255, 64).expand(64, 64)
    return torch.stack([ramp, ramp.T, (ramp + ramp.T) / 2, 255 - ramp])[:, None].to(torch.uint8)


def changed(pixels: torch.Tensor, seed: int) -> torch.Tensor:
    generator, boxes = Generator().manual_seed(seed), torch.tensor([0.1, 0.1, 0.9, 0.9]).expand(len(pixels), 4)
    return augmented(pixels, histograms_of(pixels), boxes, generator, thorax=THORAX, percentiles=PERCENTILES)


def test_augmented_films_are_valid_network_input(pixels: torch.Tensor) -> None:
    for seed in range(20):
        films = changed(pixels, seed)
        assert films.shape == (4, 1, 32, 32)
        assert films.dtype == torch.float32
        assert films.isfinite().all()
        assert films.min() >= 0
        assert films.max() <= 1


def test_films_without_bars_are_trained_on_with_repeated_edges(pixels: torch.Tensor) -> None:
    found = with_repeated_edges(pixels.expand(4, 32, 64, 64).flatten(0, 1)[:, None] / 255, Generator().manual_seed(1))
    assert found.shape == (128, 1, 64, 64)
    columns = (found[..., 0] == found[..., 1]).all((1, 2)) & (found[..., -30] != found[..., -29]).any((1, 2))
    assert 3 <= columns.sum() <= 40


def test_augmentation_repeats_with_its_seed_and_differs_without(pixels: torch.Tensor) -> None:
    assert torch.equal(changed(pixels, 5), changed(pixels, 5))
    assert not torch.equal(changed(pixels, 5), changed(pixels, 6))


def test_films_of_a_batch_are_changed_each_in_its_own_way() -> None:
    same = torch.randint(0, 256, (1, 1, 64, 64), dtype=torch.uint8).expand(4, 1, 64, 64)
    films = changed(same, 1)
    assert not torch.equal(films[0], films[1])


def test_augmentation_never_inverts_a_film(pixels: torch.Tensor) -> None:
    generator = Generator().manual_seed(2)
    for _ in range(50):
        films = with_tone(pixels, histograms_of(pixels), generator)
        by_level = films[0, 0, 0]  # the first film is a rising ramp
        assert (by_level.diff() >= 0).all()


def test_tone_curves_rise_from_black_to_white() -> None:
    level = torch.linspace(0, 1, 256).expand(32, 256)
    curves = rising_curves(level, Generator().manual_seed(1))
    assert (curves.diff(dim=1) >= 0).all()
    assert curves[:, 0].abs().max() < 1e-5
    assert (curves[:, -1] - 1).abs().max() < 1e-4
    assert curves.std(dim=0).max() > 0.05


def detail(films: torch.Tensor) -> torch.Tensor:
    """Mean difference of neighbours, a film."""
    return films.diff(dim=3).abs().mean((1, 2, 3))


def test_borrowed_detail_breaks_the_tie_between_sharpness_and_kind() -> None:
    """Half of the films are sharp, half blurred: afterwards the two kinds overlap, and brightness is as it was."""
    noise = torch.rand(64, 1, 96, 96, generator=Generator().manual_seed(1))
    blurred = noise.lerp(torch.nn.functional.avg_pool2d(noise, 3, 1, 1), 0.6)
    films = (255 * (0.3 + 0.4 * torch.cat([noise[:32], blurred[32:]]))).to(torch.uint8)
    changed = with_borrowed_detail(films, Generator().manual_seed(1)).float()
    films = films.float()
    before, after = detail(films), detail(changed)
    assert before[:32].min() > 1.5 * before[32:].max()
    assert after[:32].min() < 1.1 * before[32:].max()
    assert after[32:].max() > 1.3 * before[32:].max()
    torch.testing.assert_close(changed.mean((1, 2, 3)), films.mean((1, 2, 3)), atol=1, rtol=0)


def test_some_films_keep_their_detail_and_equal_films_all_do() -> None:
    films = torch.randint(64, 192, (64, 1, 32, 32), generator=Generator().manual_seed(1), dtype=torch.uint8)
    changed = with_borrowed_detail(films, Generator().manual_seed(1))
    kept = (changed == films).flatten(1).all(1)
    assert 8 <= kept.sum() <= 32
    same = films[:1].expand(8, 1, 32, 32)
    assert torch.equal(with_borrowed_detail(same, Generator().manual_seed(1)), same)


def test_histograms_are_shares() -> None:
    flat = torch.full((1, 1, 8, 8), 7, dtype=torch.uint8)
    assert histograms_of(flat)[0, 7] == 1
    assert histograms_of(flat).sum() == 1


def test_every_film_is_seen_at_most_once_an_epoch() -> None:
    rows = torch.cat(list(batches(103, 10, Generator().manual_seed(1))))
    assert len(rows) == 100
    assert len(set(rows.tolist())) == 100


def test_rare_classes_count_as_much_as_common_ones() -> None:
    labels = torch.tensor([0] * 10 + [1] * 20 + [2] * 70)
    totals = class_weights(labels) * torch.bincount(labels)
    torch.testing.assert_close(totals, torch.full((3,), 100 / 3))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("_conv_stem.weight", "stem.conv.weight"),
        ("_bn0.running_var", "stem.norm.running_var"),
        ("_blocks.0._bn1.bias", "blocks.0.depthwise.norm.bias"),
        ("_blocks.15._expand_conv.weight", "blocks.15.expand.conv.weight"),
        ("_blocks.3._bn2.weight", "blocks.3.project.norm.weight"),
        ("_conv_head.weight", "head.conv.weight"),
        ("_bn1.bias", "head.norm.bias"),
        ("unknown.weight", "unknown.weight"),
    ],
)
def test_start_weights_find_their_place(theirs: str, ours: str) -> None:
    assert own_name(theirs) == ours


# How figures are reckoned


def test_calibration_undoes_overconfidence_and_a_leaning() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(20_000, 3)) * 2
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)  # drawn from the softmax of the logits
    found = calibration_of((logits - [0, 0.8, -0.6]) * 3, labels)
    assert found.temperature == pytest.approx(3, rel=0.05)
    to_half_of_them = math.log((labels == NORMAL).mean() / (labels != NORMAL).mean())
    assert found.bias == pytest.approx((0, 0.8 + to_half_of_them, -0.6 + to_half_of_them), abs=0.1)


def test_calibration_does_not_depend_on_how_many_of_the_films_are_ill() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(20_000, 3)) * 2
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    kept = (labels == 0) | (rng.random(len(labels)) < 0.2)
    everyone, few_ill = calibration_of(logits, labels), calibration_of(logits[kept], labels[kept])
    assert few_ill.temperature == pytest.approx(everyone.temperature, rel=0.1)
    assert few_ill.bias == pytest.approx(everyone.bias, abs=0.15)


def test_calibration_of_films_told_apart_without_a_fault_stays_finite() -> None:
    labels = np.arange(300) % 3
    found = calibration_of(np.eye(3)[labels] * 5, labels)
    assert 0.05 < found.temperature < 1
    assert np.isfinite(found.bias).all()


def test_threshold_misses_no_more_than_it_may() -> None:
    p = np.linspace(0.05, 0.95, 200)
    positive = np.ones(200, bool)
    threshold = sensitive_threshold(p, positive, sensitivity=0.99)
    assert (p < threshold).sum() == 2
    assert (p < sensitive_threshold(p, positive, sensitivity=1.0)).sum() == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.floats(0.5, 1))
def test_threshold_keeps_its_sensitivity_unless_that_means_flagging_all(
    values: list[float], sensitivity: float
) -> None:
    p = np.array(values)
    threshold = sensitive_threshold(p, np.ones(len(p), bool), sensitivity=sensitivity)
    assert LOWEST <= threshold <= HIGHEST
    assert threshold == LOWEST or (p >= threshold).mean() >= sensitivity - 1e-9


def test_likely_means_rarely_wrong_even_where_half_are_healthy() -> None:
    p = np.concatenate([np.linspace(0, 1, 1001), np.linspace(0.95, 1, 9001)])
    positive = np.arange(len(p)) >= 1001
    threshold = likely_threshold(p, positive, ppv=0.9, least=0.3)
    assert threshold == pytest.approx(1 - 1 / 9, abs=0.002)  # all of the ill to a ninth of the healthy


def test_likely_is_never_below_the_threshold() -> None:
    p, positive = np.array([0.1, 0.9]), np.array([False, True])
    assert likely_threshold(p, positive, ppv=0.9, least=0.4) == pytest.approx(0.4)


def test_likely_out_of_reach_is_set_as_high_as_it_goes() -> None:
    p, positive = np.array([0.999, 0.9]), np.array([False, True])
    assert likely_threshold(p, positive, ppv=0.9, least=0.4) == HIGHEST
