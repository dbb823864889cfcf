"""A real Chromium on the real service: started once, with a fresh window and a fresh service for each test.

A window that has seen an error in its console, or a request to another host, fails its test.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, Playwright, Request, expect, sync_playwright

from tests.live import serving
from tests.waiting import PATIENCE

expect.set_options(timeout=1000 * PATIENCE)
OPTIONS = ["--no-sandbox", "--disable-gpu"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """Ended with each file: it keeps an event loop, with which others' would not run."""
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="module")
def chromium(playwright: Playwright) -> Iterator[Browser]:
    """A headless Chromium: the system's, or Playwright's own."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or playwright.chromium.executable_path
    if not Path(found).exists():
        pytest.skip("no Chromium here; install the system's, or run `playwright install chromium`")
    browser = playwright.chromium.launch(executable_path=found, args=OPTIONS)
    yield browser
    browser.close()


@pytest.fixture
def site(app: FastAPI) -> Iterator[str]:
    """Address of the test's own service."""
    with serving(app) as url:
        yield url


@pytest.fixture
def api(site: str) -> Iterator[httpx.Client]:
    """A client of it, for what a training would send."""
    with httpx.Client(base_url=site, timeout=PATIENCE) as client:
        yield client


@pytest.fixture
def page(chromium: Browser, site: str) -> Iterator[Page]:
    """A window whose addresses are relative to the service."""
    context = chromium.new_context(base_url=site, viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=site)
    page = context.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    wrong: list[str] = []

    def look(request: Request) -> None:
        if not request.url.startswith((site, "data:")):
            wrong.append(f"request to {request.url}")

    page.on("request", look)
    page.on("pageerror", lambda error: wrong.append(f"error in a script: {error}"))
    page.on("console", lambda said: wrong.append(f"console: {said.text}") if said.type == "error" else None)
    yield page
    context.close()
    assert not wrong


@pytest.fixture
def check_access(page: Page) -> Callable[[], None]:
    """Checks the page, as it stands, with axe-core."""

    def check() -> None:
        results = Axe().run(page)
        assert not results.violations_count, results.generate_report()

    return check
