"""Who is in which split, what augmentation may change, how thresholds and figures are reckoned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator

from triage.errors import TriageError
from triage.learning.augmentation import augmented, histograms_of, rising_curves, with_tone
from triage.learning.calibration import HIGHEST, LOWEST, likely_threshold, sensitive_threshold, temperature_of
from triage.learning.evaluation import auc, metrics
from triage.learning.films import BACTERIAL, NORMAL, VIRAL, LabelledFilm, groups, labelled, patient_of, split_by_patient
from triage.learning.imagenet import own_name
from triage.learning.training import Recipe, batches, class_weights

PERCENTILES = (1.0, 99.0)


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


def test_no_patient_is_on_both_sides_of_the_split() -> None:
    films = many_films()
    training, validation = split_by_patient(films, digests_of(films), share=0.3, seed=1)
    assert sorted(training + validation) == list(range(300))
    assert not {films[i].patient for i in training} & {films[i].patient for i in validation}
    assert 0.15 < len(validation) / 300 < 0.45


def test_duplicates_under_two_names_stay_together_through_others() -> None:
    films = [film("a"), film("b"), film("b"), film("c"), film("d")]
    found = groups(films, ["1", "1", "2", "2", "3"])
    assert sorted(map(sorted, found)) == [[0, 1, 2, 3], [4]]


def test_patients_held_out_are_never_trained_on() -> None:
    films = many_films()
    _, without = split_by_patient(films, digests_of(films), share=0.3, seed=1)
    strangers = {f"p{i}" for i in range(20)}
    training, validation = split_by_patient(films, digests_of(films), share=0.3, seed=1, held_out=strangers)
    assert not strangers & {films[i].patient for i in training}
    assert set(without) < set(validation)


def test_the_split_depends_on_the_seed_and_on_nothing_else() -> None:
    films = many_films()
    again = [split_by_patient(films, digests_of(films), share=0.3, seed=seed) for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]


def test_a_split_without_both_kinds_on_each_side_is_refused() -> None:
    films = [film("a", NORMAL), film("b", VIRAL)]
    with pytest.raises(TriageError, match="too few patients"):
        split_by_patient(films, ["1", "2"], share=0.5, seed=1)


# What augmentation may do


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    ramp = torch.linspace(0, 255, 64).expand(64, 64)
    return torch.stack([ramp, ramp.T, (ramp + ramp.T) / 2, 255 - ramp])[:, None].to(torch.uint8)


def changed(pixels: torch.Tensor, seed: int) -> torch.Tensor:
    generator = Generator().manual_seed(seed)
    return augmented(pixels, histograms_of(pixels), generator, percentiles=PERCENTILES)


def test_augmented_films_are_valid_network_input(pixels: torch.Tensor) -> None:
    for seed in range(20):
        films = changed(pixels, seed)
        assert films.shape == pixels.shape
        assert films.dtype == torch.float32
        assert films.isfinite().all()
        assert films.min() >= 0
        assert films.max() <= 1


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


def test_every_run_ends_with_films_of_full_size() -> None:
    assert [Recipe(epochs=epochs).small_epochs for epochs in (1, 2, 3, 9)] == [0, 1, 2, 8]


# How figures are reckoned


def test_temperature_undoes_overconfidence() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(5_000, 3)) * 2
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)  # drawn from the softmax of the logits
    assert temperature_of(logits * 3, labels) == pytest.approx(3, rel=0.1)


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


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auc_is_the_share_of_pairs_in_right_order_ties_half(rows: list[tuple[int, bool]]) -> None:
    scores, positive = np.array([r[0] / 5 for r in rows]), np.array([r[1] for r in rows])
    if positive.all() or not positive.any():
        return
    pairs = scores[positive][:, None] - scores[~positive][None]
    assert auc(scores, positive) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def test_metrics_count_each_film_once_and_flag_at_the_threshold() -> None:
    films = [film("a"), film("b"), film("c", BACTERIAL), film("d", VIRAL), film("e", None)]
    scores = np.array([[0.9, 0.1, 0], [0.5, 0.5, 0], [0.2, 0.7, 0.1], [0.6, 0.1, 0.3], [0.1, 0.1, 0.8]])
    found = metrics(scores, films, threshold=0.5)
    assert found == {
        "n": 5,
        "auc": pytest.approx(5 / 6),
        "threshold": 0.5,
        "true_positive": 2,
        "false_negative": 1,
        "false_positive": 1,
        "true_negative": 1,
        "three_class_accuracy": pytest.approx(3 / 4),
    }


def test_three_class_accuracy_is_absent_where_no_kind_is_stated() -> None:
    scores = np.array([[0.9, 0.1, 0], [0.2, 0.7, 0.1]])
    assert metrics(scores, [film("a"), film("b", None)], threshold=0.5)["three_class_accuracy"] is None
