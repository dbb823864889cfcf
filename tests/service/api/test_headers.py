import base64
import hashlib
import re

import httpx
import pytest
from fastapi import FastAPI

from tests.inprocess import running
from tests.service.keyring import Keyring, bearer


@pytest.mark.parametrize("path", ["/health", "/runs", "/runs/none", "/nowhere", "/metrics", "/openapi.json", "/fail"])
def test_every_answer_tells_browsers_to_guess_frame_and_load_nothing(app: FastAPI, path: str) -> None:
    def fail() -> None:
        raise RuntimeError

    app.add_api_route("/fail", fail)
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as service:
        headers = service.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"


def test_pages_load_and_run_only_what_is_served_here(service: httpx.Client) -> None:
    policy = service.get("/ui/login").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    page = service.get("/ui/login").text
    assert not re.search(r"<script(?! (type=\"module\" )?src=\"/ui/static/)", page)
    assert "style=" not in page
    assert "<style" not in page


def test_the_documentations_own_script_is_named_by_its_hash(service: httpx.Client) -> None:
    answer = service.get("/docs")
    (script,) = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = answer.headers["content-security-policy"]
    assert f"script-src 'self' 'sha256-{hashed}';" in policy
    assert "frame-ancestors 'none'" in policy


def test_what_a_key_was_needed_for_stays_out_of_shared_caches(app: FastAPI) -> None:
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as service:
        assert "cache-control" not in service.get("/runs").headers
        headers = bearer(Keyring(app.state.store, transport).make())
        app.state.authenticator._next_check = 0.0
        assert service.get("/runs", headers=headers).headers["cache-control"] == "no-store"
        assert service.get("/runs").headers["cache-control"] == "no-store"
        assert "cache-control" not in service.get("/health", headers=headers).headers
