"""Write sbom.json (CycloneDX) of what the daemon needs to run, with the native libraries inside its wheels.

`make sbom`. Also prints the licences, and fails where one forbids to pass the whole on under Apache-2.0.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from closure import ROOT, closure
from natives import natives
from packaging.utils import canonicalize_name

# Copyleft that reaches further than the library itself; LGPL, MPL and PSF do not.
_FORBIDDEN = ("AGPL", "GNU AFFERO", "GPL-2", "GPL-3", "GNU GENERAL PUBLIC")


def main() -> int:
    """0, or 1 where a licence forbids it."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "sbom.json")
    made = _environment()
    wanted = closure()
    made["components"] = [each for each in made["components"] if canonicalize_name(each["name"]) in wanted]
    refs = {each["bom-ref"] for each in made["components"]} | {made["metadata"]["component"]["bom-ref"]}
    made["components"] += [_native(*each) for each in natives()]
    made["dependencies"] = [
        {**each, "dependsOn": [ref for ref in each.get("dependsOn", ()) if ref in refs]}
        for each in made["dependencies"]
        if each["ref"] in refs
    ]
    missing = wanted.keys() - {canonicalize_name(each["name"]) for each in made["components"]} - {ROOT}
    if missing:
        raise SystemExit(f"not in the SBOM: {', '.join(sorted(missing))}")
    target.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(f"{target}: {len(made['components'])} components, of them {len(natives())} native")
    return _tell_licences(made["components"])


def _environment() -> dict[str, Any]:
    program = Path(sys.executable).with_name("cyclonedx-py")
    command = [str(program), "environment", "--pyproject", "pyproject.toml", "--output-reproducible", sys.executable]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - our own words
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def _native(wheel: str, name: str, version: str) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": f"native:{wheel}/{name}@{version}",
        "name": name,
        "version": version,
        "purl": f"pkg:generic/{name}@{version}",
        "properties": [{"name": "triage:bundled_in", "value": wheel}],
    }


def _tell_licences(components: list[dict[str, Any]]) -> int:
    by_licence: dict[str, list[str]] = defaultdict(list)
    for each in components:
        if each["bom-ref"].startswith("native:"):
            continue
        by_licence[_licence(each)].append(each["name"])
    for words, names in sorted(by_licence.items()):
        print(f"{words[:60]:60}  {', '.join(sorted(names))}")
    bad = [words for words in by_licence if _forbids(words)]
    if bad:
        print(f"these may not be passed on with this project: {bad}", file=sys.stderr)
    return 1 if bad else 0


def _licence(component: dict[str, Any]) -> str:
    told = component.get("licenses", [])
    words = [each.get("expression") or each["license"].get("id") or each["license"].get("name", "") for each in told]
    return " AND ".join(sorted({word.splitlines()[0] for word in words if word})) or "not stated"


def _forbids(words: str) -> bool:
    """Not LGPL, and nothing that may be had under another licence or carries an exception."""
    loud = words.upper()
    is_free = "LGPL" in loud or "LESSER" in loud or " OR " in loud or "EXCEPTION" in loud
    return not is_free and any(each in loud for each in _FORBIDDEN)


if __name__ == "__main__":
    sys.exit(main())
