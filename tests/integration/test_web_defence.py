"""Foreign pages, foreign host names, large bodies."""

from __future__ import annotations

import pytest

from daemon.web.schemas import BODY_BYTES_MAX
from sites import HOST, Site, is_problem


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": "cross-site", "origin": "self"},
    ],
)
def test_a_foreign_page_can_change_nothing(site: Site, headers: dict[str, str]) -> None:
    uid = site.receive(1)
    headers = {name: site.url if value == "self" else value for name, value in headers.items()}
    assert is_problem(site.client.post(f"/api/studies/{uid}/read", headers=headers), 403)
    assert site.client.post(f"/studies/{uid}/read", headers=headers).status_code == 403
    assert site.client.get(f"/api/studies/{uid}").json()["status"] == "unread"


def test_our_own_page_and_programs_can_change_a_study(site: Site) -> None:
    first, second = site.receive(1), site.receive(2)
    own = {"origin": site.url, "sec-fetch-site": "same-origin"}
    assert site.client.post(f"/studies/{first}/read", headers=own).status_code == 303
    assert site.client.post(f"/api/studies/{second}/read").status_code == 204
    assert site.uids() == []


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("127.0.0.1:8080", 200), ("[::1]:8080", 200), (HOST, 200), ("evil.example", 400), ("", 400)],
)
def test_only_known_host_names_are_served(site: Site, host: str, status: int) -> None:
    answer = site.client.get("/api/worklist", headers={"host": host})
    assert answer.status_code == status
    assert "evil" not in answer.text


@pytest.mark.fault(128)
def test_large_bodies_and_bodies_without_a_length_are_refused(site: Site) -> None:
    uid = site.receive(1)
    large = site.client.post(f"/api/studies/{uid}/read", content=b" " * (BODY_BYTES_MAX + 1))
    assert is_problem(large, 413)
    chunked = site.client.post(f"/api/studies/{uid}/read", content=iter([b"{}"]))
    assert is_problem(chunked, 411)
    assert site.client.get(f"/api/studies/{uid}").json()["status"] == "unread"


@pytest.mark.fault(129)
@pytest.mark.parametrize("address", ["/", "/api/worklist", "/api/docs", "/static/style.css", "/nothing", "/reader"])
@pytest.mark.parametrize("host", ["localhost", "evil.example"])
def test_every_answer_has_the_headers_of_defence(site: Site, address: str, host: str) -> None:
    headers = site.client.get(address, headers={"host": host}).headers
    assert headers["content-security-policy"].startswith("default-src 'none';")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["x-frame-options"] == "DENY"
    assert "server" not in headers
