"""DICOM over TLS (PS3.15 B.12): what is agreed on, who is refused, and certificates exchanged while it runs."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog
from listening import Site, instance, listening, wait_for

from certificates import HOST, Papers
from daemon import telemetry, tls
from daemon.dicom.association import ListenerLimits, Outcome
from daemon.settings import Settings
from daemon.tls import Credentials, Files
from triage.errors import TriageError

PATIENT = ListenerLimits(pdu_seconds=5, idle_seconds=10, acse_seconds=5, dimse_seconds=10)


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


@pytest.fixture(scope="module")
def modality(papers: Papers) -> tuple[Path, Path]:
    return papers.issue("modality")


def settings_of(papers: Papers, *, ca: bool = True) -> Settings:
    certificate, key = papers.issue("triage")
    return Settings(
        dicom_tls_certificate_file=certificate, dicom_tls_key_file=key, dicom_tls_ca_file=papers.ca if ca else None
    )


@pytest.fixture
def site(papers: Papers) -> Iterator[Site]:
    """Where clients have to show a certificate."""
    with serving(settings_of(papers)) as site:
        yield site


@contextmanager
def serving(settings: Settings) -> Iterator[Site]:
    with listening(tls=tls.serving(settings, "dicom"), limits=PATIENT) as site:
        yield site


def said(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input="", capture_output=True, text=True, errors="replace", timeout=60, check=False)


def s_client(site: Site, papers: Papers, pair: tuple[Path, Path], *more: str) -> str:
    """What openssl says of a connection; its own level is as low as can be, so that refusals are ours."""
    given = ("-cert", pair[0], "-key", pair[1], "-CAfile", papers.ca, "-cipher", "ALL:@SECLEVEL=0")
    done = said("openssl", "s_client", "-connect", f"{HOST}:{site.port}", *given, *more)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("films") / "film.dcm"
    instance().save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def storescu(dcmtk: Path, film: Path) -> Callable[..., int]:
    def run(port: int, *options: str | Path) -> int:
        done = said(dcmtk / "storescu", "-to", "10", "-aec", "TRIAGE", *options, HOST, str(port), film)
        return done.returncode

    return run


def with_pair(papers: Papers, pair: tuple[Path, Path]) -> tuple[str | Path, ...]:
    return "+tls", pair[1], pair[0], "+cf", papers.ca


# -- what is agreed on ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3", ""])
def test_openssl_agrees_on_a_recommended_suite_and_prefers_1_3(
    site: Site, papers: Papers, modality: tuple[Path, Path], version: str
) -> None:
    told = s_client(site, papers, modality, *filter(None, [version]))
    assert "Verify return code: 0 (ok)" in told
    assert ("TLSv1.2, Cipher is ECDHE-" if version == "-tls1_2" else "TLSv1.3, Cipher is TLS_AES_") in told
    assert "GCM" in told


@pytest.mark.parametrize("options", [("-tls1",), ("-tls1_1",)], ids=["1.0", "1.1"])
def test_older_versions_are_refused(
    site: Site, papers: Papers, modality: tuple[Path, Path], options: tuple[str, ...]
) -> None:
    told = s_client(site, papers, modality, *options)
    assert "Cipher is (NONE)" in told
    end = site.last_end()
    assert (end.outcome, end.problem) == (Outcome.INSECURE, "unsupported protocol")


@pytest.mark.parametrize(
    "suite", ["AES256-GCM-SHA384", "ECDHE-RSA-AES256-SHA384", "ECDHE-ECDSA-AES128-SHA", "DHE-RSA-AES256-GCM-SHA384"]
)
def test_suites_that_bcp_195_does_not_recommend_are_refused(
    site: Site, papers: Papers, modality: tuple[Path, Path], suite: str
) -> None:
    told = s_client(site, papers, modality, "-tls1_2", "-cipher", f"{suite}:@SECLEVEL=0")
    assert "Cipher is (NONE)" in told
    assert site.last_end().problem == "no shared cipher"


def test_no_session_is_taken_up_again(site: Site, papers: Papers, modality: tuple[Path, Path], tmp_path: Path) -> None:
    for version in ("-tls1_2", "-tls1_3"):
        kept = tmp_path / version
        s_client(site, papers, modality, version, "-sess_out", str(kept))
        if kept.exists():
            assert "Reused" not in s_client(site, papers, modality, version, "-sess_in", str(kept))


@pytest.mark.parametrize("profile", ["+py", "+px"])
def test_dcmtk_sends_with_a_certificate(
    site: Site, papers: Papers, modality: tuple[Path, Path], storescu: Callable[..., int], profile: str
) -> None:
    assert storescu(site.port, profile, *with_pair(papers, modality)) == 0
    assert len(site.received) == 1


def test_without_an_authority_a_client_needs_no_certificate(papers: Papers, storescu: Callable[..., int]) -> None:
    with serving(settings_of(papers, ca=False)) as site:
        assert storescu(site.port, "+tla", "+cf", papers.ca) == 0


# -- who is refused ------------------------------------------------------------------------------------------------


def test_a_client_without_a_certificate_is_refused(site: Site, papers: Papers, storescu: Callable[..., int]) -> None:
    assert storescu(site.port, "+tla", "+cf", papers.ca) != 0
    assert_refused(site, "peer did not return a certificate")


def test_an_expired_certificate_is_refused(site: Site, papers: Papers, storescu: Callable[..., int]) -> None:
    assert storescu(site.port, *with_pair(papers, papers.issue("expired", days=-1))) != 0
    assert_refused(site, "certificate has expired")


@pytest.mark.fault(114)
def test_a_certificate_that_is_not_valid_yet_is_refused(
    site: Site, papers: Papers, storescu: Callable[..., int]
) -> None:
    assert storescu(site.port, *with_pair(papers, papers.issue("early", since=1, days=2))) != 0
    assert_refused(site, "certificate is not yet valid")


def test_a_certificate_of_another_authority_is_refused(
    site: Site, papers: Papers, storescu: Callable[..., int], tmp_path: Path
) -> None:
    stranger = Papers(tmp_path / "stranger").issue("stranger")
    assert storescu(site.port, *with_pair(papers, stranger)) != 0
    assert site.last_end().outcome is Outcome.INSECURE
    assert "issuer certificate" in site.last_end().problem
    assert site.received == []


def test_a_key_of_1024_bits_is_refused(site: Site, papers: Papers) -> None:
    told = s_client(site, papers, papers.issue_weak("weak"), "-ign_eof")
    assert "alert" in told
    assert_refused(site, "EE certificate key too weak")


def assert_refused(site: Site, problem: str) -> None:
    assert (site.last_end().outcome, site.last_end().problem) == (Outcome.INSECURE, problem)
    assert site.received == []


def test_who_speaks_plainly_to_the_tls_port_is_refused(
    site: Site, papers: Papers, modality: tuple[Path, Path], storescu: Callable[..., int]
) -> None:
    assert storescu(site.port) != 0
    assert site.last_end().outcome is Outcome.INSECURE
    assert storescu(site.port, *with_pair(papers, modality)) == 0


def test_who_speaks_tls_to_the_plain_port_is_refused(
    papers: Papers, modality: tuple[Path, Path], storescu: Callable[..., int]
) -> None:
    with listening(limits=PATIENT) as site:
        assert storescu(site.port, *with_pair(papers, modality)) != 0
        assert storescu(site.port) == 0
        wait_for(lambda: len(site.ends) == 2)
        assert {end.outcome for end in site.ends} == {Outcome.ABORTED, Outcome.RELEASED}


@pytest.mark.fault(114)
def test_whom_we_call_must_be_who_it_is(papers: Papers, tmp_path: Path) -> None:
    """The name that we know it by stands in its certificate, and our authority has signed it."""
    settings = settings_of(papers)
    right, wrong = papers.issue("right"), papers.issue("wrong", host="other.example")
    stranger = Papers(tmp_path / "stranger").issue("stranger")
    assert called(settings, right, papers) == ""
    assert "mismatch" in called(settings, wrong, papers, name="triage.example")
    assert "issuer" in called(settings, stranger, papers)
    assert "expired" in called(settings, papers.issue("old", days=-1), papers)
    assert "not yet valid" in called(settings, papers.issue("early", since=1, days=2), papers)


def called(settings: Settings, pair: tuple[Path, Path], papers: Papers, name: str = HOST) -> str:
    """What is wrong with a peer that shows this certificate and wants to see ours."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    context.load_verify_locations(papers.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server((HOST, 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            try:
                with context.wrap_socket(connection, server_side=True) as secure:
                    secure.recv(1)
            except OSError:
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with (
                socket.create_connection(server.getsockname()) as plain,
                tls.Files.of(settings, "dicom").calling().wrap_socket(plain, server_hostname=name) as secure,
            ):
                secure.sendall(b"!")
        except ssl.SSLError as error:
            return tls.tls_problem(error)
        finally:
            thread.join()
    return ""


