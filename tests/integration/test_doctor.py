"""What the doctor finds wrong, each fault made on purpose; and that it changes nothing."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text
from verdicts import faults, grades, only, with_

from certificates import Papers
from daemon.house import House
from daemon.notation import this_host
from daemon.operating.databases import look_at_database, seen, store_of
from daemon.operating.doctor import examine
from daemon.operating.entrances import look_at_provider, look_at_web
from daemon.operating.places import look_at_folder, look_at_store
from daemon.operating.ports import look_at_ports
from daemon.operating.running import here, look_at_processes
from daemon.operating.sense import look_at_settings
from daemon.operating.verdict import Area, Grade, Verdict, exit_code, looked
from daemon.presence import Alive, alive, appear
from daemon.settings import Settings
from daemon.tls import Files
from doors import free_port
from identity_provider import identity_provider
from stores import BUCKET, KEYS, Fault, bad_store, s3_server
from triage.policy import Policy
from triage.records import schema
from triage.records.inspection import inspect_database
from triage.records.store import Store
from triage.records.users import Users
from triage.user import Role

VERIFICATION = "1.2.840.10008.1.1"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", disk_free_mib_min=1, dicom_peers=("PACS@10.1.0.0/16",))


@pytest.fixture
def house(settings: Settings) -> House:
    return House(settings, Policy())


# -- settings ------------------------------------------------------------------------------------------------------


def test_sound_settings_are_told_in_one_line(settings: Settings) -> None:
    assert grades(look_at_settings(settings, Policy())) == ["ok no contradiction; policy default-1"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"retention_days": 0.1}, "warn films are deleted after 0.1 days"),
        ({"lease_seconds": 500}, "warn lease_seconds 500 is more than job_seconds"),
        ({"pending_seconds": 60}, "warn studies show a time-out after 60 s"),
        ({"session_idle_minutes": 1000}, "warn session_idle_minutes"),
        ({"http_port": 11112}, "fail dicom_port and http_port are both 11112"),
        ({"metrics_port": 8080}, "fail http_port and metrics_port are both 8080"),
        ({"dicom_peers": ()}, "warn dicom_peers is empty"),
        ({"hl7_port": 2575, "hl7_peers": ("10.1.0.0/16",)}, "warn hl7_peers are listed, but hl7_host"),
        ({"hl7_port": 2575, "hl7_host": "0.0.0.0"}, "warn hl7_host 0.0.0.0 is reached"),
        ({"hl7_peers": ("10.1.0.0/16",)}, "warn hl7_peers are listed, but hl7_port is 0"),
        ({"pixel_store_endpoint": "http://127.0.0.1:1"}, "warn pixel_store_endpoint is set"),
        ({"workers": 64, "torch_threads": 8, "decode_mib": 256, "decoders": 1}, "warn 64 workers with 512 threads"),
        ({"decoders": 256, "decode_mib": 1_000_000}, "warn 256 decoders may take"),
    ],
)
def test_settings_that_contradict_are_found(settings: Settings, changes: dict[str, Any], words: str) -> None:
    assert only(look_at_settings(with_(settings, **changes), Policy())).startswith(words)


def test_a_policy_of_another_network_is_found(settings: Settings) -> None:
    policy = Policy(threshold=0.1, threshold_weights="0" * 12)
    assert "was chosen for the network 000000000000" in only(look_at_settings(settings, policy))


# -- places --------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_not_made(settings: Settings, tmp_path: Path) -> None:
    assert "is not there" in only(look_at_folder(settings))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_ours_is_well_and_left_as_it_was(settings: Settings) -> None:
    settings.data_dir.mkdir(mode=0o700)
    assert faults(look_at_folder(settings)) == []
    assert list(settings.data_dir.iterdir()) == []
    settings.data_dir.chmod(0o755)
    assert "is open to other users" in only(look_at_folder(settings))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_folder_or_a_file_of_another_user_is_found(settings: Settings) -> None:
    settings.data_dir.mkdir(mode=0o700)
    (settings.data_dir / "salt").touch()
    os.chown(settings.data_dir / "salt", 12345, 12345)
    assert "1 in data_dir" in only(look_at_folder(settings))
    os.chown(settings.data_dir, 12345, 12345)
    assert "belongs to user 12345" in only(look_at_folder(settings))


def test_a_disk_that_fills_up_is_found(settings: Settings) -> None:
    settings.data_dir.mkdir(mode=0o700)
    free_mib = os.statvfs(settings.data_dir).f_bavail * os.statvfs(settings.data_dir).f_frsize // 2**20
    assert only(look_at_folder(with_(settings, disk_free_mib_min=free_mib * 2 // 3))).startswith("warn ")
    assert only(look_at_folder(with_(settings, disk_free_mib_min=free_mib + 500))).startswith("fail ")
    assert "more than the disk holds" in only(look_at_folder(with_(settings, disk_free_mib_min=2**40)))


def test_the_folder_of_films_is_tried_and_left_empty(house: House) -> None:
    assert faults(look_at_store(house.settings, house.spool)) == []
    assert list(house.spool.root.rglob("*.dcm")) == []


def test_a_bucket_is_tried_and_its_faults_are_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with s3_server() as url, bad_store(url) as bad:
        changes = {"pixel_store": f"s3://{BUCKET}/a", "pixel_store_endpoint": bad.url, "pixel_store_seconds": 4}
        house = House(with_(settings, **changes), Policy())
        assert faults(look_at_store(house.settings, house.spool)) == []
        bad.faults = [Fault("PUT", bad.fails)]
        assert "does not keep films" in only(look_at_store(house.settings, house.spool))
        bad.faults = [Fault("GET", bad.alters_its_answer)]
        fault = faults(looked(Area.PIXEL_STORE, lambda: look_at_store(house.settings, house.spool)))
        assert fault
        bad.faults = []
        assert list(house.spool.kept.files(0)) == []
        lost = House(with_(settings, **changes | {"pixel_store": "s3://nobodys"}), Policy())
        verdicts = looked(Area.PIXEL_STORE, lambda: look_at_store(lost.settings, lost.spool))
        assert "404 Not Found" in only(verdicts)


# -- ports, peers, processes ---------------------------------------------------------------------------------------


def test_a_free_port_is_free_and_a_taken_one_is_somebody_elses(settings: Settings) -> None:
    settings = with_(
        settings, dicom_host="127.0.0.1", dicom_port=free_port(), http_port=free_port(), hl7_port=free_port()
    )
    assert faults(look_at_ports(settings, [])) == []
    with socket.create_server(("127.0.0.1", settings.http_port)):
        assert "taken by another program" in only(look_at_ports(settings, []))
    gone = with_(settings, http_host="192.0.2.1")
    assert "cannot be had" in only(look_at_ports(gone, []))


def test_a_process_that_does_not_listen_is_found(settings: Settings) -> None:
    settings = with_(settings, dicom_host="127.0.0.1", dicom_port=free_port(), http_port=free_port())
    host = this_host()
    web = Alive(host=host, process="web", process_id=1, since=datetime.now(UTC))
    assert "is free, although its process runs" in only(look_at_ports(settings, [web]))
    with socket.create_server(("127.0.0.1", settings.http_port)):
        assert "does not answer as it should" in only(look_at_ports(settings, [web]))


class Living(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"live": true}')

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_a_page_over_https_is_known_for_ours(settings: Settings, tmp_path: Path) -> None:
    certificate, key = Papers(tmp_path).issue("web")
    with HTTPServer(("127.0.0.1", 0), Living) as server:
        ours = with_(
            settings,
            dicom_port=0,
            http_port=server.server_port,
            http_tls_certificate_file=certificate,
            http_tls_key_file=key,
        )
        server.socket = Files.of(ours, "http").serving().wrap_socket(server.socket, server_side=True)
        answering = threading.Thread(target=server.serve_forever)
        answering.start()
        web = Alive(host=this_host(), process="web", process_id=1, since=datetime.now(UTC))
        assert grades(look_at_ports(ours, [web]))[1].endswith("is answered by triage")
        assert "this data folder knows nothing" in only(look_at_ports(ours, []))
        server.shutdown()
        answering.join(10)


def test_a_process_is_seen_as_long_as_it_lives(tmp_path: Path) -> None:
    appear(tmp_path, "receiver")
    (tmp_path / "running" / "elsewhere worker-1 4711").touch()
    (found,) = alive(tmp_path)
    assert (found.process, found.process_id) == ("receiver", os.getpid())
    assert [path.name.split()[1] for path in (tmp_path / "running").iterdir()] == ["receiver"], "the dead are removed"
    assert alive(tmp_path / "nowhere") == []
    appear(tmp_path / "nowhere" / "at-all", "web")  # no reason not to start


def test_a_machine_whose_name_no_file_could_have_knows_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "röntgen/2 " + 60 * "x")
    appear(tmp_path, "web")
    assert here(alive(tmp_path)) == {"web": 1}


def test_a_dead_process_is_dead_though_two_look_at_once(tmp_path: Path) -> None:
    (tmp_path / "running").mkdir()
    dead = tmp_path / "running" / "here worker-1 4711"
    dead.touch()
    with dead.open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # as the other one looks
        assert alive(tmp_path) == []
    appear(tmp_path, "receiver")
    assert [each.process for each in alive(tmp_path)] == [each.process for each in alive(tmp_path)] == ["receiver"]


def test_a_child_that_is_missing_is_named(settings: Settings) -> None:
    host, then = this_host(), datetime.now(UTC) - timedelta(minutes=5)
    running = [Alive(host=host, process=name, process_id=1, since=then) for name in ("serve", "receiver", "web")]
    assert only(look_at_processes(settings, running, should_run=True)).startswith("warn scheduler, worker-1 missing")
    assert faults(look_at_processes(settings, running[1:], should_run=True)) == [], "each alone is a site's own choice"
    assert only(look_at_processes(settings, [], should_run=True)).startswith("fail no process")
    starting = [dataclasses.replace(running[0], since=datetime.now(UTC)), *running[1:]]
    assert faults(look_at_processes(settings, starting, should_run=True)) == [], "it takes its time"


# -- database, web -------------------------------------------------------------------------------------------------


@pytest.fixture
def held(settings: Settings, engine: Engine) -> Settings:
    """With a database of its own that is up to date."""
    return with_(settings, database_url=engine.url.render_as_string(hide_password=False))


def of_database(settings: Settings, policy: Policy | None = None, **bent: Any) -> list[str]:
    store = store_of(settings, "doctor")
    assert store
    found = seen(store, settings)
    try:
        if isinstance(found, Verdict):
            return faults([found])
        return faults(
            each
            for each in look_at_database(settings, policy or Policy(), store, dataclasses.replace(found, **bent))
            if "clock is" not in each.words  # of the machine of the tests
        )
    finally:
        store.engine.dispose()


def test_a_database_of_this_version_is_well(held: Settings, engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        held.sqlite_file.chmod(0o600)  # type: ignore[union-attr]
    assert of_database(held) == []


def test_an_older_database_is_told_and_not_upgraded(held: Settings, engine: Engine) -> None:
    schema.downgrade(engine, "0003")
    assert any("has schema 0003, this version" in fault for fault in of_database(held))
    with engine.connect() as connection:
        assert schema.versions(connection)[0] == "0003"


def test_a_newer_database_is_a_failure(held: Settings, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert any(fault.startswith("fail the database has schema 9999") for fault in of_database(held))


def test_earlier_copies_of_the_database_are_told_by_name_and_size(settings: Settings, sqlite_url: str) -> None:
    ours = with_(settings, database_url=sqlite_url)
    store, file = House(ours, Policy()).store, ours.sqlite_file
    assert file
    for name, mib in (("schema-0005", 3), ("before-restore-20260105T080000.000000Z", 2)):
        file.with_name(f"{file.name}.{name}").write_bytes(bytes(mib * 2**20))
    told = "\n".join(grades(look_at_database(ours, Policy(), store, inspect_database(store))))
    copies = f"{file.name}.schema-0005 (3 MiB), {file.name}.before-restore-20260105T080000.000000Z (2 MiB)"
    assert f"ok earlier copies lie beside {file}: {copies}; remove them once you stay" in told
    store.engine.dispose()


def test_clocks_that_are_apart_are_found(held: Settings) -> None:
    assert any(
        fault.startswith("warn the database's clock and ours are 10") for fault in of_database(held, ahead_seconds=10)
    )
    assert any(fault.startswith("fail the database's clock") for fault in of_database(held, ahead_seconds=-3600))


def test_too_few_connections_are_found(held: Settings) -> None:
    assert any("4 processes may take 40 connections" in fault for fault in of_database(held, connections=(3, 20)))


def test_a_changed_policy_under_an_old_version_is_found(held: Settings, engine: Engine) -> None:
    with engine.begin() as connection:
        values = {"content": json.dumps({"waiting_limit_minutes": 7})}
        connection.execute(text("INSERT INTO policies VALUES ('default-1', :content, '2026-01-05 08:00:00')"), values)
    assert any("policy" in fault for fault in of_database(held))


def test_a_database_that_is_away_may_come_back(settings: Settings) -> None:
    away = with_(
        settings, database_url=f"postgresql://triage:geheim@127.0.0.1:{free_port()}/triage", database_seconds=2
    )
    (fault,) = of_database(away)
    assert fault.startswith("warn database_url postgresql://triage:***@127.0.0.1")
    assert "connection refused" in fault


def test_a_sqlite_database_that_was_not_begun_is_not_made(settings: Settings) -> None:
    assert store_of(settings, "doctor") is None
    assert not settings.data_dir.exists()


def test_who_can_come_in_is_told(settings: Settings, engine: Engine) -> None:
    users, remote = Users(Store(engine)), with_(settings, http_host="0.0.0.0")
    assert faults(look_at_web(settings, users)) == []
    behind = with_(settings, http_url="https://triage.example", http_proxies=("127.0.0.1",))
    assert only(look_at_web(behind, users)).startswith("fail the page shows patients at https://triage.example")
    assert only(look_at_web(remote, users)).startswith("fail the page shows patients at 0.0.0.0 to everybody")
    assert only(look_at_web(with_(remote, http_allow_remote=True), users)).startswith("warn ")
    users.add("Dr Adler", Role.RADIOLOGIST, "correct horse battery")
    assert "there is no admin" in only(look_at_web(settings, users))
    users.add("Boss", Role.ADMIN, "correct horse battery")
    assert "passwords travel in the clear" in only(look_at_web(remote, users))
    assert faults(look_at_web(with_(remote, http_url="https://triage.example"), users)) == []
    files = {"http_tls_certificate_file": Path("web.pem"), "http_tls_key_file": Path("web.key")}
    assert faults(look_at_web(with_(remote, **files), users)) == []


def test_the_identity_provider_is_asked_for_its_discovery_document(settings: Settings, sqlite_url: str) -> None:
    del sqlite_url
    plain = {"oidc_client_id": "triage", "oidc_roles": ("viewer=x",), "http_url": "https://triage.example"}
    with identity_provider() as identity:
        there = with_(settings, oidc_issuer=identity.issuer, **plain)
        assert grades(look_at_provider(there, None)) != []  # type: ignore[arg-type] # users are not asked
        assert faults(look_at_provider(there, None)) == []  # type: ignore[arg-type]
        other = with_(settings, oidc_issuer=identity.issuer.replace("127.0.0.1", "localhost"), **plain)
        assert "calls itself by another name" in only(look_at_provider(other, None))  # type: ignore[arg-type]
    away = with_(settings, oidc_issuer=f"http://127.0.0.1:{free_port()}", **plain)
    assert "does not answer" in only(look_at_provider(away, None))  # type: ignore[arg-type]


# -- all of it -----------------------------------------------------------------------------------------------------


def test_a_look_that_fails_is_a_verdict_and_repeats_no_value() -> None:
    def look() -> Iterator[Verdict]:
        raise ValueError("Kanarienvogel^Kind")

    (verdict,) = looked(Area.WEB, look)
    assert verdict.grade is Grade.FAIL
    assert "Kanarienvogel" not in str(verdict)
    assert "ValueError" in verdict.words


def test_the_exit_code_is_that_of_the_worst() -> None:
    ok, warn, fail = (Verdict(area=Area.WEB, grade=grade, words="") for grade in Grade)
    assert [exit_code(found) for found in ([ok], [ok, warn], [warn, fail, ok], [])] == [0, 1, 2, 0]


def test_nothing_is_made_where_nothing_was(house: House, tmp_path: Path) -> None:
    assert list(examine(house, quick=True))
    assert list(tmp_path.iterdir()) == []
