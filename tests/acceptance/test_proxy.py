"""The page behind nginx, with the configuration that is shipped: only names, ports and folders are the test's own."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from running import Daemon, free_port, wait_for

from absent import missing
from certificates import HOST, Papers

SHIPPED = Path(__file__).resolve().parents[2] / "deploy" / "proxy" / "nginx.conf"
PASSWORD = "correct horse battery"
CANARY = "KANARI-4711"


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    papers = Papers(tmp_path / "papers")
    papers.issue("web", host="triage.example")
    return papers


@pytest.fixture
def proxied(make_daemon: Callable[..., Daemon]) -> Daemon:
    daemon = make_daemon(http_url="https://triage.example", http_proxies="127.0.0.1")
    command = [sys.executable, "-m", "daemon.cli", "users", "add", "Boss", "--role", "admin"]
    subprocess.run(command, env=daemon.environment, input=PASSWORD, text=True, check=True, timeout=120)
    daemon.start("web")
    wait_for(lambda: daemon.ended() or daemon.live())
    return daemon


@pytest.fixture
def port(proxied: Daemon, papers: Papers, tmp_path: Path) -> Iterator[int]:
    """Where nginx speaks TLS."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        missing("nginx (apt-get install nginx-light)")
    port = free_port()
    shipped = SHIPPED.read_text(encoding="utf-8")
    for ours, theirs in {
        "127.0.0.1:8080": f"{HOST}:{proxied.http_port}",
        "listen 443": f"listen {HOST}:{port}",
        "listen 80": f"listen {HOST}:{free_port()}",
        "/etc/triage": str(papers.folder),
        "/var/log/nginx": str(tmp_path),
    }.items():
        assert ours in shipped
        shipped = shipped.replace(ours, theirs)
    own = "".join(
        f"{name}_temp_path {tmp_path}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = tmp_path / "nginx.conf"
    main.write_text(
        f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/main.log; events {{}}\nhttp {{ {own}\n{shipped}\n}}",
        encoding="utf-8",
    )
    process = subprocess.Popen([str(program), "-p", str(tmp_path), "-c", str(main)])
    try:
        wait_for(lambda: answers(papers, port))
        yield port
    finally:
        process.terminate()
        process.wait()


def browser(papers: Papers, port: int) -> httpx.Client:
    headers = {"host": "triage.example", "sec-fetch-site": "same-origin"}
    context = ssl.create_default_context(cafile=papers.ca)
    context.check_hostname = False  # the test has no names of its own
    return httpx.Client(verify=context, base_url=f"https://{HOST}:{port}", headers=headers, timeout=20)


def answers(papers: Papers, port: int) -> bool:
    with browser(papers, port) as asking:
        try:
            return asking.get("/api/health/live").is_success
        except httpx.TransportError:
            return False


def test_behind_the_shipped_nginx_sessions_are_secure_and_nothing_is_logged_or_believed(
    proxied: Daemon, papers: Papers, port: int, tmp_path: Path
) -> None:
    claims = {"x-forwarded-for": "10.66.66.66", "x-forwarded-proto": "http"}
    with browser(papers, port) as web:
        signed_in = web.post("/login", data={"name": "Boss", "password": PASSWORD}, headers=claims)
        assert signed_in.status_code == 303
        cookie = signed_in.headers.get_list("set-cookie")[-1]  # after the one that takes an older one away
        assert cookie.startswith("__Host-triage_session=")
        assert "Secure" in cookie
        key = {"cookie": cookie.partition(";")[0]}
        page = web.get("/", headers=key)
        assert page.status_code == 200
        assert page.headers["strict-transport-security"] == "max-age=31536000"
        assert web.get(f"/api/worklist?q={CANARY}", headers=key).is_success
        assert web.get(f"/api/studies/{CANARY}", headers=key).is_client_error
        assert web.get(f"/{CANARY}%00", headers=key).is_client_error
        with web.stream("GET", "/api/changes", headers=key) as changes:
            assert next(changes.iter_lines()).startswith(("event", "data", ":", "id", "retry"))
        rows = json.loads(proxied.run("audit", "--json", "--verb", "sign_in").stdout)
        assert [row["address"] for row in rows] == ["127.0.0.1"]  # not what the client claims
    logged = "".join(path.read_text(encoding="utf-8") for path in tmp_path.glob("*.log"))
    assert "GET 200" in logged
    assert CANARY not in logged + proxied.log()
