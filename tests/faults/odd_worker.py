"""A worker whose network never answers or has lost its GPU, as long as a file is there: hangs|lost SIGN COMMAND..."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from daemon import cli, worker
from triage.vision.classifier import Classifier


def hang(sign: Path) -> None:
    real = worker.findings

    def findings(*arguments: Any) -> Any:
        while sign.exists():
            time.sleep(0.05)
        return real(*arguments)

    worker.findings = findings


def lose(sign: Path) -> None:
    real = Classifier._pass

    def passed(*arguments: Any) -> Any:
        if sign.exists():
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return real(*arguments)

    Classifier._pass = passed  # type: ignore[method-assign]


def main(ill: str, sign: Path, *command: str) -> None:
    {"hangs": hang, "lost": lose}[ill](sign)
    sys.argv[1:] = command
    cli.main()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
