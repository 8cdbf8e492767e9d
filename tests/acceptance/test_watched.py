"""Who watches the daemon: one address tells how all of it is, and what hangs is not hidden."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import chests
import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from running import Daemon, free_port, running, wait_for
from sending import send

CHILDREN = {"receiver-1", "worker-1", "scheduler", "web"}
NOBODY_LOOKS = "No worker looks at the films"


def scraped(port: int) -> dict[str, Metric]:
    answer = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=20)
    answer.raise_for_status()
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


def value(port: int, name: str, **labels: str) -> float | None:
    """The sum of the samples of this name that have these labels."""
    found = [
        sample.value
        for family in scraped(port).values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sum(found) if found else None


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("watched"), metrics_port=free_port(), watchdog_seconds=8) as daemon:
        daemon.serve().wait_for_log("ready")
        yield daemon


def port_of(daemon: Daemon) -> int:
    return int(str(daemon.settings["metrics_port"]))


def test_one_address_tells_of_all_processes(watched: Daemon, tmp_path: Path) -> None:
    port = port_of(watched)
    film = chests.chest(tmp_path)
    assert send(watched, film.dataset) == [0]
    assert watched.settled(film.study)["analysis"] == "analysed"
    # Each process hands on what it has counted when its time comes.
    wait_for(lambda: value(port, "triage_jobs_total", outcome="analysed"), 30)
    wait_for(lambda: value(port, "triage_instances_received_total", status="0000", process="receiver-1"), 30)
    wait_for(lambda: value(port, "triage_success_to_ranked_seconds_count", process="worker-1"), 30)
    wait_for(lambda: value(port, "triage_decode_seconds_count", transfer_syntax="explicit_little_endian"), 30)
    wait_for(lambda: value(port, "triage_http_requests_total", process="web", method="GET", status="200"), 30)
    processes = {sample.labels["process"] for sample in scraped(port)["process_resident_memory_bytes"].samples}
    assert processes == {"serve", *CHILDREN}
    wait_for(lambda: value(port, "triage_worklist_studies", reading="unread"), 30)
    assert value(port, "triage_processes_alive", kind="worker") == 1


def test_no_label_names_a_study_a_patient_or_a_peer(watched: Daemon, tmp_path: Path) -> None:
    film = chests.chest(tmp_path, PatientName="Kanarienvogel^Zwitschi", AccessionNumber="KANARI-ACC-99")
    assert send(watched, film.dataset) == [0]
    watched.settled(film.study)
    wait_for(lambda: value(port_of(watched), "triage_jobs_total", outcome="analysed"), 30)
    told = httpx.get(f"http://127.0.0.1:{port_of(watched)}/metrics", timeout=20).text
    assert "triage_instances_received_total" in told
    for secret in ("anarien", "KANARI", film.study, "1.2.", "PACS", "127.0.0.1"):
        assert secret not in told


def test_a_killed_worker_is_counted_and_its_numbers_begin_again_under_its_name(watched: Daemon) -> None:
    port, dead = port_of(watched), watched.kill("work")
    wait_for(lambda: (child := watched.find("work")) and child.pid != dead, 60)
    wait_for(lambda: (value(port, "triage_child_starts_total", child="worker-1") or 0) >= 2, 30)
    folders = list((watched.data_dir / "metrics").iterdir())
    assert len(folders) == 1
    wait_for(lambda: value(port, "triage_build_info", process="worker-1"), 60)
    assert {path.name for path in folders[0].glob("*.prom")} == {f"{name}.prom" for name in CHILDREN}


def test_a_worker_that_stands_still_is_missed_within_seconds_then_killed_and_started_again(watched: Daemon) -> None:
    port = port_of(watched)
    wait_for(lambda: value(port, "triage_child_up", child="worker-1"), 60)
    worker = watched.child("work")
    for process in [worker, *worker.children(recursive=True)]:
        process.send_signal(signal.SIGSTOP)
    hung = watched.wait_for_log("child_hangs")
    assert (hung["child"], hung["level"]) == ("worker-1", "error")
    wait_for(lambda: (child := watched.find("work")) and child.pid != worker.pid, 60)
    wait_for(lambda: value(port, "triage_child_hangs_total", child="worker-1"), 30)
    wait_for(lambda: watched.get("/api/health/ready").status_code == 200, 60)


def test_page_interface_and_metrics_say_that_no_worker_lives_though_no_film_waits(
    make_daemon: Callable[..., Daemon],
) -> None:
    port = free_port()
    daemon = make_daemon(metrics_port=port, watchdog_seconds=300).serve()
    wait_for(lambda: daemon.get("/api/health/ready").status_code == 200, 60)
    assert NOBODY_LOOKS not in daemon.get("/").text
    worker = daemon.child("work")
    worker.send_signal(signal.SIGSTOP)
    ready = wait_for(lambda: (answer := daemon.get("/api/health/ready")).status_code == 503 and answer, 30)
    assert any(NOBODY_LOOKS in sentence for sentence in ready.json()["missing"])
    assert NOBODY_LOOKS in daemon.get("/").text
    wait_for(lambda: value(port, "triage_processes_alive", kind="worker") == 0, 30)
    worker.send_signal(signal.SIGCONT)
    wait_for(lambda: daemon.get("/api/health/ready").status_code == 200, 60)


def test_a_process_that_runs_alone_has_an_address_of_its_own(make_daemon: Callable[..., Daemon]) -> None:
    port = free_port()
    daemon = make_daemon(metrics_port=port)
    daemon.start("receive")
    daemon.wait_until_up(web=False)
    assert value(port, "triage_associations_total", process="receiver")
    assert (value(port, "triage_disk_free_bytes") or 0) > 0
    assert value(port, "triage_database_up", process="receiver") == 1
    assert "triage_worklist_studies" not in scraped(port)  # another's, who holds the turn
    assert not list((daemon.data_dir / "metrics").glob("*"))
    taken = make_daemon(metrics_port=port).run("receive")
    assert taken.returncode == 2
    assert f"port {port}" in taken.stderr
