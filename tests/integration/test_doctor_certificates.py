"""Certificates of every door and of every call, as `triage doctor` judges them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from verdicts import faults, grades, only, with_

from daemon.operating.certificates import look_at_certificates
from daemon.settings import Settings, Wing


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


def certified(
    settings: Settings, folder: Path, authority: trustme.CA, wing: Wing = "dicom", **changes: Any
) -> Settings:
    made = authority.issue_cert("triage.example", common_name="triage", **changes)
    (folder / "key.pem").write_bytes(made.private_key_pem.bytes())
    (folder / "key.pem").chmod(0o600)
    (folder / "cert.pem").write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
    files = {"certificate": "cert.pem", "key": "key.pem"}
    return with_(settings, **{f"{wing}_tls_{name}_file": folder / file for name, file in files.items()})


@pytest.mark.fault(114)
def test_certificates_are_told_with_their_end(settings: Settings, tmp_path: Path) -> None:
    now, authority = datetime.now(UTC), trustme.CA()
    well = certified(settings, tmp_path, authority, not_after=now + timedelta(days=90))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    assert faults(look_at_certificates(with_(well, dicom_tls_ca_file=tmp_path / "ca.pem"))) == []
    soon = certified(settings, tmp_path, authority, not_after=now + timedelta(days=3))
    assert only(look_at_certificates(soon)).startswith("warn dicom_tls_certificate_file: ")
    late = certified(settings, tmp_path, authority, not_after=now - timedelta(days=3))
    assert "held until" in only(look_at_certificates(late))
    early = certified(settings, tmp_path, authority, not_before=now + timedelta(days=3))
    assert only(look_at_certificates(early)).startswith("fail ")
    (tmp_path / "key.pem").chmod(0o644)
    certified_again = certified(settings, tmp_path, authority)
    (tmp_path / "key.pem").chmod(0o644)
    assert "is open to all users" in only(look_at_certificates(certified_again))


def test_a_chain_in_a_wrong_order_or_with_another_key_is_found(settings: Settings, tmp_path: Path) -> None:
    root = trustme.CA()
    middle = root.create_child_ca()
    well = certified(settings, tmp_path, middle)
    assert faults(look_at_certificates(well)) == []
    with (tmp_path / "cert.pem").open("ab") as file:
        file.write(trustme.CA().cert_pem.bytes())
    assert "was not issued by" in only(look_at_certificates(well))
    (tmp_path / "key.pem").write_bytes(root.issue_cert("other").private_key_pem.bytes())
    assert "not the key" in only(look_at_certificates(well))


def test_certificates_for_calls_need_somebody_to_trust_and_one_that_holds(settings: Settings, tmp_path: Path) -> None:
    authority, ca = trustme.CA(), tmp_path / "ca.pem"
    ca.write_text("nonsense")
    calling = with_(settings, dicom_calling_tls_ca_file=ca)
    assert only(look_at_certificates(calling)) == f"fail dicom_calling_tls_ca_file {ca}: not a PEM certificate"
    authority.cert_pem.write_to_path(str(ca))
    assert "ok dicom_calling_tls_ca_file" in "\n".join(grades(look_at_certificates(calling)))
    shown = certified(
        calling, tmp_path, authority, wing="dicom_calling", not_after=datetime.now(UTC) + timedelta(days=3)
    )
    assert only(look_at_certificates(shown)).startswith("warn dicom_calling_tls_certificate_file: ")
