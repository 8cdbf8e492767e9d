"""Settings: one table, nonsense refused by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from daemon.settings import Settings, read_settings, table
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


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("TRIAGE_DICOM_PROT", "104", "did you mean TRIAGE_DICOM_PORT"),
        ("TRIAGE_DICOM_PORT", "70000", "DICOM_PORT.*65535"),
        ("TRIAGE_DICOM_PORT", "many", "DICOM_PORT.*integer"),
        ("TRIAGE_DICOM_AE_TITLE", "SEVENTEEN_LETTERS", "DICOM_AE_TITLE"),
        ("TRIAGE_DICOM_PEERS", "PACS", "AE@ADDRESS"),
        ("TRIAGE_DICOM_PEERS", "PACS@10.0.0.300", "10.0.0.300"),
        ("TRIAGE_HTTP_HOST", "0.0.0.0", "loopback"),
        ("TRIAGE_DICOM_TLS_KEY_FILE", "key.pem", "go together"),
        ("TRIAGE_CONFIG_FILE", "/nowhere/triage.toml", "No such file"),
    ],
)
def test_nonsense_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"(?i){words}"):
        read_settings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dicom_prot = 104", "TRIAGE_DICOM_PROT in the configuration file is no setting"),
        ("[policy]\nwaiting_limit = 5", "waiting_limit"),
        ("[policy]\nwaiting_limit_minutes = 0", "between 1 and 10080"),
        ('[policy]\naccept_unknown = ["sex"]', "sex"),
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


def test_every_setting_has_a_meaning() -> None:
    assert len(table()) == len(Settings.model_fields)
    assert all(name.startswith("TRIAGE_") and meaning for name, _, _, meaning in table())
