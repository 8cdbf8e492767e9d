"""A worker whose network never answers for as long as a file is there: SIGN COMMAND..."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from daemon import cli, worker


def main(sign: Path, *command: str) -> None:
    real = worker.findings

    def findings(*arguments: Any) -> Any:
        while sign.exists():
            time.sleep(0.05)
        return real(*arguments)

    worker.findings = findings
    sys.argv[1:] = command
    cli.main()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
