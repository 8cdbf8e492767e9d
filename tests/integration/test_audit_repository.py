"""The audit repository is told everything in order, over syslog, however often it is away, and nobody waits for it."""

from __future__ import annotations

import math
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
from listening import stays_false, wait_for
from sqlalchemy import Engine, text

from certificates import HOST, Papers
from daemon import metrics, tls
from daemon.accounts import note_beside
from daemon.auditing import forwarder
from daemon.auditing.building import build_forwarder
from daemon.auditing.syslog import Line, Repository, entry
from daemon.notation import split_repository
from daemon.settings import Settings
from daemon.turn import AUDIT, turn
from making import POLICY, received
from repository import Collector, read
from triage.records.audit import Audit
from triage.records.intake import Intake
from triage.records.store import Store, open_engine
from triage.study import workitem_uid
from triage.user import Access

NOW = datetime(2026, 1, 5, 8, tzinfo=UTC)


@pytest.fixture
def audit(engine: Engine) -> Audit:
    return Audit(Store(engine), forwards=True)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarder, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(forwarder, "_PAUSE_SECONDS_MAX", 0.4)


def note(audit: Audit, *verbs: str, **other: Any) -> None:
    for verb in verbs:
        audit.enter({token_hex(16): Access(at=NOW, who="Dr Adler", verb=verb, **other)})


@contextmanager
def telling(
    audit: Audit, engine: Engine, where: str, tls_of: tls.Credentials | None = None, **more: Any
) -> Iterator[None]:
    ca = {"audit_tls_ca_file": Path("ca.pem")} if where.startswith("syslog-tls") else {}
    settings = Settings(audit_repository=where, **ca, **more)
    running = build_forwarder(settings, audit, turn(Store(engine), AUDIT), tls_of)
    running.start()
    try:
        yield
    finally:
        running.stop()


def names(collector: Collector) -> list[str]:
    """Who did what, as far as the order shows it."""
    return [m.find("ActiveParticipant").get("UserID") for m in collector.messages]


def test_what_happened_while_it_was_away_is_told_in_order_when_it_is_back(audit: Audit, engine: Engine) -> None:
    collector = Collector()
    many = [f"user {number}" for number in range(250)]
    for name in many[:120]:
        audit.enter({token_hex(16): Access(at=NOW, who=name, verb="look", study_instance_uid="1.2.3")})
    with telling(audit, engine, f"syslog-tcp://127.0.0.1:{collector.port}"):
        assert wait_for(lambda: metrics.AUDIT_REPOSITORY_UP._value.get() == 0)
        with collector.listening():
            assert wait_for(lambda: len(collector.entries) >= 120, 20)
            assert wait_for(lambda: metrics.AUDIT_REPOSITORY_UP._value.get() == 1)
        for name in many[120:]:
            audit.enter({token_hex(16): Access(at=NOW, who=name, verb="look", study_instance_uid="1.2.3")})
    with telling(audit, engine, f"syslog-tcp://127.0.0.1:{collector.port}"), collector.listening():  # another process
        assert wait_for(lambda: not audit.waiting(1), 20)
        assert wait_for(lambda: len(collector.entries) >= 250)
    assert math.isnan(metrics.AUDIT_REPOSITORY_UP._value.get()), "said by who has the turn"
    assert list(dict.fromkeys(names(collector))) == many  # one more than once at most, none too early or never


def test_over_tls_only_the_repository_that_shows_its_certificate_is_told(
    audit: Audit, engine: Engine, tmp_path: Path
) -> None:
    papers, strangers = Papers(tmp_path / "papers"), Papers(tmp_path / "strangers")
    ours = papers.issue("triage")
    files = tls.Files(wing="audit", certificate=ours[0], key=ours[1], ca=papers.ca)
    note(audit, "sign_in", "list")
    collector = Collector()
    with telling(audit, engine, f"syslog-tls://{HOST}:{collector.port}", tls.Credentials(files, tls.Files.calling)):
        for issuer, is_told in ((strangers, False), (papers, True)):
            collector.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=papers.ca)
            collector.tls.verify_mode = ssl.CERT_REQUIRED
            collector.tls.load_cert_chain(*issuer.issue("repository"))
            with collector.listening():
                assert stays_false(lambda: len(collector.entries) == 2, 20 if is_told else 1) is not is_told
    assert collector.kinds == ["User Authentication/Login 0", "Query 0"]


