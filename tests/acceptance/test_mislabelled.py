"""An object that says it is a child's chest film and is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from running import Daemon
from sending import send

from daemon.environment import read_settings
from triage.card import read_card


@pytest.mark.fault(49)
def test_a_leg_sent_as_a_chest_is_listed_as_not_analysed_and_says_why(daemon: Daemon) -> None:
    assert read_card(read_settings()[0].weights_card).thorax is not None, "the card in use has no image gate"
    leg = dcmread(Path(str(get_testdata_file("RG3_UNCR.dcm", download=False))))
    leg.BodyPartExamined, leg.ViewPosition, leg.PatientAge, leg.PatientBirthDate = "CHEST", "AP", "003Y", ""
    leg.StudyInstanceUID, leg.SOPInstanceUID = generate_uid(), generate_uid()
    leg.file_meta.MediaStorageSOPInstanceUID = leg.SOPInstanceUID
    assert send(daemon, leg) == [0]
    entry = daemon.settled(leg.StudyInstanceUID)
    assert (entry["analysis"], entry["reason"], entry["flagged"]) == ("not_analysed", "not_a_chest_film", False)
    assert (entry["tier"], entry["p_pneumonia"]) == (None, None)
    assert "image does not look like a frontal chest film" in entry["why"]
