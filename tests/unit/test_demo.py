"""What the demonstration tells: its figures, its tables, and what it sends."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from daemon.demo.morning import invented_study, synthetic_morning, truth_of
from daemon.demo.screen import board, figures
from daemon.demo.tally import Sent, flagged_of, percentile, reasons, seconds_to_rank, waits


def sent(number: int, truth: str = "normal", *, stored: bool = True, shows: str = "") -> Sent:
    return Sent(
        number=number,
        study=f"1.2.{number}",
        shows=shows or f"synthetic, {truth}",
        truth=truth,
        stored=stored,
        answered_at=1000.0 + number,
    )


def entry(number: int, **changes: Any) -> dict[str, Any]:
    plain = {
        "rank": 0,
        "study_instance_uid": f"1.2.{number}",
        "patient_name": f"Invented^Number{number}",
        "clinical_priority": "ROUTINE",
        "analysis": "analysed",
        "reason": None,
        "flagged": False,
        "tier": "unlikely",
        "why": "Routine order; analysed, not flagged; then by arrival",
    }
    return plain | changes


def flagged(number: int, **changes: Any) -> dict[str, Any]:
    return entry(number, flagged=True, tier="likely", why="Routine order; flagged: pneumonia likely") | changes


def shown(renderable: RenderableType, columns: int = 160) -> str:
    console = Console(width=columns)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


MORNING = [sent(1), sent(2, "viral"), sent(3), sent(4, "bacterial")]
TRIAGED = [flagged(4), entry(1), entry(2), entry(3)]


class TestFigures:
    def test_waits_compare_arrival_with_the_triaged_order(self) -> None:
        found = waits(MORNING, TRIAGED, lambda study, _: study.pneumonia)
        assert found is not None
        assert (found.studies, found.first_come, found.triaged) == (2, 20.0, 10.0)

    def test_first_come_keeps_the_clinical_priority_of_the_orders(self) -> None:
        triaged = [entry(3, clinical_priority="STAT"), flagged(4), entry(1), entry(2)]
        found = waits(MORNING, triaged, lambda study, _: study.number == 3)
        assert found is not None
        assert found.first_come == found.triaged == 0.0

    def test_no_such_study_has_no_mean_wait(self) -> None:
        assert waits(MORNING, TRIAGED, lambda study, _: study.number == 99) is None

    def test_flags_are_counted_among_the_analysed_only(self) -> None:
        unseen = entry(2, analysis="not_analysed", reason="decode_error", tier=None)
        assert flagged_of([MORNING[1], MORNING[3]], [flagged(4), unseen]) == (1, 1)

    def test_reasons_count_what_was_not_analysed(self) -> None:
        entries = [entry(1), *(entry(n, analysis="not_analysed", reason="age_unknown") for n in (2, 3))]
        assert reasons(entries) == {"age_unknown": 2}

    def test_seconds_run_from_success_to_ranked_and_leave_out_what_was_refused(self) -> None:
        morning = [sent(1), sent(2, stored=False), sent(3)]
        ranked = {f"1.2.{n}": datetime.fromtimestamp(1000.0 + n + 0.5, UTC) for n in (1, 2)}
        assert seconds_to_rank(morning, ranked) == [0.5]

    @pytest.mark.parametrize(("share", "value"), [(0.5, 2), (0.95, 4), (0.25, 1), (1.0, 4)])
    def test_percentile_is_one_of_the_values(self, share: float, value: float) -> None:
        assert percentile([4, 1, 3, 2], share) == value

    def test_summary_says_how_many_synthetic_films_were_flagged(self) -> None:
        text = figures(MORNING, TRIAGED, {}).plain
        assert "Of 2 synthetic pneumonias 1 flagged; of 2 synthetic normals 0 flagged." in text
        assert "say nothing about accuracy" in text

    def test_summary_of_films_without_labels_claims_nothing(self) -> None:
        text = figures([sent(1, "", shows="film, not labelled")], [entry(1)], {}).plain
        assert "pneumonia" not in text

    def test_summary_names_what_is_missing(self) -> None:
        entries = [entry(1, analysis="not_analysed", reason="age_unknown"), entry(2, analysis="pending")]
        text = figures(MORNING, entries, {}).plain
        assert "Sent 4 studies, received 2, analysed 0." in text
        assert "Not analysed, age_unknown: 1." in text
        assert "Still pending: 1." in text


class TestScreen:
    def test_wide_terminal_shows_both_orders(self) -> None:
        text = shown(board(MORNING, TRIAGED, columns=160))
        assert "As they arrived" in text
        assert text.index("As they will be read") < text.index("flagged: pneumonia likely")

    def test_narrow_terminal_shows_the_triaged_order(self) -> None:
        text = shown(board(MORNING, TRIAGED, columns=80), columns=80)
        assert "As they arrived" not in text
        assert "As they will be read" in text

    def test_a_study_that_was_refused_is_shown(self) -> None:
        assert "not received" in shown(board([sent(9, stored=False)], [], columns=160))

    def test_names_are_text_not_markup(self) -> None:
        assert "[bold]" in shown(board([], [entry(1, patient_name="[bold]X")], columns=160))

    def test_short_terminal_keeps_the_latest_arrivals_and_the_first_to_be_read(self) -> None:
        text = shown(board(MORNING, TRIAGED, columns=160, rows=1))
        assert text.count("Number4") == 2
        assert "Number1" not in text


class TestMorning:
    def test_synthetic_morning_mixes_pneumonias_normals_and_films_for_nobody(self) -> None:
        films = synthetic_morning(24, seed=1)
        assert len(films) == 24
        truths = [film.truth for film in films]
        assert {"normal", "bacterial", "viral"} <= set(truths)
        assert truths.count("normal") > truths.count("bacterial") + truths.count("viral")

    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_short_morning_has_as_many_films_as_asked_for(self, count: int) -> None:
        assert len(synthetic_morning(count, seed=1)) == count

    def test_patient_is_invented_and_of_the_validated_age(self) -> None:
        for number in range(40):
            dataset = invented_study(number, random.Random(number))
            assert str(dataset.PatientName).split("^")[0] in {
                "Invented", "Madeup", "Imaginary", "Pretend", "Fictional", "Makebelieve",
            }  # fmt: skip
            assert "001Y" <= dataset.PatientAge <= "005Y"

    def test_some_orders_are_urgent_and_one_is_stat(self) -> None:
        priorities = [invented_study(n, random.Random(1)).RequestedProcedurePriority for n in range(24)]
        assert (priorities.count("STAT"), priorities.count("HIGH")) == (1, 2)

    def test_no_two_studies_share_a_uid(self) -> None:
        uids = {invented_study(n, random.Random(1)).StudyInstanceUID for n in range(5)}
        assert len(uids) == 5

    @pytest.mark.parametrize(
        ("path", "truth"),
        [
            ("NORMAL/IM-0115-0001.jpeg", "normal"),
            ("PNEUMONIA/person1_bacteria_2.jpeg", "bacterial"),
            ("PNEUMONIA/person1_virus_2.jpeg", "viral"),
            ("PNEUMONIA/17.png", "pneumonia"),
            ("viral/17.png", "viral"),
            ("abnormal/17.png", ""),
            ("normal-or-pneumonia/17.png", ""),
            ("17.png", ""),
        ],
    )
    def test_truth_is_what_the_names_say(self, path: str, truth: str) -> None:
        assert truth_of(Path("/films") / path, Path("/films")) == truth

    def test_truth_may_be_the_name_of_the_folder_itself(self) -> None:
        assert truth_of(Path("/films/viral/17.png"), Path("/films/viral")) == "viral"