def test_over_udp_each_message_is_a_datagram(audit: Audit, engine: Engine) -> None:
    note(audit, "list", "sign_out")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(20)
        with telling(audit, engine, f"syslog-udp://127.0.0.1:{server.getsockname()[1]}"):
            told = [read(server.recv(65536)) for _ in range(2)]
    assert [m.find("EventIdentification/EventID").get("originalText") for m in told] == ["Query", "User Authentication"]


def test_a_message_names_the_patient_of_its_study_or_workitem(audit: Audit, engine: Engine) -> None:
    Intake(Store(engine), POLICY).receive(received(1))
    for uid in ("1.2.1", workitem_uid("1.2.1", 0), "1.2.999", ""):
        note(audit, "look", study_instance_uid=uid)
    told = [subject and (subject.study_instance_uid, subject.patient_id) for _, subject in audit.waiting(10)]
    assert told == [("1.2.1", "P1"), ("1.2.1", "P1"), None, None]


def test_beyond_the_limit_the_oldest_are_given_up_and_that_is_told(audit: Audit, engine: Engine) -> None:
    collector = Collector()
    note(audit, *["look"] * 30)
    before = metrics.AUDIT_GIVEN_UP._value.get()
    with telling(audit, engine, f"syslog-tcp://127.0.0.1:{collector.port}", audit_waiting_max=10):
        assert wait_for(lambda: len(audit.waiting(100)) <= 11, 20)
        with collector.listening():
            assert wait_for(lambda: not audit.waiting(1), 20)
    assert "Security Alert/Audit Recording Stopped 12" in collector.kinds
    assert metrics.AUDIT_GIVEN_UP._value.get() - before >= 20
    assert collector.kinds.count("DICOM Instances Accessed 0") <= 10
    assert len(audit.list(100, same={"verb": "look"})) == 30


@pytest.mark.parametrize("details", ["no JSON", "[]"])
def test_an_access_that_cannot_be_written_holds_up_no_other_and_is_owned_up_to(
    audit: Audit, engine: Engine, details: str
) -> None:
    note(audit, "find", details=details)
    note(audit, "sign_in")
    collector = Collector()
    with telling(audit, engine, f"syslog-tcp://127.0.0.1:{collector.port}"), collector.listening():
        assert wait_for(lambda: len(collector.entries) == 2 and not audit.waiting(1), 20)
    assert collector.kinds == ["User Authentication/Login 0", "Security Alert/Audit Recording Stopped 12"]


class BrokenTurn:
    """Raises what nobody expects, once each."""

    def __init__(self) -> None:
        self.left = {"wait", "is_ours", "give_up"}

    def _break(self, name: str) -> None:
        if name in self.left:
            self.left.remove(name)
            raise RuntimeError

    def wait(self, stop: threading.Event) -> bool:
        self._break("wait")
        return not stop.is_set()

    def is_ours(self) -> bool:
        self._break("is_ours")
        return True

    def give_up(self) -> None:
        self._break("give_up")


def test_whatever_goes_wrong_with_its_turn_the_repository_is_told(audit: Audit) -> None:
    note(audit, "sign_in")
    collector, broken = Collector(), BrokenTurn()
    settings = Settings(audit_repository=f"syslog-tcp://127.0.0.1:{collector.port}")
    running = build_forwarder(settings, audit, broken, None)
    with collector.listening():
        running.start()
        assert wait_for(lambda: not audit.waiting(1), 20)
        running.stop()
    assert collector.kinds == ["User Authentication/Login 0"]
    assert not broken.left


