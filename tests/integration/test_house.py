"""Opening the house: what is wrong is said by name, what may pass is waited for, and nobody else looks in."""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
import structlog
import trustme
from sqlalchemy import text

from daemon import cli, telemetry
from daemon.house import (
    DatabaseUnavailableError,
    House,
    await_database,
    decoding_limits,
    load_or_none,
    need_database,
    open_house,
    operating_point,
    refuse_mismatch,
)
from daemon.lifecycle import EXIT_AGAIN, EXIT_MEND
from daemon.sandbox import Limits
from daemon.settings import Settings
from daemon.tls import serving
from making import CARD
from triage.card import OperatingPoint, write_card
from triage.errors import TriageError
from triage.policy import Policy
from triage.records.store import open_engine


@pytest.fixture(autouse=True)
def _in_a_clean_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in os.environ:
        if name.startswith("TRIAGE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    for module in (sys, threading):
        monkeypatch.setattr(module, "excepthook", module.excepthook)  # what `configure` sets is undone
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    mask, root = os.umask(0o022), logging.getLogger().handlers[:]
    yield
    os.umask(mask)
    logging.getLogger().handlers[:] = root
    structlog.reset_defaults()


def refused_url() -> str:
    """Of a PostgreSQL that is away."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"postgresql://triage:secret@127.0.0.1:{probe.getsockname()[1]}/triage"


def house(tmp_path: Path, url: str = "") -> House:
    return House(Settings(data_dir=tmp_path / "data", database_url=url), Policy())


def logged(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def run_cli(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """The exit code."""
    monkeypatch.setattr(sys, "argv", ["triage", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_nobody_else_can_read_the_database_although_the_folder_was_there_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o755)
    monkeypatch.setenv("TRIAGE_DATA_DIR", str(data))
    opened = open_house("test")
    with opened.store.writing() as connection:
        connection.execute(text("SELECT 1"))
        files = [path for path in data.rglob("*") if path.is_file()]
        assert data / "triage.db" in files
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    opened.store.engine.dispose()
    assert stat.S_IMODE(data.stat().st_mode) == 0o700


# -- the database --------------------------------------------------------------------------------------------------


def test_a_database_server_that_comes_up_later_is_waited_for(
    tmp_path: Path, postgresql_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    telemetry.configure("json", "info", "test")
    name = f"triage_{uuid4().hex}"
    admin = open_engine(postgresql_server).execution_options(isolation_level="AUTOCOMMIT")
    late = house(tmp_path, admin.url.set(database=name).render_as_string(hide_password=False))
    with admin.connect() as connection:

        class Pause(threading.Event):
            """In which somebody makes the database."""

            def wait(self, timeout: float | None = None) -> bool:
                connection.execute(text(f"CREATE DATABASE {name}"))
                return super().wait(timeout)

        assert await_database(late, Pause())
        late.store.engine.dispose()
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()
    assert {line["event"] for line in logged(capsys)} == {"database_unavailable"}


def test_waiting_for_the_database_ends_when_asked_and_says_why_it_waits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    telemetry.configure("json", "info", "test")
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    assert not await_database(house(tmp_path, refused_url()), stop)
    (line,) = logged(capsys)
    assert line["event"] == "database_unavailable"
    assert str(line["problem"]).endswith("/triage: connection refused")
    assert "secret" not in str(line)


def test_a_process_without_its_database_ends_so_that_it_is_started_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    telemetry.configure("json", "info", "test")
    with pytest.raises(SystemExit) as ended:
        need_database(house(tmp_path, refused_url()))
    assert ended.value.code == EXIT_AGAIN
    (line,) = logged(capsys)
    assert line["event"] == "database_unavailable"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:////nowhere/triage.db", "unable to open database file"),
        ("postgresql:/triage:secret@db", "not of the form"),
        ("mysql://triage:secret@db/triage", "not of the form"),
        ("sqlite://", "not of the form"),
        ("sqlite+nothing:///triage.db", "cannot be opened"),
    ],
)
def test_a_database_that_is_wrong_needs_a_person(tmp_path: Path, url: str, words: str) -> None:
    with pytest.raises(TriageError, match=words) as refused:
        await_database(house(tmp_path, url), threading.Event())
    assert not isinstance(refused.value, DatabaseUnavailableError)
    assert "secret" not in str(refused.value)


def test_a_command_says_in_one_line_that_the_database_is_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRIAGE_DATABASE_URL", refused_url())
    assert run_cli(monkeypatch, "worklist") == EXIT_AGAIN
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("triage: database_url postgresql://triage:***@127.0.0.1")
    assert line.endswith("connection refused")
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [("worklist",), ("close", "1.2.3"), ("status",), ("backup", "."), ("schema",), ("schema", "upgrade")]
)
def test_looking_at_a_worklist_that_is_not_there_makes_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert run_cli(monkeypatch, *arguments) == EXIT_MEND
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"triage: no database at {Path.cwd() / 'triage-data' / 'triage.db'}; is TRIAGE_DATA_DIR set?"
    assert list(Path.cwd().iterdir()) == []


def test_the_worklist_names_its_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRIAGE_DATA_DIR", str(tmp_path / "data"))
    house(tmp_path).store.engine.dispose()
    assert run_cli(monkeypatch, "worklist") == 0
    shown = "".join(capsys.readouterr().out.split())  # the title is folded to the width of the table
    assert f"sqlite:///{tmp_path / 'data' / 'triage.db'}" in shown


# -- TLS, the network, decoding ------------------------------------------------------------------------------------


@pytest.fixture
def pem(tmp_path: Path) -> dict[str, Path]:
    authority = trustme.CA()
    made = authority.issue_cert("triage.example")
    files = {name: tmp_path / f"{name}.pem" for name in ("certificate", "key", "ca", "garbage", "other_key", "absent")}
    made.cert_chain_pems[0].write_to_path(files["certificate"])
    made.private_key_pem.write_to_path(files["key"])
    authority.cert_pem.write_to_path(files["ca"])
    authority.issue_cert("other.example").private_key_pem.write_to_path(files["other_key"])
    files["garbage"].write_text("no PEM", encoding="utf-8")
    return files


@pytest.mark.fault(23)
@pytest.mark.parametrize(
    ("setting", "file", "words"),
    [
        ("certificate", "garbage", "dicom_tls_certificate_file .*garbage.pem: not a PEM certificate"),
        ("certificate", "key", "dicom_tls_certificate_file .*key.pem: not a PEM certificate"),
        ("certificate", "absent", "dicom_tls_certificate_file .*absent.pem: No such file"),
        ("key", "garbage", "dicom_tls_key_file .*garbage.pem: not a PEM key"),
        ("key", "other_key", "dicom_tls_key_file .*other_key.pem: not the key of dicom_tls_certificate_file"),
        ("key", "absent", "dicom_tls_key_file .*absent.pem: No such file"),
        ("ca", "garbage", "dicom_tls_ca_file .*garbage.pem: not a PEM certificate"),
        ("ca", "absent", "dicom_tls_ca_file .*absent.pem: No such file"),
    ],
)
def test_of_the_tls_files_the_wrong_one_is_named(pem: dict[str, Path], setting: str, file: str, words: str) -> None:
    files = {name: pem[name] for name in ("certificate", "key", "ca")}
    assert serving(Settings(**{f"dicom_tls_{name}_file": path for name, path in files.items()}), "dicom") is not None
    files[setting] = pem[file]
    with pytest.raises(TriageError, match=words):
        serving(Settings(**{f"dicom_tls_{name}_file": path for name, path in files.items()}), "dicom")


def test_why_the_network_cannot_be_loaded_stands_in_the_log_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    telemetry.configure("json", "info", "test")
    assert load_or_none(Settings(weights_card=tmp_path / "absent.json", torch_threads=1), Policy()) is None
    (line,) = logged(capsys)
    assert (line["event"], line["problem"]) == ("model_unavailable", "card absent.json: No such file or directory")


# -- policy and network --------------------------------------------------------------------------------------------


OTHERS = 'threshold = 0.1\nthreshold_weights = "0123456789ab"\n'
CURVE = tuple(
    OperatingPoint(threshold=t, sensitivity=1 - t**2, specificity=1 - (1 - t) ** 2) for t in (0.1, 0.2, 0.3, 0.4)
)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes the [policy] and, beside the shipped weights' name, a card with a curve; returns the card's path."""

    def write(policy: str, **card: object) -> Path:
        (tmp_path / "triage.toml").write_text(f"[policy]\n{policy}", encoding="utf-8")
        monkeypatch.setenv("TRIAGE_CONFIG_FILE", str(tmp_path / "triage.toml"))
        path = tmp_path / "card.json"
        write_card(replace(CARD, **({"curve": CURVE, "threshold": 0.1} | card)), path)  # type: ignore[arg-type] # the test's
        monkeypatch.setenv("TRIAGE_WEIGHTS_CARD", str(path))
        return path

    return write


@pytest.mark.fault(105)
@pytest.mark.parametrize("arguments", [("serve",), ("work",), ("score", "film.dcm"), ("settings",)])
@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (OTHERS, "[policy] threshold: was chosen for the network 0123456789ab, the one here is aaaaaaaaaaaa"),
        ("prevalence = 0.3\nppv_min = 0.9\n", "[policy] ppv_min: at prevalence 0.3, a PPV of 0.9 would catch 0 %"),
    ],
)
def test_who_would_judge_does_not_start_with_a_policy_that_the_network_cannot_keep(
    *,
    site: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    policy: str,
    words: str,
) -> None:
    site(policy)
    before = set(Path.cwd().iterdir())
    assert run_cli(monkeypatch, *arguments) == EXIT_MEND
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("triage: ")]
    assert [line.startswith(f"triage: {words}") for line in told] == [True]
    assert set(Path.cwd().iterdir()) == before


