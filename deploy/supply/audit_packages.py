"""Ask a vulnerability service about every package that the daemon needs to run. `make audit-packages`.

Exit codes: 0, all were checked and nothing is known of them; 1, something is known; 3, not everything could be checked.
pip-audit itself ends with 0 where an index knows no vulnerabilities at all, as mirrors do: that is said here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from closure import ROOT, closure

_SOUND, _VULNERABLE, _NOT_CHECKED = 0, 1, 3
_SECONDS = 600
_SERVICES = ("pypi", "osv")


def main() -> int:
    """The exit code."""
    wanted = {name: version.partition("+")[0] for name, version in closure().items() if name != ROOT}
    for service in _SERVICES:
        found = _asked(service, wanted)
        checked = [each for each in found if "skip_reason" not in each]
        if checked:
            return _told(service, found, len(wanted))
        print(f"{service}: could not be asked", file=sys.stderr)
    print(f"NOT CHECKED: no vulnerability service was reached for {len(wanted)} packages", file=sys.stderr)
    return _NOT_CHECKED


def _asked(service: str, wanted: dict[str, str]) -> list[dict[str, Any]]:
    """What it says of each package; nothing where it does not answer."""
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "packages.txt"
        listed.write_text("".join(f"{name}=={version}\n" for name, version in wanted.items()), encoding="utf-8")
        options = ("--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json", "--timeout", "15")
        command = [sys.executable, "-m", "pip_audit", "-r", str(listed), "-s", service, *options]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)  # noqa: S603 - our own words
            found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
        except (subprocess.TimeoutExpired, ValueError, KeyError):
            return []
    return found


def _told(service: str, found: list[dict[str, Any]], count: int) -> int:
    known = [(each["name"], each["version"], vuln) for each in found for vuln in each.get("vulns", ())]
    for name, version, vuln in known:
        fixed = ", ".join(vuln["fix_versions"]) or "no version yet"
        print(f"{name} {version}: {vuln['id']} {' '.join(vuln['aliases'])}; fixed in {fixed}")
    skipped = [each["name"] for each in found if "skip_reason" in each]
    print(f"{service}: {len(found) - len(skipped)} of {count} packages checked, {len(known)} vulnerabilities known")
    if skipped:
        print(f"NOT CHECKED: {', '.join(skipped)}", file=sys.stderr)
    return _VULNERABLE if known else _NOT_CHECKED if skipped else _SOUND


if __name__ == "__main__":
    sys.exit(main())
