"""Coverage-guided fuzzing of what reads bytes of strangers: ``python -m tests.fuzz [--target NAME] [--minutes N]``.

What it has found lies in FOLDER/NAME/found: make a test of it beside the others. The corpus stays for the next time.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("guard", "header", "codestream")
# As OSS-Fuzz has them.
INPUT_SECONDS, RSS_MIB, INPUT_BYTES = 25, 2560, 8192
INSTRUMENTED = ["triage.vision", "daemon.dicom", "pydicom.filereader", "pydicom.dataset", "pydicom.charset"]


def main() -> int:
    """0 if nothing was found."""
    asked = argparse.ArgumentParser(prog="python -m tests.fuzz")
    asked.add_argument("--target", choices=NAMES)
    asked.add_argument("--minutes", type=float, default=10.0)
    asked.add_argument("--folder", type=Path, default=ROOT / "build" / "fuzz")
    given = asked.parse_args()
    if given.target:
        fuzz(given.target, given.minutes, given.folder / given.target)
    return max(_apart(name, given.minutes, given.folder) for name in NAMES)


def _apart(name: str, minutes: float, folder: Path) -> int:
    """A fuzzer ends its process."""
    command = [sys.executable, "-m", "tests.fuzz", "--target", name, "--minutes", str(minutes), "--folder", folder]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def fuzz(name: str, minutes: float, folder: Path) -> None:
    """Never return: exit with 0, or with libFuzzer's code for a finding."""
    import atheris  # noqa: PLC0415 - the other process needs none

    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "integration"), str(ROOT / "tests" / "fuzz")]
    with atheris.instrument_imports(include=INSTRUMENTED):
        import targets  # noqa: PLC0415 - so that it is instrumented
    warnings.simplefilter("ignore")  # pydicom's, of which there would be thousands
    logging.disable(logging.CRITICAL)
    corpus, found = folder / "corpus", folder / "found"
    for each in (corpus, found):
        each.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(targets.seeds(name)):
        (corpus / f"seed-{number}").write_bytes(seed)
    limits = [f"-max_total_time={round(60 * minutes)}", f"-timeout={INPUT_SECONDS}", f"-rss_limit_mb={RSS_MIB}"]
    told = [f"-max_len={INPUT_BYTES}", f"-artifact_prefix={found}/", "-print_final_stats=1", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *limits, *told, str(corpus)], targets.TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
