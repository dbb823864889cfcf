"""The list of runs, and getting in, in a browser."""

from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.service.recordings import put_epochs, recording

N = 200
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def runs(api: httpx.Client) -> httpx.Client:
    """Three runs, one of them with a finished round and hostile tags."""
    for name, status in (("cifar-a", "running"), ("cifar-b", "finished"), ("digits", "failed")):
        api.put(f"/runs/{name}", json={"num_samples": N, "tags": {"seed": name[-1], "note": HOSTILE}})
        api.patch(f"/runs/{name}", json={"status": status})
    put_epochs(api, "cifar-b", recording(N, 12))
    api.post("/runs/cifar-b/rounds/0/finish")
    return api


def test_an_empty_service_says_how_to_send_the_first_epoch(page: Page, check_access: Callable[[], None]) -> None:
    page.goto("/")
    expect(page.get_by_role("heading", name="Send the first epoch")).to_be_visible()
    check_access()
    page.get_by_role("tab", name="Python").press("ArrowRight")
    shown = page.get_by_role("tabpanel", name="curl")
    expect(shown).to_contain_text("curl -X PUT")
    shown.get_by_role("button", name="Copy curl").click()
    assert page.evaluate("navigator.clipboard.readText()") == shown.locator("pre").text_content()


def test_runs_are_listed_searched_and_filtered(
    page: Page, runs: httpx.Client, check_access: Callable[[], None]
) -> None:
    page.goto("/ui/")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.filter(has_text="cifar-b")).to_contain_text("separable")
    expect(page.locator("img")).to_have_count(0)
    check_access()
    page.get_by_role("searchbox").fill("CIFAR")
    page.get_by_role("searchbox").press("Enter")
    expect(rows).to_have_count(2)
    page.get_by_label("Filter by status").select_option("finished")
    page.get_by_role("button", name="Search").click()
    expect(rows).to_have_count(1)
    page.goto("/ui/?tag=seed%3Ds")
    expect(rows).to_have_count(1)
    page.goto("/ui/?q=nothing-has-this")
    expect(page.get_by_role("heading", name="No run matches")).to_be_visible()
    check_access()


def test_the_theme_is_remembered(page: Page, check_access: Callable[[], None], runs: httpx.Client) -> None:
    page.goto("/ui/")
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Change colour theme").click()
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    check_access()
