"""An independent PACS forwards what it gets; nobody touches the daemon."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import chests
import httpx
import pytest
from running import Daemon, free_port, wait_for

from absent import missing

# What the example of compose.yaml gives its PACS.
SHIPPED = Path(__file__).resolve().parents[2] / "deploy" / "compose"


@pytest.fixture
def orthanc(daemon: Daemon, tmp_path: Path) -> Iterator[str]:
    """URL of an Orthanc that forwards to the daemon what it gets."""
    program = shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin")  # not on everybody's path
    if program is None:
        missing("Orthanc (apt-get install orthanc)")
    port = free_port()
    configuration = json.loads((SHIPPED / "orthanc.json").read_text(encoding="utf-8"))
    configuration["DicomModalities"]["triage"] |= {"Host": "127.0.0.1", "Port": daemon.dicom_port}
    configuration |= {
        "StorageDirectory": str(tmp_path / "storage"),
        "IndexDirectory": str(tmp_path / "storage"),
        "HttpPort": port,
        "DicomPort": free_port(),
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "LuaScripts": [str(SHIPPED / "forward.lua")],
        "Plugins": [],
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(configuration), encoding="utf-8")
    with (tmp_path / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([str(program), str(tmp_path / "orthanc.json")], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: _answers(url), 60)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"{url}/system", timeout=5).is_success
    return False


def test_a_film_that_orthanc_forwards_is_analysed_without_anybody_touching_it(
    daemon: Daemon, orthanc: str, tmp_path: Path
) -> None:
    films = [chests.chest(tmp_path, PatientName="Invented^Forwarded") for _ in range(3)]
    for film in films:
        answer = httpx.post(f"{orthanc}/instances", content=film.path.read_bytes(), timeout=30)
        assert answer.is_success, answer.text

    def all_listed() -> bool:
        return {film.study for film in films} <= {entry["study_instance_uid"] for entry in daemon.worklist()}

    wait_for(all_listed, 90)
    for film in films:
        entry = daemon.settled(film.study)
        assert (entry["analysis"], entry["patient_name"]) == ("analysed", "Invented^Forwarded")