@pytest.mark.fault(105)
def test_weights_that_are_replaced_under_a_running_worker_do_not_judge_by_a_threshold_of_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    telemetry.configure("json", "info", "test")
    policy = Policy(threshold=0.1, threshold_weights="0123456789ab")
    assert load_or_none(Settings(torch_threads=1), policy) is None
    (line,) = logged(capsys)
    assert (line["event"], "was chosen for the network" in str(line["problem"])) == ("model_unavailable", True)


def test_a_card_that_cannot_be_read_is_no_reason_not_to_start(tmp_path: Path) -> None:
    policy = Policy(prevalence=0.3, flags_per_100_max=30)
    refuse_mismatch(Settings(weights_card=tmp_path / "absent.json"), policy)
    assert operating_point(Settings(weights_card=tmp_path / "absent.json"), policy) == {
        "network": "card absent.json: No such file or directory"
    }


def test_the_settings_show_what_they_come_to(
    site: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # At 0.3: 0.3 * 0.91 + 0.7 * 0.49 = 0.616 flagged, 0.273 / 0.616 of them rightly.
    site("prevalence = 0.3\nflags_per_100_max = 62\n")
    assert run_cli(monkeypatch, "settings", "--json") == 0
    derived = json.loads(capsys.readouterr().out)["operating_point"]
    assert derived.pop("weights") == "a" * 12
    assert derived == pytest.approx(
        {
            "possible": 0.1, "likely": 0.9, "threshold": 0.3, "prevalence": 0.3, "sensitivity": 0.91,
            "ppv": 0.273 / 0.616, "flags_per_100": 61.6,
        }
    )  # fmt: skip
    assert run_cli(monkeypatch, "settings") == 0
    shown = capsys.readouterr().out.splitlines()
    assert {"# threshold: 0.3", "# ppv: 0.4432", "# flags_per_100: 61.6", "flags_per_100_max = 62.0"} <= set(shown)
    assert max(len(line) for line in shown if line.startswith("# ")) <= 80
    site("", curve=())
    assert run_cli(monkeypatch, "settings") == 0
    assert "# forecast: the network's card has no operating curve" in capsys.readouterr().out


def test_the_budgets_to_choose_from_are_those_that_are_granted(
    site: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site("prevalence = 0.3\n")
    assert run_cli(monkeypatch, "budget") == 0
    head, _, _, *rows = capsys.readouterr().out.splitlines()
    assert head == f"Network {'a' * 12}, prevalence 0.3. The first row is its own threshold."
    assert [row.split() for row in rows] == [
        ["87", "0.1000", "0.990", "0.344"],
        ["74", "0.2000", "0.960", "0.391"],
        ["62", "0.3000", "0.910", "0.443"],
    ]
    assert run_cli(monkeypatch, "budget", "0.5", "--json") == 0
    assert [row["prevalence"] for row in json.loads(capsys.readouterr().out)] == [0.5] * 3
    site("prevalence = 0.3\nflags_per_100_max = 50\nsensitivity_min = 0.8\n")
    assert run_cli(monkeypatch, "budget") == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["51", "0.4000", "0.840", "0.500"]


@pytest.mark.parametrize(
    ("card", "arguments", "words"),
    [({}, (), "say the share of pneumonias"), ({"curve": ()}, ("0.3",), "has no operating curve")],
)
def test_budgets_need_a_share_of_pneumonias_and_a_curve(
    *,
    site: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    card: dict[str, object],
    arguments: tuple[str, ...],
    words: str,
) -> None:
    site("", **card)
    assert run_cli(monkeypatch, "budget", *arguments) == EXIT_MEND
    assert words in capsys.readouterr().err


def test_decoding_costs_no_more_than_the_settings_say() -> None:
    limits = decoding_limits(Settings(decode_seconds=3.5, decode_mib=512, decode_films=3))
    assert limits == Limits(seconds=3.5, memory_bytes=512 * 2**20, films=3)
