"""The disk has no room, no file left to give, lies or fails: the sender is told, nothing is half kept, all goes on."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import chests
import psutil
import pytest
import running
from chests import Film
from running import VERIFICATION, Daemon, wait_for
from sending import associated, send

from absent import missing
from daemon.ledger import Ledger
from faults.disks import small_disk

IMPLICIT = "1.2.840.10008.1.2"
# Fails, while a file says so: VERB FOLDER is the call, and what stands in the path of the file that it is for. With
# "slow" before it the call takes three seconds and does what it should.
FAILING = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fails(const char *verb, int descriptor) {
    char link[64], path[4096] = "", line[512] = "", asked[64], where[400];
    const char *sign = getenv("FAILING_DISK");
    FILE *file = sign ? fopen(sign, "r") : NULL;
    if (!file) return 0;
    if (!fgets(line, sizeof line, file)) line[0] = 0;
    fclose(file);
    int slow = !strncmp(line, "slow ", 5);
    if (sscanf(line + (slow ? 5 : 0), "%63s %399s", asked, where) != 2 || strcmp(asked, verb)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    if (readlink(link, path, sizeof path - 1) < 0 || !strstr(path, where)) return 0;
    if (slow) sleep(3);
    errno = EIO;
    return !slow;
}

int fsync(int fd) {
    return fails("fsync", fd) ? -1 : ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}
int fdatasync(int fd) {
    return fails("fsync", fd) ? -1 : ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
typedef ssize_t (*Write)(int, const void *, size_t);
typedef ssize_t (*WriteAt)(int, const void *, size_t, off_t);
ssize_t write(int fd, const void *from, size_t count) {
    return fails("write", fd) ? -1 : ((Write)dlsym(RTLD_NEXT, "write"))(fd, from, count);
}
ssize_t pwrite64(int fd, const void *from, size_t count, off_t at) {
    return fails("write", fd) ? -1 : ((WriteAt)dlsym(RTLD_NEXT, "pwrite64"))(fd, from, count, at);
}
ssize_t pwrite(int fd, const void *from, size_t count, off_t at) {
    return pwrite64(fd, from, count, at);
}
"""


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """For whoever opens anything from now on."""
    if os.geteuid() != 0 or subprocess.run(["mount", "--bind", folder, folder], check=False).returncode:
        pytest.skip("mounting a folder needs root, and a machine that lets it")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is written into it fails from then on, in the processes that are started now; until it is gone."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        missing("a C compiler (apt-get install gcc)")
    source, library = tmp_path / "failing.c", tmp_path / "failing.so"
    source.write_text(FAILING, encoding="ascii")
    subprocess.run([str(compiler), "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("FAILING_DISK", str(tmp_path / "failing"))
    return tmp_path / "failing"


def receiving(daemon: Daemon) -> Daemon:
    daemon.start("receive")
    daemon.wait_until_up(web=False)
    return daemon


def assert_kept(daemon: Daemon, *films: Film) -> None:
    """These and nothing else: listed, and whole on disk."""
    assert daemon.rows("SELECT count(*) FROM instances") == [(len(films),)]
    assert {uid for (uid,) in daemon.rows("SELECT study_instance_uid FROM studies")} == {film.study for film in films}
    assert not daemon.files("incoming")
    assert {path.stem for path in daemon.files("instances")} == {
        sha256 for (sha256,) in daemon.rows("SELECT sha256 FROM instances")
    }


def assert_whole(daemon: Daemon, count: int) -> None:
    """So many files are where films are kept, each with the content that its name says."""
    paths = daemon.files("instances")
    assert len(paths) == count
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.stem for path in paths)


def fill(folder: Path, leave: int) -> Path:
    """A file that leaves so many bytes."""
    ballast = folder / "ballast"
    free = shutil.disk_usage(folder).free - leave
    with ballast.open("wb") as file:
        while free > 0:
            free -= file.write(b"\1" * min(free, 2**20))
    return ballast


def until_full(act: Callable[[int], object]) -> int:
    """How often it went well before there was no more room."""
    for number in range(10_000):
        try:
            act(number)
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017 - what it is, and when
            return number
    raise AssertionError("it never filled up")


@pytest.mark.fault(75)
def test_a_disk_that_fills_up_in_the_middle_of_a_film_costs_that_film_and_not_its_association(
    make_daemon: Callable[..., Daemon], tmp_path: Path, sqlite_url: str
) -> None:
    before, lost, after = (chests.chest(tmp_path / "films", side=1024) for _ in range(3))
    with small_disk(tmp_path / "disk", "size=24m") as disk:
        daemon = receiving(make_daemon(data_dir=disk, database_url=sqlite_url, disk_free_mib_min=0))
        with associated(daemon, before.dataset) as association:
            assert association.send_c_store(before.dataset).Status == 0
            ballast = fill(disk, leave=2**20)
            assert association.send_c_store(lost.dataset).Status == 0xA700
            assert_kept(daemon, before)
            ballast.unlink()
            assert association.send_c_store(after.dataset).Status == 0
        assert send(daemon, lost.dataset) == [0]
        assert_kept(daemon, before, lost, after)
        assert [line["error"] for line in daemon.lines("instance_refused")] == ["OSError"]
        daemon.stop()


@pytest.mark.fault(79)
def test_a_disk_without_a_file_left_to_give_is_out_of_resources(
    make_daemon: Callable[..., Daemon], tmp_path: Path, sqlite_url: str
) -> None:
    before, lost = (chests.chest(tmp_path / "films", side=256) for _ in range(2))
    with small_disk(tmp_path / "disk", "size=24m,nr_inodes=640") as disk:
        daemon = receiving(make_daemon(data_dir=disk, database_url=sqlite_url, disk_free_mib_min=0))
        assert send(daemon, before.dataset) == [0]
        count = until_full(lambda number: (disk / f"taken-{number}").touch())
        assert send(daemon, lost.dataset) == [0xA700]
        assert_kept(daemon, before)
        for number in range(count):
            (disk / f"taken-{number}").unlink()
        assert send(daemon, lost.dataset) == [0]
        assert_kept(daemon, before, lost)
        daemon.stop()


@pytest.mark.fault(77, 78)
@pytest.mark.parametrize(
    ("fault", "stays"),
    [
        ("write incoming", False),
        ("fsync incoming", False),
        ("fsync instances", True),
        ("fsync triage.db", True),
        ("write triage.db", True),
    ],
)
def test_what_the_disk_does_not_keep_is_not_acknowledged_and_the_next_is_written_anew(
    make_daemon: Callable[..., Daemon],
    failing: Path,
    tmp_path: Path,
    fault: str,
    stays: bool,  # noqa: FBT001 - whole, for whoever may rely on the same content by now
) -> None:
    before, lost = (chests.chest(tmp_path / "films", side=512) for _ in range(2))
    daemon = receiving(make_daemon())
    assert send(daemon, before.dataset) == [0]
    failing.write_text(f"{fault}\n", encoding="ascii")
    assert send(daemon, lost.dataset) == [0xA700]
    assert daemon.rows("SELECT study_instance_uid FROM studies") == [(before.study,)]
    assert not daemon.files("incoming")
    if stays:
        assert_whole(daemon, 2)
    else:
        assert_kept(daemon, before)
    failing.unlink()
    wait_for(lambda: send(daemon, lost.dataset) == [0])
    assert_kept(daemon, before, lost)
    assert daemon.lines("instance_refused")[0]["status"] == "A700"
    assert daemon.processes["receive"].poll() is None
    assert not daemon.lines("uncaught_exception")


@pytest.mark.fault(77)
def test_a_share_that_is_slow_makes_its_senders_wait_and_nobody_else(
    make_daemon: Callable[..., Daemon], failing: Path, tmp_path: Path
) -> None:
    film = chests.chest(tmp_path / "films", side=256)
    daemon = receiving(make_daemon())
    failing.write_text("slow fsync incoming\n", encoding="ascii")
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(send, daemon, film.dataset)
        time.sleep(1)
        began = time.monotonic()
        assert daemon.echo()
        assert not sent.done()
        assert time.monotonic() - began < 2
        assert sent.result(60) == [0]
    assert_kept(daemon, film)
    (line,) = daemon.lines("instance_received")
    assert line["seconds"] > 3
    assert not daemon.lines("instance_refused")


@pytest.mark.fault(79)
def test_a_receiver_without_descriptors_refuses_and_takes_the_next_on_the_same_association(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    before, lost = (chests.chest(tmp_path / "films", side=256) for _ in range(2))
    daemon = receiving(make_daemon())
    receiver = daemon.child("receive")
    usual = receiver.rlimit(resource.RLIMIT_NOFILE)
    with associated(daemon, before.dataset) as association:
        assert association.send_c_store(before.dataset).Status == 0
        receiver.rlimit(resource.RLIMIT_NOFILE, (3, usual[1]))  # what is open stays open
        assert association.send_c_store(lost.dataset).Status == 0xA700
        with running.associated(daemon.dicom_port, [(VERIFICATION, IMPLICIT)], seconds=3) as other:
            assert not other.is_established
        receiver.rlimit(resource.RLIMIT_NOFILE, usual)
        assert association.send_c_store(lost.dataset).Status == 0
    assert send(daemon, before.dataset) == [0]
    assert_kept(daemon, before, lost)


@pytest.mark.fault(79)
def test_who_has_no_descriptors_for_a_while_goes_on_by_itself_when_there_are(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = make_daemon().serve()
    daemon.wait_for_log("model_loaded")
    starved = [daemon.child(command) for command in ("work", "web", "schedule")]
    usual = [process.rlimit(resource.RLIMIT_NOFILE) for process in starved]
    for process, (_, most) in zip(starved, usual, strict=True):
        process.rlimit(resource.RLIMIT_NOFILE, (3, most))
    films = [chests.chest(tmp_path / "films", side=256) for _ in range(3)]
    assert send(daemon, *(film.dataset for film in films)) == [0, 0, 0]
    time.sleep(3)  # each of them would have taken a look by now
    for process, limits in zip(starved, usual, strict=True):
        with suppress(psutil.NoSuchProcess):  # ended and started again is as good
            process.rlimit(resource.RLIMIT_NOFILE, limits)
    wait_for(daemon.live)
    assert [daemon.settled(film.study, 120)["analysis"] for film in films] == ["analysed"] * 3
    assert daemon.ended() == []


@pytest.mark.fault(77)
@pytest.mark.timeout(600)
def test_who_starts_while_nothing_can_be_written_is_started_again_until_it_can(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    before, after = (chests.chest(tmp_path / "films", side=256) for _ in range(2))
    daemon = make_daemon().serve()
    assert send(daemon, before.dataset) == [0]
    daemon.settled(before.study, 120)
    with read_only(daemon.data_dir):
        for command in ("receive", "work", "schedule", "web"):
            daemon.kill(command)
        wait_for(lambda: len(daemon.lines("child_died")) >= 8, 120)
        assert daemon.ended() == []
    daemon.wait_until_up()
    assert send(daemon, after.dataset) == [0]
    assert daemon.settled(after.study, 120)["analysis"] == "analysed"
    assert daemon.entry(before.study)["analysis"] == "analysed"


@pytest.mark.fault(75, 86)
def test_a_ledger_without_room_promises_nothing_and_holds_no_torn_line(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        ledger = Ledger(disk)
        ledger.note("a" * 64, 10, "PACS")
        ballast = fill(disk, leave=0)
        promised = 1 + until_full(lambda number: ledger.note(f"{number:064}", 10, "PACS"))
        assert len(ledger.entries()) == ledger.count == promised
        ballast.unlink()
        ledger.note("c" * 64, 10, "PACS")
        assert [entry.sha256[0] for entry in ledger.entries()][-1] == "c"
        assert len(ledger.path.read_bytes().splitlines()) == promised + 1
        ledger.close()
