"""The example of PostgreSQL, daemon and PACS; `tests/acceptance/test_orthanc.py` runs its Orthanc's files."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from absent import missing
from daemon.environment import read_settings
from daemon.notation import split_peer
from named import DEPLOY, documents, unknown_settings

FOLDER = DEPLOY / "compose"
TEXT = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
# Ours is built here; the others are what was tried.
OURS = "localhost/worklist-triage:"


@pytest.fixture
def compose() -> dict[str, Any]:
    (found,) = documents(TEXT)
    return found


def test_it_is_what_the_compose_specification_says() -> None:
    program = shutil.which("check-jsonschema", path=f"{Path(sys.executable).parent}")
    if program is None:
        missing("check-jsonschema (pip install check-jsonschema)")
    command = [str(program), "--builtin-schema", "vendor.compose-spec", str(FOLDER / "compose.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_daemon_would_start_with_its_settings(
    compose: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert unknown_settings(TEXT) == set()
    (tmp_path / "database-password").write_text("of-the-secret\n", encoding="ascii")
    for name, value in compose["services"]["triage"]["environment"].items():
        monkeypatch.setenv(name, str(value).replace("/run/secrets", str(tmp_path)))
    settings, _ = read_settings()
    assert settings.url == "postgresql://triage:of-the-secret@postgresql/triage"


def test_only_its_own_network_may_send(compose: dict[str, Any]) -> None:
    daemon = compose["services"]["triage"]
    (site,) = compose["networks"]["site"]["ipam"]["config"]
    ae_title, network = split_peer(daemon["environment"]["TRIAGE_DICOM_PEERS"])
    pacs = json.loads((FOLDER / "orthanc.json").read_text(encoding="utf-8"))
    assert (ae_title, network) == (pacs["DicomAet"], ip_network(site["subnet"]))
    assert not any("11112" in port for port in daemon["ports"])
    assert all(port.startswith("127.0.0.1:") for port in daemon["ports"])


def test_every_image_is_of_one_version(compose: dict[str, Any]) -> None:
    images = [service["image"] for service in compose["services"].values()]
    assert [image for image in images if not re.search(r":\d[\w.-]*(@sha256:[0-9a-f]{64})?$", image)] == []
    assert sum(image.startswith(OURS) for image in images) == 1


def test_no_secret_stands_in_it_and_what_it_mounts_is_there(compose: dict[str, Any], tmp_path: Path) -> None:
    made = tmp_path / "compose"
    shutil.copytree(FOLDER, made)
    subprocess.run(["sh", str(made / "make-secrets.sh")], check=True)
    secrets = {name: (made / "secrets" / name).read_text(encoding="ascii") for name in ("database-password",)}
    for secret in compose["secrets"].values():
        assert (made / secret["file"]).is_file()
    subprocess.run(["sh", str(made / "make-secrets.sh")], check=True)
    for name, before in secrets.items():
        assert (made / "secrets" / name).read_text(encoding="ascii") == before  # again: the same
    assert json.loads((made / "secrets" / "orthanc-users.json").read_text(encoding="ascii"))["RegisteredUsers"]
    assert not re.search(r"(?i)password: (?!\{file: )", TEXT)
    for volume in compose["services"]["orthanc"]["volumes"]:
        here = volume.partition(":")[0]
        assert here in compose["volumes"] or (FOLDER / here).is_file()
