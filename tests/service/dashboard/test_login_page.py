"""Logging in with a key in a browser: what the cookie is, what it lets in, and when it ends."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from http.cookies import SimpleCookie

import httpx
import pytest

from mild_service.app import create_app
from mild_service.config import Settings
from tests.inprocess import running
from tests.service.keyring import Keyring

OURS = {"Sec-Fetch-Site": "same-origin"}
PAGE = {"Accept": "text/html,*/*;q=0.8"}


@dataclass
class Site:
    """A service that asks for keys, as a browser sees it."""

    client: httpx.Client
    keys: Keyring

    def log_in(self, secret: str, **headers: str) -> httpx.Response:
        return self.client.post("/ui/login", data={"key": secret}, headers={**OURS, **headers})


@pytest.fixture
def site(settings: Settings) -> Iterator[Site]:
    app = create_app(settings.model_copy(update={"auth": "required", "key_cache_seconds": 0}))
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as client:
        yield Site(client, Keyring(app.state.store, transport))


@pytest.mark.parametrize("base", ["http://service", "https://service"])
def test_a_key_begins_a_session_whose_cookie_no_script_reads_and_no_other_site_sends(site: Site, base: str) -> None:
    secret = site.keys.make("read", prefix="a-")
    site.client.base_url = httpx.URL(base)
    answer = site.log_in(f" {secret}\n")
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/")
    cookie = SimpleCookie(answer.headers["set-cookie"])["mild_session"]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "strict", "/")
    assert bool(cookie["secure"]) == (base == "https://service")
    assert cookie["max-age"] == str(12 * 3600)
    assert len(cookie.value) == 43
    assert cookie.value not in secret
    page = site.client.get("/ui/login").text
    assert "Logged in as <strong>read</strong>" in page
    assert "runs a-" in page


def test_a_session_may_what_its_key_may(site: Site) -> None:
    site.log_in(site.keys.make("write", prefix="a-"))
    assert site.client.put("/runs/a-1", json={"num_samples": 8}, headers=OURS).status_code == 201
    assert site.client.get("/runs/a-1").status_code == 200
    assert site.client.get("/runs/b-1").status_code == 404
    assert site.client.delete("/runs/a-1", headers=OURS).status_code == 403


@pytest.mark.parametrize("headers", [{}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
                                     {"Origin": "http://evil.example"}, {"Origin": "null"}])  # fmt: skip
@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/runs/a"), ("DELETE", "/runs/a"), ("POST", "/ui/logout"), ("POST", "/ui/login")]
)
def test_no_other_site_can_use_it(site: Site, method: str, path: str, headers: dict[str, str]) -> None:
    site.log_in(site.keys.make("admin"))
    answer = site.client.request(method, path, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (403, "/problems/cross-site")
    assert site.client.get("/runs").status_code == 200  # still logged in


def test_a_session_ends_when_it_is_told_to(site: Site) -> None:
    site.log_in(site.keys.make("read"))
    session = site.client.cookies["mild_session"]
    answer = site.client.post("/ui/logout", headers=OURS)
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/login")
    assert "mild_session" not in site.client.cookies
    assert site.client.get("/runs", headers={"Cookie": f"mild_session={session}"}).status_code == 401
    assert site.client.post("/ui/logout", headers=OURS).status_code == 303


def test_a_session_ends_with_its_key(site: Site) -> None:
    secret = site.keys.make("read")
    site.log_in(secret)
    assert site.client.get("/runs").status_code == 200
    site.keys.revoke(secret)
    assert site.client.get("/runs").status_code == 401
    assert 'name="key"' in site.client.get("/ui/login").text


def test_a_wrong_key_begins_nothing_and_is_written_down_unseen(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for secret in ("mild_wrong-one", "", site.keys.make(revoked=True)):
        answer = site.log_in(secret)
        assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)
        assert "unknown, revoked or expired" in answer.text
        assert "wrong-one" not in answer.text
    events = [vars(record)["event"] for record in caplog.records if record.name == "mild_service.audit"]
    assert events == ["failed-login"] * 3
    assert "wrong-one" not in caplog.text


def test_a_login_is_a_short_form(site: Site) -> None:
    long = site.client.post("/ui/login", content=b"key=" + b"x" * 5000, headers=OURS)
    assert (long.status_code, long.json()["type"]) == (413, "/problems/body-too-large")
    other = site.client.post("/ui/login", json={"key": "x"}, headers=OURS)
    assert (other.status_code, other.json()["type"]) == (415, "/problems/unsupported-media-type")


def test_an_open_service_needs_no_login(service: httpx.Client) -> None:
    page = service.get("/ui/login").text
    assert "requires no key" in page
    assert "<form" not in page
    assert service.post("/ui/login", data={"key": "x"}, headers=OURS).status_code == 401


@pytest.mark.parametrize(
    ("wanted", "location"),
    [
        ("/ui/runs/a?round=1", "/ui/runs/a?round=1"),
        ("//evil.example/ui/", "/ui/"),
        ("https://evil.example/ui/", "/ui/"),
        ("/ui/\\evil", "/ui/"),
        ("/ui/\r\nSet-Cookie: a=b", "/ui/"),
        ("/docs", "/ui/"),
    ],
)
def test_a_login_goes_on_to_the_page_that_was_asked_for_and_to_none_elsewhere(
    site: Site, wanted: str, location: str
) -> None:
    form = {"key": site.keys.make("read"), "next": wanted}
    answer = site.client.post("/ui/login", data=form, headers=OURS)
    assert (answer.status_code, answer.headers["location"]) == (303, location)


def test_who_opens_a_page_without_a_login_is_sent_there_and_back(site: Site) -> None:
    answer = site.client.get("/ui/runs/a?round=1", headers=PAGE)
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/login?next=%2Fui%2Fruns%2Fa%3Fround%3D1")
    assert 'name="next" value="/ui/runs/a?round=1"' in site.client.get(answer.headers["location"]).text
    assert site.client.get("/ui/").json()["type"] == "/problems/unauthenticated"  # scripts get problems as they are
