"""The random audit in a browser: samples are drawn, answered by keyboard without a reload, and bound the set."""

from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_run_page import shown
from tests.service.dashboard.filled import LABELS, TRUE, fill

N_DRAWN = 12


@pytest.fixture
def run(api: httpx.Client) -> httpx.Client:
    """The service with the run of `filled`."""
    fill(api)
    return api


def draw(page: Page) -> None:
    page.goto("/ui/runs/a?round=0")
    page.get_by_role("link", name="Draw 100 samples to check").click()
    page.get_by_label("Samples", exact=True).fill(str(N_DRAWN))
    page.get_by_role("button", name="Draw samples to check").press("Enter")


def answer_all(page: Page) -> None:
    for answered in range(N_DRAWN):
        expect(page.locator("#audit-state")).to_contain_text(f"{answered} of {N_DRAWN} answered")
        card = page.locator(".answer[data-open]").first
        index = int((card.get_attribute("id") or "").removeprefix("sample-"))
        name = "Label right" if TRUE[index] == LABELS[index] else "Label wrong" if answered % 2 else "Cannot tell"
        card.get_by_role("button", name=name).click()


@pytest.mark.parametrize("width", [1280, 390])
def test_samples_are_drawn_and_answered_and_the_statement_appears(
    page: Page, run: httpx.Client, check_access: Callable[[], None], width: int
) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    page.goto("/ui/runs/a/audit")
    check_access()
    draw(page)
    expect(page.locator(".answer")).to_have_count(N_DRAWN)
    check_access()
    page.evaluate("window.unloaded = false")
    answer_all(page)
    expect(page.locator("#audit-state")).to_contain_text("are wrong, with 90% confidence")
    assert page.evaluate("window.unloaded") is False, "no answer has reloaded the page"
    check_access()
    audit = run.get("/runs/a/audit").json()
    assert audit["indices"] == audit["draw"]["indices"]
    assert audit["clean"] == [bool(TRUE[index] == LABELS[index]) for index in audit["indices"]]
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_next_sample_has_the_focus_and_the_progress_is_announced(page: Page, run: httpx.Client) -> None:
    draw(page)
    cards = page.locator(".answer")
    cards.nth(1).get_by_role("button", name="Label right").press("Enter")
    expect(page.locator("[data-announce]")).to_have_text(f"1 of {N_DRAWN} answered")
    expect(cards.nth(2).get_by_role("button", name="Label right")).to_be_focused()
    cards.last.get_by_role("button", name="Cannot tell").press("Enter")
    expect(cards.first.get_by_role("button", name="Label right")).to_be_focused()


def test_without_scripts_the_forms_do_the_same(page: Page, run: httpx.Client) -> None:
    page.route("**/js/audit.js", lambda route: route.fulfill(body="", content_type="text/javascript"))
    draw(page)
    answer_all(page)
    expect(page.locator("#audit-state")).to_contain_text("are wrong, with 90% confidence")


def test_the_slider_shows_the_bounds_of_the_api_at_every_cut(
    page: Page, run: httpx.Client, check_access: Callable[[], None]
) -> None:
    drawn = run.post("/runs/a/audit/draw", json={"n": 60}).json()["draw"]["indices"]
    clean = [bool(TRUE[index] == LABELS[index]) for index in drawn]
    run.put("/runs/a/audit", json={"indices": drawn, "clean": clean})
    page.goto("/ui/runs/a?round=0")
    slider = page.get_by_role("slider", name="Cut")
    slider.focus()
    check_access()
    for key in ("Home", "ArrowRight", "PageUp", "End"):
        page.keyboard.press(key)
        value = page.locator("#cut-chart").get_attribute("data-value")
        bounds = run.get(f"/selection/a?round=0&threshold=value&value={value}").json()["bounds"]
        for name in ("precision", "recall"):
            text = shown(page, f"bound-{name}")
            assert text.startswith("≥ ")
            assert -1e-6 < 100 * bounds[name] - float(text[2:-1]) < 0.1 + 1e-6
            assert text[2:] in (slider.get_attribute("aria-valuetext") or "")
