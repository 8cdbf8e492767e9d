"""Settings: one table, nonsense refused by name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy import make_url
from typer.testing import CliRunner

from daemon.cli import app
from daemon.environment import read_settings, table
from daemon.notation import split_peer
from daemon.settings import Settings
from triage.errors import SettingsError
from triage.policy import Policy


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("TRIAGE_"):
            monkeypatch.delenv(name)


def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    path = tmp_path / "triage.toml"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setenv("TRIAGE_CONFIG_FILE", str(path))


def test_the_defaults_are_those_of_the_documentation() -> None:
    settings, policy = read_settings()
    assert (settings.dicom_port, settings.dicom_ae_title, settings.http_port) == (11112, "TRIAGE", 8080)
    assert settings.url.startswith("sqlite:////")
    assert settings.url.endswith("/triage-data/triage.db")
    assert policy == Policy()


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration(tmp_path, monkeypatch, 'dicom_port = 104\nhttp_port = 8081\n[policy]\nversion = "site-3"\n')
    monkeypatch.setenv("TRIAGE_DICOM_PORT", "4242")
    settings, policy = read_settings()
    assert (settings.dicom_port, settings.http_port, policy.version) == (4242, 8081, "site-3")


@pytest.mark.fault(121)
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("TRIAGE_DICOM_PROT", "104", "did you mean TRIAGE_DICOM_PORT"),
        ("TRIAGE_DICOM_PORT", "70000", "DICOM_PORT.*65535"),
        ("TRIAGE_DICOM_PORT", "many", "DICOM_PORT.*integer"),
        ("TRIAGE_DICOM_AE_TITLE", "SEVENTEEN_LETTERS", "DICOM_AE_TITLE"),
        ("TRIAGE_DICOM_PEERS", "PACS", "AE@ADDRESS"),
        ("TRIAGE_DICOM_PEERS", "PACS@10.0.0.300", "10.0.0.300"),
        ("TRIAGE_DICOM_PEERS", "PACS@10.1.2.3/16", "DICOM_PEERS.*did you mean PACS@10.1.0.0/16 or PACS@10.1.2.3\\?"),
        (
            "TRIAGE_DICOM_PEERS",
            "PACS@pacs.example.org",
            "DICOM_PEERS.*'pacs.example.org'.*host names are not supported",
        ),
        ("TRIAGE_DATA_DIR", "", "DATA_DIR.*empty"),
        ("TRIAGE_DICOM_TLS_CA_FILE", "", "TLS_CA_FILE.*empty"),
        ("TRIAGE_DICOM_PDU_SECONDS", "inf", "PDU_SECONDS.*finite"),
        ("TRIAGE_RETENTION_DAYS", "nan", "RETENTION_DAYS.*finite"),
        ("TRIAGE_JOB_SECONDS", "20", "job_seconds.*more than decode_seconds"),
        ("TRIAGE_HTTP_URL", "triage.example", "HTTP_URL"),
        ("TRIAGE_HTTP_PROXIES", "proxy.example", "http_proxies.*proxy.example.*no IP address"),
        ("TRIAGE_OIDC_ISSUER", "http://login.example", "oidc_issuer must be https"),
        ("TRIAGE_OIDC_ISSUER", "https://login.example", "oidc_issuer needs oidc_client_id"),
        ("TRIAGE_OIDC_CLIENT_SECRET_FILE", "", "SECRET_FILE.*empty"),
        ("TRIAGE_HL7_PEERS", "ris.example.org", "HL7_PEERS.*'ris.example.org'.*10.1.0.0/16"),
        ("TRIAGE_HL7_ACCESSION_FIELDS", "OBR-18,PID-3", "HL7_ACCESSION_FIELDS.*OBR-18"),
        ("TRIAGE_HL7_ACCESSION_FIELDS", "", "HL7_ACCESSION_FIELDS"),
        ("TRIAGE_MWL_PEER", "MWL@ris.example.org", "MWL_PEER"),
        ("TRIAGE_MWL_PEER", "MWL@ris.example.org:99999", "(?i)mwl_peer.*AE@HOST:PORT"),
        ("TRIAGE_UPS_SUBSCRIBERS", "BOARD@host", "(?i)ups_subscribers.*AE@HOST:PORT"),
        ("TRIAGE_PIXEL_STORE", "gs://films", "PIXEL_STORE"),
        ("TRIAGE_PIXEL_STORE", "s3://", "PIXEL_STORE"),
        ("TRIAGE_PIXEL_STORE_ENDPOINT", "minio:9000", "PIXEL_STORE_ENDPOINT"),
        ("TRIAGE_DICOM_TLS_KEY_FILE", "key.pem", "go together"),
        ("TRIAGE_HL7_TLS_CA_FILE", "ca.pem", "hl7_tls_ca_file needs"),
        ("TRIAGE_DICOM_TLS_CA_FILE", "ca.pem", "dicom_tls_ca_file needs"),
        ("TRIAGE_AUDIT_REPOSITORY", "audit.example.org", "^audit_repository: should be: syslog-tls://HOST:PORT"),
        ("TRIAGE_DICOM_AE_TITLE", "more than sixteen", "^dicom_ae_title: should be: our AE title, of 1 to 16"),
        ("TRIAGE_CONFIG_FILE", "/nowhere/triage.toml", "No such file"),
    ],
)
def test_nonsense_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"(?i){words}"):
        read_settings()


@pytest.mark.fault(121)
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dicom_prot = 104", "^dicom_prot in the configuration file is no setting; did you mean dicom_port\\?"),
        ("TRIAGE_DICOM_PORT = 104", "^TRIAGE_DICOM_PORT in the .* is no setting; did you mean dicom_port\\?"),
        ("[dicom]\nport = 104", "^\\[dicom\\] in the configuration file is no setting"),
        ("retention_days = inf", "retention_days.*finite"),
        ("policy = 3", "^policy in the configuration file is a table"),
        ("[policy]\nwaiting_limit = 5", "^\\[policy\\] waiting_limit is no .*; did you mean waiting_limit_minutes\\?"),
        ("[policy]\ndicom_port = 104", "^\\[policy\\] dicom_port is no .*; write it before \\[policy\\]"),
        ('[policy]\nwaiting_limit_minutes = "long"', "^\\[policy\\] waiting_limit_minutes: .*integer"),
        ("[policy]\nwaiting_limit_minutes = 0", "between 1 and 10080"),
        ('[policy]\naccept_unknown = ["sex"]', "sex"),
        ("[policy]\nflags_per_100_max = 30", "^\\[policy\\] flags_per_100_max: needs prevalence"),
        ("[policy]\nflags_per_100 = 30", "^\\[policy\\] flags_per_100 is no .*; did you mean flags_per_100_max\\?"),
        ("dicom_port = ", "triage.toml"),
    ],
)
def test_nonsense_in_the_file_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    configuration(tmp_path, monkeypatch, text)
    with pytest.raises(SettingsError, match=words):
        read_settings()


def test_peers_are_listed_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIAGE_DICOM_PEERS", "PACS@10.1.0.0/16, ORTHANC@192.0.2.7")
    assert read_settings()[0].dicom_peers == ("PACS@10.1.0.0/16", "ORTHANC@192.0.2.7")


def test_settings_are_frozen() -> None:
    settings, _ = read_settings()
    with pytest.raises(ValidationError):
        settings.dicom_port = 1  # type: ignore[misc] # that is what is tested


def test_a_peer_is_an_address_or_a_network() -> None:
    assert [
        str(split_peer(f"PACS@{text}")[1]) for text in ("10.1.2.3", "10.1.0.0/16", "10.1.0.0/255.255.0.0", "::1")
    ] == [
        "10.1.2.3/32",
        "10.1.0.0/16",
        "10.1.0.0/16",
        "::1/128",
    ]


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("", "triage-data/triage.db"),
        ("sqlite:////srv/other.db?timeout=5", "/srv/other.db"),
        ("sqlite:///beside.db", "beside.db"),
        ("postgresql://triage@db/triage", None),
        ("sqlite://", None),
    ],
)
def test_the_file_of_the_database_is_known_where_it_has_one(
    monkeypatch: pytest.MonkeyPatch, url: str, file: str | None
) -> None:
    if url:
        monkeypatch.setenv("TRIAGE_DATABASE_URL", url)
    found = read_settings()[0].sqlite_file
    assert (str(found.resolve()) if found else None) == (str(Path(file).resolve()) if file else None)


def test_every_setting_has_a_meaning() -> None:
    rows = table(read_settings()[0])
    assert len(rows) == len(Settings.model_fields)
    assert all(row.name.startswith("TRIAGE_") and row.meaning for row in rows)


def test_the_settings_are_shown_in_80_columns_without_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIAGE_DATABASE_URL", "postgresql://triage:se%40cret@db/triage?password=se@cret")
    monkeypatch.setenv("TRIAGE_DICOM_PORT", "104")
    shown = CliRunner().invoke(app, ["settings"]).stdout.splitlines()
    assert [line for line in shown if len(line) > 80] == []
    assert "TRIAGE_DATABASE_URL=postgresql://triage:***@db/triage?password=***" in shown
    assert "TRIAGE_DICOM_PEERS=" in shown
    assert shown[shown.index("TRIAGE_DICOM_PORT=104") + 1].endswith("(default: 11112)")
    in_json = CliRunner().invoke(app, ["settings", "--json"]).stdout
    assert "cret" not in in_json
    values = json.loads(in_json)["settings"]
    assert (values["TRIAGE_DICOM_PORT"], values["TRIAGE_DICOM_PEERS"]) == ("104", "")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:/triage:secret@db",
        "postgresql://triage:secret@db:many/triage",
        "mysql://triage:secret@db/triage",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
def test_a_database_url_that_is_none_of_ours_is_refused_without_repeating_it(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("TRIAGE_DATABASE_URL", url)
    refused = CliRunner().invoke(app, ["settings"])
    assert isinstance(refused.exception, SettingsError)
    assert "database_url" in str(refused.exception)
    assert "secret" not in str(refused.exception)


def test_the_databases_password_may_stand_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("p@ss/w:rd%\n", encoding="utf-8")
    monkeypatch.setenv("TRIAGE_DATABASE_URL", "postgresql://triage@db:5432/triage?sslmode=require")
    monkeypatch.setenv("TRIAGE_DATABASE_PASSWORD_FILE", str(secret))
    url = make_url(read_settings()[0].url)
    assert (url.username, url.password, url.host, url.query) == ("triage", "p@ss/w:rd%", "db", {"sslmode": "require"})
    shown = CliRunner().invoke(app, ["settings"]).output
    assert "TRIAGE_DATABASE_URL=postgresql://triage:***@db:5432/triage?sslmode=require" in shown
    assert "w:rd" not in shown
    secret.unlink()
    with pytest.raises(SettingsError, match=r"database_password_file.*No such file"):
        _ = read_settings()[0].url


@pytest.mark.parametrize("url", ["", "sqlite:////a/b.db", "postgresql://db/triage", "postgresql://triage:x@db/triage"])
def test_a_password_file_needs_a_url_that_lacks_a_password(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIAGE_DATABASE_URL", url)
    monkeypatch.setenv("TRIAGE_DATABASE_PASSWORD_FILE", str(tmp_path / "secret"))
    with pytest.raises(SettingsError, match="database_password_file needs"):
        read_settings()


def test_whom_to_trust_when_we_call_is_a_setting_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for part in ("certificate", "key"):
        monkeypatch.setenv(f"TRIAGE_DICOM_CALLING_TLS_{part.upper()}_FILE", str(tmp_path / "ours.pem"))
    with pytest.raises(SettingsError, match="needs dicom_calling_tls_ca_file"):
        read_settings()
    monkeypatch.setenv("TRIAGE_DICOM_CALLING_TLS_CA_FILE", str(tmp_path / "ca.pem"))
    assert read_settings()[0].dicom_tls_ca_file is None