# -- certificates exchanged while it runs --------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.fixture
def live(tmp_path: Path) -> tuple[Papers, Credentials]:
    papers = Papers(tmp_path / "live")
    return papers, Credentials(Files.of(settings_of(papers), "dicom"), Files.serving)


def copied(pair: tuple[Path, Path], papers: Papers) -> None:
    """As a renewal does: each file moved into its place."""
    for path, suffix in zip(pair, ("pem", "key"), strict=True):
        aside = papers.folder / "aside"
        shutil.copy(path, aside)
        os.replace(aside, papers.folder / f"triage.{suffix}")  # noqa: PTH105


def test_a_new_certificate_is_shown_to_the_next_connection(
    live: tuple[Papers, Credentials], capsys: pytest.CaptureFixture[str]
) -> None:
    telemetry.configure("json", "info", "test")
    papers, credentials = live
    with listening(tls=credentials, limits=PATIENT) as site:
        modality = papers.issue("modality")
        before = s_client(site, papers, modality)
        copied(papers.issue("renewed"), papers)
        credentials.look()
        assert lines(capsys) == []  # not before it stands still: the key may be yet to come
        credentials.look()
        after = s_client(site, papers, modality)
    assert "CN = triage" in before
    assert "CN = renewed" in after
    assert [line["event"] for line in lines(capsys)] == ["tls_reloaded"]