def test_what_waits_stays_within_bounds_though_it_cannot_be_read(
    audit: Audit, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    note(audit, *["look"] * 30)

    def broken(*_: object) -> None:
        raise ValueError

    with monkeypatch.context() as patched:
        patched.setattr(Audit, "waiting", broken)
        with telling(audit, engine, "syslog-tcp://127.0.0.1:1", audit_waiting_max=10):
            assert wait_for(lambda: count_waiting(engine) <= 11, 20)


def count_waiting(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM accesses WHERE waits")).scalar_one())


def questions(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(
            connection.execute(text("SELECT details FROM accesses WHERE verb = 'find' ORDER BY access_id")).scalars()
        )


def test_what_a_peer_asked_for_is_kept_no_longer_than_the_repository_needs_it(audit: Audit, engine: Engine) -> None:
    note(audit, "find", "find", "find", details='{"query": "UEFUSUVOVA=="}')
    note(audit, "store", details='{"calling": "PACS"}')
    (first, _), *_ = audit.waiting(10)
    audit.told([first.access_id or 0])
    assert [bool(each) for each in questions(engine)] == [False, True, True]
    assert audit.give_up_beyond(2) == 1
    assert [bool(each) for each in questions(engine)] == [False, False, True]
    audit.told([access.access_id or 0 for access, _ in audit.waiting(10)])
    assert questions(engine) == ["", "", ""]
    with engine.connect() as connection:
        kept = connection.execute(text("SELECT details FROM accesses WHERE verb = 'store'")).scalar()
    assert kept == '{"calling": "PACS"}'


@pytest.mark.parametrize("verb", ["backup", "restore"])
def test_the_repository_is_told_of_what_is_done_beside_the_daemon(audit: Audit, engine: Engine, verb: str) -> None:
    note_beside(Store(engine), verb, Settings())
    assert not audit.waiting(10)
    note_beside(Store(engine), verb, Settings(audit_repository="syslog-tcp://127.0.0.1:1"))
    assert [access.verb for access, _ in audit.waiting(10)] == [verb]


def test_without_a_repository_nothing_waits(engine: Engine) -> None:
    audit = Audit(Store(engine))
    note(audit, "look")
    assert audit.waiting(10) == []


def test_a_peer_that_closes_without_having_read_is_found_out() -> None:
    """Its kernel has acknowledged the bytes all the same."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        line = Repository(kind="tcp", host="127.0.0.1", port=server.getsockname()[1]).connect()
        peer, _ = server.accept()
        threading.Timer(0.005, peer.close).start()
        with pytest.raises(OSError, match=r"(?i)pipe|reset"):
            send_often(line)
        line.close()


def send_often(line: Line) -> None:
    for _ in range(100):
        line.send([b"x" * 1000])


def test_only_one_of_two_tells_and_who_sweeps_may_be_another(postgresql_url: str) -> None:
    store, stop = Store(open_engine(postgresql_url)), threading.Event()
    first, second, sweeper = turn(store, AUDIT), turn(store, AUDIT), turn(store)
    assert first.wait(stop)
    assert sweeper.wait(stop)
    threading.Timer(1.5, stop.set).start()
    assert not second.wait(stop)
    for each in (first, second, sweeper):
        each.give_up()
    store.engine.dispose()


@pytest.mark.parametrize(
    ("written", "parts"),
    [
        ("syslog-tls://arr.example", ("tls", "arr.example", 6514)),
        ("syslog-tcp://10.0.0.1:1601", ("tcp", "10.0.0.1", 1601)),
        ("syslog-udp://[fd00::1]", ("udp", "fd00::1", 514)),
        ("syslog-udp://[fd00::1]:1514", ("udp", "fd00::1", 1514)),
    ],
)
def test_a_repository_is_written_as_an_address(written: str, parts: tuple[str, str, int]) -> None:
    assert split_repository(written) == parts
    assert Settings(audit_repository=written, audit_tls_ca_file=Path("ca.pem")).audit_repository == written


@pytest.mark.parametrize(
    "written", ["http://x", "syslog-tls://", "syslog-tls://a b", "syslog-tls://a:x", "syslog-smtp://a"]
)
def test_any_other_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="audit_repository"):
        Settings(audit_repository=written, audit_tls_ca_file=Path("ca.pem"))


def test_an_entry_is_syslog_as_rfc_5424_has_it() -> None:
    made = entry(b"<AuditMessage/>", NOW, "node-1")
    shape = rb"<85>1 2026-01-05T08:00:00\.000\+00:00 node-1 triage \d+ DICOM\+RFC3881 - \xef\xbb\xbf<AuditMessage/>"
    assert re.fullmatch(shape, made)
