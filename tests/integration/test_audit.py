"""Every access to a study is noted: by whom, from where, how it ended; and no line is lost in silence."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from daemon import trail as trails
from daemon.trail import Trail
from doors import PASSWORD, House, open_house
from triage.records.audit import Audit
from triage.records.store import Store
from triage.user import Access, Outcome, Role

READER, BOSS = "Dr Adler", "Boss"
NOW = datetime(2026, 1, 5, 8, tzinfo=UTC)


@pytest.fixture
def house(engine: Engine, tmp_path: Path) -> Iterator[House]:
    with open_house(engine, tmp_path) as house:
        house.users.add(READER, Role.RADIOLOGIST, PASSWORD)
        house.users.add(BOSS, Role.ADMIN, PASSWORD)
        yield house


def told(house: House, **same: str) -> list[tuple[str, str, str, str]]:
    return [(a.who, a.verb, a.study_instance_uid, a.outcome.value) for a in reversed(house.accesses(**same))]


def access(verb: str = "look", **other: Any) -> Access:
    return Access(**{"at": NOW, "who": READER, "verb": verb, "study_instance_uid": "1.2.3", **other})


def test_each_access_to_a_study_is_noted_with_how_it_ended(house: House) -> None:
    uid, program = house.receive(1), house.program_of(READER)
    program.get(f"/api/studies/{uid}")
    program.post(f"/api/studies/{uid}/start")
    house.program_of(BOSS).post(f"/api/studies/{uid}/read", json={"reader": BOSS})
    program.post(f"/api/studies/{uid}/release", json={"reader": "another"})
    program.get("/api/studies/1.2.999")
    program.get("/api/studies/SECRET")
    program.post(f"/studies/{uid}/SECRET")
    assert told(house) == [
        (READER, "look", uid, "success"),
        (READER, "start", uid, "success"),
        (BOSS, "read", uid, "refused"),
        (READER, "release", uid, "refused"),
        (READER, "look", "1.2.999", "refused"),
        (READER, "look", "", "refused"),
        (READER, "unknown", uid, "refused"),
    ]
    assert {a.address for a in house.accesses()} == {"127.0.0.1"}
    assert all(abs(datetime.now(UTC) - a.at) < timedelta(minutes=5) for a in house.accesses())


def test_who_has_no_key_is_noted_once_whatever_is_asked_for(house: House) -> None:
    uid, nobody = house.receive(1), house.browser()
    for _ in range(3):
        assert nobody.get(f"/api/studies/{uid}").status_code == 401
        assert nobody.get(f"/api/studies/1.2.{_}").status_code == 401
        assert nobody.get("/").status_code == 303
    assert told(house) == [("", "look", "", "refused"), ("", "list", "", "refused")]


def test_a_page_that_is_left_open_is_one_look_at_the_list(house: House) -> None:
    browser = house.signed_in(READER)
    for _ in range(5):
        browser.get("/")
    assert told(house) == [(READER, "sign_in", "", "success"), (READER, "list", "", "success")]


def test_a_study_that_is_left_open_is_one_look_and_whoever_first_looks_is_seen_whatever_he_says(house: House) -> None:
    uid, browser, other = house.receive(1), house.signed_in(READER), house.signed_in(BOSS)
    says = {"x-refresh": "1"}
    for _ in range(3):
        assert other.get(f"/studies/{uid}", headers=says).status_code == 200
    browser.get(f"/studies/{uid}")
    opened = [event["who"] for event in events(house, uid) if event["kind"] == "opened"]
    assert opened == [BOSS, READER]
    house.change("UPDATE events SET at = :at", at="2026-01-05 08:00:00.000000+00:00")
    for _ in range(3):
        assert browser.get(f"/studies/{uid}", headers=says).status_code == 200
    assert [event["who"] for event in events(house, uid) if event["kind"] == "opened"] == opened
    looks = [(who, verb) for who, verb, study, _ in told(house) if study == uid and verb == "look"]
    assert looks == [(BOSS, "look"), (READER, "look"), (READER, "look")]
    browser.get(f"/studies/{uid}")
    browser.get(f"/api/studies/{uid}", headers=says)
    assert told(house, who=READER).count((READER, "look", uid, "success")) == 4


def events(house: House, uid: str) -> list[dict[str, Any]]:
    with house.engine.connect() as connection:
        rows = connection.execute(
            text("SELECT kind, who FROM events WHERE study_instance_uid = :uid ORDER BY event_id"), {"uid": uid}
        )
        return [dict(row) for row in rows.mappings()]


def test_signing_in_and_out_is_noted_and_a_name_that_nobody_has_is_not_repeated(house: House) -> None:
    browser = house.browser()
    browser.post("/login", data={"name": READER, "password": "wrong"})
    browser.post("/login", data={"name": "my password", "password": ""})
    browser.post("/login", data={"name": READER, "password": PASSWORD})
    browser.post("/logout")
    assert told(house) == [
        (READER, "sign_in", "", "refused"),
        ("", "sign_in", "", "refused"),
        (READER, "sign_in", "", "success"),
        (READER, "sign_out", "", "success"),
    ]


def test_where_nobody_signs_in_the_reader_is_who_he_says(engine: Engine, tmp_path: Path) -> None:
    with open_house(engine, tmp_path) as house:
        uid, browser = house.receive(1), house.browser()
        browser.post(f"/api/studies/{uid}/start", json={"reader": "Dr A"})
        browser.post("/reader", data={"reader": "Dr B"})
        browser.post(f"/studies/{uid}/read")
        browser.get(f"/api/studies/{uid}", headers={"authorization": "Bearer none"})
        expected = [
            ("Dr A", "start", uid, "success"),
            ("Dr B", "read", uid, "refused"),
            ("Dr B", "look", uid, "success"),
        ]
        assert told(house) == expected


def test_admins_page_through_all_of_it_newest_first(house: House) -> None:
    for number in range(25):
        house.entrance.trail.note(access(study_instance_uid=f"1.{number}", at=NOW + timedelta(seconds=number)))
    house.entrance.trail.enter()
    boss, found, cursor = house.program_of(BOSS), [], None
    while True:
        asked = {"limit": 10, **({"before": cursor} if cursor else {})}
        answer = boss.get("/api/audit", params=asked).json()
        assert answer["count"] == len(answer["entries"])
        found += [entry for entry in answer["entries"] if entry["verb"] == "look"]
        cursor = answer["next"]
        house.entrance.trail.note(access(verb="list"))  # what comes meanwhile moves nothing
        house.entrance.trail.enter()
        if cursor is None:
            break
    assert [entry["study_instance_uid"] for entry in found] == [f"1.{number}" for number in reversed(range(25))]
    one = boss.get("/api/audit", params={"study": "1.7", "since": NOW.isoformat()}).json()["entries"]
    assert [(entry["who"], entry["outcome"]) for entry in one] == [(READER, "success")]
    assert boss.get("/api/audit", params={"who": "nobody"}).json() == {"count": 0, "next": None, "entries": []}
    for wrong in ({"limit": 0}, {"limit": 10**6}, {"study": "SECRET"}, {"before": "SECRET"}, {"outcome": "SECRET"}):
        refused = boss.get("/api/audit", params=wrong)
        assert (refused.status_code, "SECRET" in refused.text) == (422, False)


# -- on the way into the database ----------------------------------------------------------------------------------


@pytest.fixture
def audit(engine: Engine) -> Audit:
    return Audit(Store(engine))


def entered(audit: Audit) -> list[str]:
    return sorted(a.verb for a in audit.list(100_000, same={}))


def test_the_thread_enters_what_is_noted_and_the_rest_at_its_end(audit: Audit, tmp_path: Path) -> None:
    trail = Trail(audit, tmp_path)
    trail.start()
    for number in range(3 * trails._AT_ONCE):
        trail.note(access(verb=f"v{number}"))
    trail.stop()
    assert len(entered(audit)) == 3 * trails._AT_ONCE == len(set(entered(audit)))
    assert list((tmp_path / "trail").iterdir()) == []


def test_threads_that_note_at_once_lose_nothing(audit: Audit, tmp_path: Path) -> None:
    trail = Trail(audit, tmp_path)
    trail.start()

    def note(name: int) -> None:
        for number in range(200):
            trail.note(access(verb=f"{name}-{number}"))

    threads = [threading.Thread(target=note, args=(name,)) for name in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    trail.stop()
    assert len(set(entered(audit))) == 1600


class Away(Audit):
    """A database that does not answer for a while; or has done as asked, and cannot say so."""

    is_away = True
    enters = False

    def enter(self, lines: Any) -> None:
        if self.enters:
            super().enter(lines)
        if self.is_away and lines:
            raise OperationalError("INSERT", {}, Exception())
        super().enter(lines)


@pytest.mark.parametrize("enters", [False, True])
def test_while_the_database_is_away_lines_wait_and_none_is_entered_twice(
    engine: Engine, tmp_path: Path, *, enters: bool
) -> None:
    audit = Away(Store(engine))
    audit.enters = enters
    trail = Trail(audit, tmp_path)
    for number in range(3):
        trail.note(access(verb=f"v{number}"))
        with pytest.raises(OperationalError):
            trail.enter()
    audit.is_away = False
    trail.enter()
    assert entered(audit) == ["v0", "v1", "v2"]


def test_while_the_disk_is_full_lines_wait_in_memory_and_what_has_no_room_there_is_said(
    audit: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    trail = Trail(audit, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(trails, "_IN_MEMORY_MAX", 3)
        patched.setattr(trails.os, "write", full)
        for number in range(5):
            trail.note(access(verb=f"v{number}"))
        trail.enter()
    trail.note(access(verb="v9"))
    trail.enter()
    assert entered(audit) == ["v0", "v1", "v2", "v9"]
    said = capfd.readouterr()
    assert "accesses_lost" in said.out + said.err


KILLED = """
import sys, os, signal
from datetime import UTC, datetime
from pathlib import Path
from daemon.trail import Trail
from triage.user import Access
trail = Trail(None, Path(sys.argv[1]))
for number in range(100):
    trail.note(Access(at=datetime.now(UTC), who="w", verb=f"v{number}"))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_noted_is_entered_by_the_next(audit: Audit, tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert dead.returncode == -signal.SIGKILL
    (left,) = (tmp_path / "trail").glob("*.lines")
    with left.open("ab") as torn:
        torn.write(b'{"line_id": "cut o')
    Trail(audit, tmp_path).enter()
    assert len(entered(audit)) == 100
    assert not left.exists()


def test_a_file_that_a_killed_process_had_not_named_yet_goes(audit: Audit, tmp_path: Path) -> None:
    trail = Trail(audit, tmp_path)
    left = tmp_path / "trail" / "0123456789abcdef.new"
    left.touch()
    trail.enter()
    assert not left.exists()
    assert entered(audit) == []


def test_a_file_taken_for_a_dead_ones_before_it_was_locked_is_made_anew(
    audit: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process enters what the dead left, between this one's open and its lock."""
    trail, other, lock, first = Trail(audit, tmp_path), Trail(audit, tmp_path), fcntl.flock, [True]

    def late(descriptor: int, how: int) -> None:
        if first.pop() if first else False:
            other.enter()
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    trail.note(access(verb="mine"))
    assert len(list((tmp_path / "trail").glob("*.lines"))) == 1, "the line is in no file"
    trail.enter()
    assert entered(audit) == ["mine"]


def test_the_file_of_a_process_that_lives_is_left_to_it(audit: Audit, tmp_path: Path) -> None:
    mine, other = Trail(audit, tmp_path), Trail(audit, tmp_path)
    mine.note(access(verb="mine"))
    other.enter()
    assert entered(audit) == []
    mine.note(access(verb="mine too"))
    mine.enter()
    assert entered(audit) == ["mine", "mine too"]


def test_the_trail_is_private(audit: Audit, tmp_path: Path) -> None:
    trail = Trail(audit, tmp_path)
    trail.note(access())
    (path,) = (tmp_path / "trail").iterdir()
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert path.stat().st_uid == os.getuid()


def test_what_is_noted_fits_the_columns(audit: Audit, tmp_path: Path) -> None:
    trail = Trail(audit, tmp_path)
    trail.note(access(verb="v" * 99, who="w" * 999, study_instance_uid="1" * 99, address="a" * 99))
    trail.note(access(who="\ud800"))
    trail.enter()
    first = audit.list(10, same={"who": "w" * 64})[0]
    assert (len(first.verb), len(first.study_instance_uid), len(first.address)) == (32, 64, 64)
    assert first.outcome is Outcome.SUCCESS
