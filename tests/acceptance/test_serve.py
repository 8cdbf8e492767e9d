"""What an operator meets: wrong settings, taken ports, stopping, dying children, a broken network."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import chests
import pytest
from running import Daemon, has_ended, wait_for
from sending import send

from daemon.settings import DEFAULT_WEIGHTS


def complaints(output: str) -> list[str]:
    """Lines for a person, which are not log lines."""
    return [line for line in output.splitlines() if line and not line.startswith("{")]


@pytest.mark.fault(24)
@pytest.mark.parametrize("setting", ["dicom_port", "http_port"])
def test_a_port_in_use_is_said_in_one_line_and_ends_it(make_daemon: Callable[..., Daemon], setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        port = squatter.getsockname()[1]
        daemon = make_daemon(**{setting: port})
        ended = daemon.run("serve")
    assert ended.returncode == 2
    (line,) = complaints(ended.stdout + ended.stderr)
    assert str(port) in line
    assert "in use" in line


@pytest.mark.fault(121)
def test_an_unknown_setting_is_named(make_daemon: Callable[..., Daemon]) -> None:
    ended = make_daemon(dicom_prot=104).run("serve")
    assert ended.returncode == 2
    (line,) = complaints(ended.stdout + ended.stderr)
    assert "TRIAGE_DICOM_PROT" in line
    assert "TRIAGE_DICOM_PORT" in line


def test_a_data_folder_that_cannot_be_made_is_said_in_one_line(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    ended = make_daemon(data_dir=tmp_path / "file" / "data").run("serve")
    assert ended.returncode == 2
    (line,) = complaints(ended.stdout + ended.stderr)
    assert "data_dir" in line


@pytest.mark.fault(96)
def test_sigterm_ends_everything_in_time_and_gives_no_job_away(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = make_daemon().serve()
    daemon.wait_for_log("model_loaded")
    films = [chests.chest(tmp_path, side=1024) for _ in range(8)]
    assert send(daemon, *(film.dataset for film in films)) == [0] * 8
    family = daemon.family()
    started = time.monotonic()
    assert daemon.terminate() == {"serve": 0}
    assert time.monotonic() - started < 15
    wait_for(lambda: all(has_ended(process) for process in family), 10)
    states = {state for (state,) in daemon.rows("SELECT state FROM jobs")}
    assert states <= {"queued", "done"}
    assert not daemon.lines("uncaught_exception")
    daemon.serve()
    assert {daemon.settled(film.study)["analysis"] for film in films} == {"analysed"}


@pytest.mark.parametrize("command", ["receive", "work", "schedule", "web"])
def test_a_killed_child_is_started_again(daemon: Daemon, tmp_path: Path, command: str) -> None:
    dead = daemon.kill(command)
    wait_for(lambda: (child := daemon.find(command)) and child.pid != dead, 60)
    daemon.wait_until_up()
    film = chests.chest(tmp_path)
    assert send(daemon, film.dataset) == [0]
    assert daemon.settled(film.study)["analysis"] == "analysed"


def test_children_end_with_their_parent_even_when_it_is_killed(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = make_daemon().serve()
    family = daemon.family()
    daemon.kill("serve")
    wait_for(lambda: all(has_ended(process) for process in family), 20)
    daemon.serve()  # the ports are free, and so is the database
    film = chests.chest(tmp_path)
    assert send(daemon, film.dataset) == [0]
    assert daemon.settled(film.study)["analysis"] == "analysed"


@pytest.mark.fault(103)
def test_with_broken_weights_films_are_received_and_listed_in_order_of_arrival(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    probe = make_daemon()
    card = Path(probe.environment.get("TRIAGE_WEIGHTS_CARD", DEFAULT_WEIGHTS))
    for file in (card, card.with_suffix(".safetensors")):
        shutil.copy(file, tmp_path / file.name)
    weights = tmp_path / card.with_suffix(".safetensors").name
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    daemon = make_daemon(weights_card=tmp_path / card.name).serve()
    worker = daemon.child("work").pid
    films = [chests.chest(tmp_path / "films") for _ in range(3)]
    for film in films:
        assert send(daemon, film.dataset) == [0]
    for film in films:
        entry = daemon.settled(film.study)
        assert (entry["analysis"], entry["reason"], entry["flagged"]) == ("not_analysed", "model_unavailable", False)
        assert "classifier not available" in entry["why"]
    assert [entry["study_instance_uid"] for entry in daemon.worklist()] == [film.study for film in films]
    (line,) = daemon.lines("model_unavailable")
    assert "weights" in line["problem"]
    assert not complaints(daemon.log())
    assert not daemon.lines("child_died")
    assert not daemon.ended()
    assert daemon.child("work").pid == worker


def test_a_study_that_is_closed_leaves_the_worklist(daemon: Daemon, tmp_path: Path) -> None:
    film = chests.chest(tmp_path, PatientName="Invented^Closed")
    assert send(daemon, film.dataset) == [0]
    daemon.settled(film.study)
    told = {entry["study_instance_uid"]: entry for entry in json.loads(daemon.run("worklist", "--json").stdout)}
    assert told[film.study]["patient_name"] == "Invented^Closed"
    assert told[film.study]["why"] == daemon.entry(film.study)["why"]
    assert daemon.run("close", film.study).returncode == 0
    assert film.study not in {entry["study_instance_uid"] for entry in daemon.worklist()}
    assert film.study not in daemon.run("worklist", "--json").stdout
    assert daemon.get(f"/api/studies/{film.study}").json()["status"] == "read"
