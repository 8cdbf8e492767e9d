"""A worker whose network never answers or has lost its GPU, as long as a file is there: hangs|lost SIGN COMMAND..."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from daemon import cli
from triage.vision.classifier import Classifier


def main(ill: str, sign: Path, *command: str) -> None:
    real = Classifier._pass

    def passed(*arguments: Any) -> Any:
        while ill == "hangs" and sign.exists():
            time.sleep(0.05)
        if sign.exists():
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return real(*arguments)

    Classifier._pass = passed  # type: ignore[method-assign]
    sys.argv[1:] = command
    cli.main()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