def test_whom_the_new_authority_has_not_signed_is_refused_from_then_on(
    live: tuple[Papers, Credentials], storescu: Callable[..., int], tmp_path: Path
) -> None:
    papers, credentials = live
    modality = papers.issue("modality")
    with listening(tls=credentials, limits=PATIENT) as site:
        assert storescu(site.port, *with_pair(papers, modality)) == 0
        kept = shutil.copy(papers.ca, tmp_path / "old-ca.pem")
        shutil.copy(Papers(tmp_path / "new").ca, papers.ca)
        credentials.look()
        credentials.look()
        assert storescu(site.port, "+tls", modality[1], modality[0], "+cf", kept) != 0
        assert site.last_end().outcome is Outcome.INSECURE


@pytest.mark.parametrize("damage", ["mismatch", "absent", "garbage", "weak", "unreadable_ca"])
def test_what_cannot_be_used_leaves_the_old_in_place_and_raises_an_alarm_once(
    live: tuple[Papers, Credentials], capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    telemetry.configure("json", "info", "test")
    papers, credentials = live
    old = credentials()
    harm(papers, damage)
    for _ in range(4):
        credentials.look()
    assert credentials() is old
    (line,) = lines(capsys)
    assert (line["event"], line["level"], line["setting"]) == ("tls_not_reloaded", "error", "dicom_tls")
    assert line["problem"].startswith("dicom_tls_")
    papers.authority.cert_pem.write_to_path(papers.ca)
    copied(papers.issue("renewed"), papers)
    for _ in range(2):
        credentials.look()
    assert credentials() is not old


@pytest.mark.parametrize("damage", ["mismatch", "absent", "garbage", "weak", "unreadable_ca"])
def test_with_the_same_files_it_does_not_start(damage: str, tmp_path: Path) -> None:
    own = Papers(tmp_path / "own")
    settings = settings_of(own)
    harm(own, damage)
    with pytest.raises(TriageError, match=r"dicom_tls_(certificate|key|ca)_file .*(own|too weak)"):
        tls.serving(settings, "dicom")


def harm(papers: Papers, damage: str) -> None:
    certificate, key = papers.folder / "triage.pem", papers.folder / "triage.key"
    if damage == "mismatch":
        shutil.copy(papers.issue("other")[1], key)
    elif damage == "absent":
        key.unlink()
    elif damage == "garbage":
        certificate.write_text("not PEM", encoding="ascii")
    elif damage == "weak":
        copied(papers.issue_weak("weak"), papers)
    else:
        papers.ca.write_bytes(b"\0")


def test_files_are_looked_at_until_the_end(live: tuple[Papers, Credentials], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "_LOOK_SECONDS", 0.05)
    papers, credentials = live
    old, stop = credentials(), threading.Event()
    tls.watch([None, credentials], stop)
    copied(papers.issue("renewed"), papers)
    assert wait_for(lambda: credentials() is not old)
    stop.set()
