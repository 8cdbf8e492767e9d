"""Who may associate with a real receiver, what is agreed on, and its encryption."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from listening import associate_rq, established, is_closed, p_data, pdu, read_pdu, status_of, us
from running import running, wait_for

from faults.hostile import PEERS, Target, receiving, sockets

pytestmark = pytest.mark.timeout(300)
A_ASSOCIATE_AC, A_ASSOCIATE_RJ = 2, 3
ECHO = p_data(3, us(0x0100, 0x30) + us(0x0110, 1) + us(0x0800, 0x0101))
CALLING_AE_UNKNOWN, CALLED_AE_UNKNOWN = bytes((0, 1, 1, 3)), bytes((0, 1, 1, 7))
CR, IMPLICIT = b"1.2.840.10008.5.1.4.1.1.1", b"1.2.840.10008.1.2"
STUDY_ROOT_GET = b"1.2.840.10008.5.1.4.1.2.2.3"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with receiving(tmp_path_factory.mktemp("receiver")) as target:
        yield target


def named(calling: bytes = b"PACS", called: bytes = b"TRIAGE") -> bytes:
    """Both titles as they travel, padded with spaces (PS3.8 table 9-11)."""
    whole = associate_rq()
    return whole[:10] + called.ljust(16) + calling.ljust(16) + whole[42:]


def answer(target: Target, request: bytes) -> tuple[int, bytes]:
    with target.connect() as peer:
        peer.sendall(request)
        return read_pdu(peer)


@pytest.mark.fault(15, 17)
@pytest.mark.parametrize("calling", [b"STRANGER", b"pacs", b"PACS2", b"PA CS", b"X" * 16])
def test_a_calling_title_that_is_not_listed_is_rejected_for_good(target: Target, calling: bytes) -> None:
    with target.costing_at_most(mib=8):
        kind, content = answer(target, named(calling=calling))
        assert (kind, content) == (A_ASSOCIATE_RJ, CALLING_AE_UNKNOWN)


@pytest.mark.fault(16, 17)
@pytest.mark.parametrize("called", [b"ANOTHER", b"triage", b"TRIAGE2"])
def test_a_called_title_that_is_not_ours_is_rejected_for_good(target: Target, called: bytes) -> None:
    with target.costing_at_most(mib=8):
        assert answer(target, named(called=called)) == (A_ASSOCIATE_RJ, CALLED_AE_UNKNOWN)


@pytest.mark.fault(17)
@pytest.mark.parametrize("title", [b" PACS", b"PACS   "])
def test_padding_around_a_title_does_not_count(target: Target, title: bytes) -> None:
    assert answer(target, named(calling=title))[0] == A_ASSOCIATE_AC


@pytest.mark.fault(17)
@pytest.mark.parametrize("title", [b"", b"PACS\\X", b"PA\x1bCS", b"PACS\0", b"\xff\xfe", b'PACS\n{"event":1}'[:16]])
def test_a_title_with_control_characters_or_none_is_no_peer_and_forges_no_line(target: Target, title: bytes) -> None:
    lines = len(target.ends())
    with target.costing_at_most(mib=8):
        assert answer(target, named(calling=title))[0] != A_ASSOCIATE_AC
        wait_for(lambda: len(target.ends()) > lines)
    assert "\x1b" not in target.daemon.log()
    assert not target.daemon.lines("1")


@pytest.mark.fault(15)
def test_a_storm_of_strangers_is_rejected_one_line_each(target: Target) -> None:
    lines = len(target.ends("STRANGER"))
    with target.costing_at_most(mib=16):
        assert {answer(target, named(calling=b"STRANGER"))[0] for _ in range(300)} == {A_ASSOCIATE_RJ}
    wait_for(lambda: len(target.ends("STRANGER")) == lines + 300)


def sub(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def proposing(*contexts: tuple[int, bytes], more: bytes = b"") -> bytes:
    """A request with these presentation contexts, by number and abstract syntax."""
    items = b"".join(
        sub(0x20, bytes((number, 0, 0, 0)) + sub(0x30, abstract) + sub(0x40, IMPLICIT)) for number, abstract in contexts
    )
    user = sub(0x50, sub(0x51, struct.pack(">L", 16384)) + sub(0x52, b"1.2.3.4") + more)
    head = struct.pack(">HH16s16s32x", 1, 0, b"TRIAGE".ljust(16), b"PACS".ljust(16))
    return pdu(1, head + sub(0x10, b"1.2.840.10008.3.1.1.1") + items + user)


def results(content: bytes) -> list[int]:
    """Result of each presentation context of an A-ASSOCIATE-AC (PS3.8 table 9-18)."""
    found, at = [], 68
    while at < len(content):
        kind, length = struct.unpack_from(">BxH", content, at)
        if kind == 0x21:
            found.append(content[at + 6])
        at += 4 + length
    return found


@pytest.mark.fault(18)
def test_a_context_we_do_not_serve_is_rejected_and_the_association_is_not(target: Target) -> None:
    with target.costing_at_most(mib=8):
        kind, content = answer(target, proposing((1, STUDY_ROOT_GET), (3, CR)))
        assert (kind, sorted(results(content))) == (A_ASSOCIATE_AC, [0, 3])
        kind, content = answer(target, proposing((1, STUDY_ROOT_GET)))
        assert (kind, results(content)) == (A_ASSOCIATE_AC, [3])


@pytest.mark.fault(19)
@pytest.mark.parametrize(
    "contexts",
    [
        [],
        [(2, CR)],
        [(1, CR), (1, CR)],
        [(1, CR), (1, STUDY_ROOT_GET)],
        [(0, CR), (255, CR)],
        [(number, CR) for number in range(1, 256, 2)],
        [(number, CR) for number in range(256)] * 2,
        [(1, b"")],
        [(1, b"9" * 3000)],
        [(1, b"../../etc/passwd")],
    ],
    ids=["none", "even", "twice", "twice another", "ends", "128", "512", "empty", "long", "path"],
)
def test_any_list_of_contexts_is_answered_or_closed(target: Target, contexts: list[tuple[int, bytes]]) -> None:
    with target.costing_at_most(mib=16):
        assert answer(target, proposing(*contexts))[0] in {0, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, 7}


@pytest.mark.fault(20)
@pytest.mark.parametrize("window", [(0, 0), (65535, 65535), (1, 1)])
def test_one_operation_at_a_time_is_agreed_on_whatever_is_proposed(target: Target, window: tuple[int, int]) -> None:
    kind, content = answer(target, proposing((1, CR), more=sub(0x53, struct.pack(">HH", *window))))
    assert kind == A_ASSOCIATE_AC
    assert sub(0x53, struct.pack(">HH", 1, 1)) in content or b"\x53\0\0\4" not in content


# -- TLS -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Iterator[Target]:
    """Speaks TLS only, with peers whose certificate the authority has signed."""
    folder = tmp_path_factory.mktemp("tls")
    ours = authority.issue_cert("localhost")
    ours.private_key_pem.write_to_path(folder / "key.pem")
    ours.cert_chain_pems[0].write_to_path(folder / "certificate.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    files = {
        "dicom_tls_certificate_file": folder / "certificate.pem",
        "dicom_tls_key_file": folder / "key.pem",
        "dicom_tls_ca_file": folder / "ca.pem",
    }
    with running(tmp_path_factory.mktemp("receiver"), **PEERS, dicom_acse_seconds=3, **files) as daemon:
        started = daemon.start("receive")
        daemon.wait_for_log("receiving")
        yield Target(daemon, psutil.Process(started.pid))


def client(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def good(authority: trustme.CA) -> ssl.SSLContext:
    context = client(authority)
    authority.issue_cert("pacs.example").configure_cert(context)
    return context


def can_echo(secure: Target, context: ssl.SSLContext) -> bool:
    with secure.connect() as plain:
        try:
            with context.wrap_socket(plain, server_hostname="localhost") as peer:
                established(peer, associate_rq("1.2.840.10008.1.1"))
                peer.sendall(ECHO)
                return status_of(read_pdu(peer)[1]) == 0
        except (ssl.SSLError, ConnectionError, AssertionError):
            return False


def of_nobody(authority: trustme.CA) -> ssl.SSLContext:
    return client(authority)


def of_another_authority(authority: trustme.CA) -> ssl.SSLContext:
    context = client(authority)
    trustme.CA().issue_cert("pacs.example").configure_cert(context)
    return context


def expired(authority: trustme.CA) -> ssl.SSLContext:
    context = client(authority)
    yesterday = dt.datetime.now(tz=dt.UTC) - dt.timedelta(days=1)
    authority.issue_cert("pacs.example", not_after=yesterday).configure_cert(context)
    return context


def of_tls_1_1(authority: trustme.CA) -> ssl.SSLContext:
    context = good(authority)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


@pytest.mark.fault(22)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("bad", [of_nobody, of_another_authority, expired, of_tls_1_1])
def test_a_peer_without_a_good_certificate_is_refused(
    secure: Target, authority: trustme.CA, bad: Callable[[trustme.CA], ssl.SSLContext]
) -> None:
    assert not can_echo(secure, bad(authority))
    assert can_echo(secure, good(authority))
    assert "Traceback" not in secure.daemon.log()


@pytest.mark.fault(22)
def test_a_short_key_of_ours_is_refused_at_the_start(tmp_path: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(tz=dt.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now).not_valid_after(now + dt.timedelta(days=1))
    pem = serialization.Encoding.PEM
    (tmp_path / "certificate.pem").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(pem))
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (tmp_path / "key.pem").write_bytes(key.private_bytes(pem, *plain))
    files = {"dicom_tls_certificate_file": tmp_path / "certificate.pem", "dicom_tls_key_file": tmp_path / "key.pem"}
    with running(tmp_path / "receiver", **files) as daemon:
        ended = daemon.run("receive")
        assert ended.returncode == 2
        assert "dicom_tls" in ended.stderr
        assert "Traceback" not in ended.stderr


@pytest.mark.fault(21)
@pytest.mark.parametrize("noise", [b"", b"GET / HTTP/1.1\r\n\r\n", associate_rq(), bytes(range(256))])
def test_silence_and_noise_at_the_tls_port_keep_nobody_out(secure: Target, authority: trustme.CA, noise: bytes) -> None:
    with sockets(lambda _: secure.connect(), 5) as silent:
        for peer in silent:
            peer.sendall(noise)
        began = time.monotonic()
        assert can_echo(secure, good(authority))
        assert time.monotonic() - began < 30
        assert all(map(is_closed, silent))


@pytest.mark.fault(23)
@pytest.mark.parametrize("content", [None, "", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_certificate_that_cannot_be_read_is_named_at_the_start(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "certificate.pem"
    if content is not None:
        path.write_text(content, encoding="ascii")
    with running(tmp_path / "receiver", dicom_tls_certificate_file=path, dicom_tls_key_file=path) as daemon:
        ended = daemon.run("receive")
        assert ended.returncode == 2
        assert "dicom_tls_certificate_file" in ended.stderr
        assert "Traceback" not in ended.stderr


@pytest.mark.fault(23)
def test_a_certificate_file_that_is_replaced_by_nonsense_ends_no_running_receiver(
    secure: Target, authority: trustme.CA
) -> None:
    path = Path(str(secure.daemon.settings["dicom_tls_certificate_file"]))
    before = path.read_bytes()
    path.write_bytes(b"nonsense")
    try:
        secure.daemon.wait_for_log("tls_not_reloaded")  # or the old one might still be shown because nobody has looked
        assert can_echo(secure, good(authority))
    finally:
        path.write_bytes(before)


def has_ipv6() -> bool:
    """Of the machine as it runs: Python's own `socket.has_ipv6` says only how it was compiled."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.fault(24)
def test_both_families_are_served_where_the_address_says_so(tmp_path: Path) -> None:
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")
    with receiving(tmp_path / "receiver", dicom_host="::") as target:
        assert target.daemon.echo()
        with socket.create_connection(("::1", target.port), timeout=30) as peer:
            peer.sendall(named())
            assert read_pdu(peer)[0] == A_ASSOCIATE_AC


@pytest.mark.fault(24)
def test_a_port_in_use_ends_it_with_one_clear_line(target: Target, tmp_path: Path) -> None:
    with running(tmp_path / "second", dicom_port=target.port) as daemon:
        ended = daemon.run("receive")
        assert ended.returncode == 2
        assert str(target.port) in ended.stderr
        assert "Traceback" not in ended.stderr
