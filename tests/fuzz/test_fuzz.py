"""A minute of each fuzzer: that it works, and finds nothing so soon. `make fuzz` takes longer."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from absent import need

ROOT = Path(__file__).resolve().parents[2]


def has_wheel(name: str) -> bool:
    """Whether what the tests ask for is asked for here."""
    asked = map(Requirement, requires("worklist-triage") or ())
    (requirement,) = (one for one in asked if one.name == name)
    return requirement.marker is None or requirement.marker.evaluate({"extra": "test"})


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["guard", "header", "codestream"])
def test_a_minute_of_fuzzing_finds_nothing(name: str, tmp_path: Path) -> None:
    need("atheris") if has_wheel("atheris") else pytest.skip("there is no atheris for this Python")
    command = [sys.executable, "-m", "tests.fuzz", "--target", name, "--minutes", "1", "--folder", str(tmp_path)]
    # Who is started from here directly begins with the peak of memory of this process, and libFuzzer has a limit.
    command = ["sh", "-c", '"$@" & wait $!', "sh", *command]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert not list((tmp_path / name / "found").iterdir())
    executed = re.search(r"number_of_executed_units: (\d+)", ended.stderr)
    assert executed is not None
    assert int(executed[1]) > 50
    assert len(list((tmp_path / name / "corpus").iterdir())) > 5, "it sees no code that is covered"
