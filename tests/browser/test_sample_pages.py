"""The pages about samples, in a browser: by keyboard alone, for screen readers, and with nothing that jumps."""

from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.service.dashboard.filled import IDS, N, fill

SHIFTS = """
window.shifted = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value;
}).observe({type: "layout-shift", buffered: true});
"""


@pytest.fixture
def run(api: httpx.Client) -> httpx.Client:
    """The service with the run of `filled`."""
    fill(api)
    return api


@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_is_accessible_and_stays_where_it_is(
    page: Page, run: httpx.Client, check_access: Callable[[], None], width: int
) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    page.add_init_script(SHIFTS)
    for path in ("map", "classes", "samples", "samples/7", "compare"):
        page.goto(f"/ui/runs/a/{path}?round=1")
        expect(page.locator("h2").first).to_be_visible()
        check_access()
        page.goto(f"/ui/runs/a/{path}?round=0")
        check_access()
        assert page.evaluate("window.shifted") < 0.05, path
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path
        expect(page.locator("main img")).to_have_count(0)


def test_a_cell_of_the_map_is_reached_by_keyboard(page: Page, run: httpx.Client) -> None:
    page.goto("/ui/runs/a/map?round=0")
    cells = page.locator("[data-map] a")
    assert cells.evaluate_all("all => all.filter((cell) => cell.tabIndex === 0).length") == 1
    cells.first.focus()
    page.keyboard.press("ArrowRight")
    says = page.locator("[data-map-says]")
    expect(says).to_contain_text("misclassified")
    assert page.evaluate("document.activeElement.querySelector('title').textContent") == says.text_content()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Samples", exact=True)).to_be_visible()
    expect(page.get_by_label("Misclassified")).not_to_have_value("")


def test_samples_are_filtered_and_paged_by_keyboard(page: Page, run: httpx.Client) -> None:
    page.goto("/ui/runs/a/samples?round=0")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(50)
    first = rows.first.text_content()
    page.get_by_role("link", name="Next").press("Enter")
    expect(page.get_by_text(f"51–100 of {N} samples")).to_be_visible()
    page.get_by_role("link", name="Previous").press("Enter")
    expect(page.get_by_text(f"1–50 of {N} samples")).to_be_visible()
    assert rows.first.text_content() == first
    page.get_by_label("Set", exact=True).select_option("kept")
    page.get_by_role("button", name="Show").press("Enter")
    expect(rows.first).to_contain_text("kept")
    page.get_by_label("Find one").fill(IDS[7])
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=IDS[7], exact=True)).to_be_visible()


def test_a_sample_is_marked_and_the_mark_undone(page: Page, run: httpx.Client) -> None:
    page.goto("/ui/runs/a/samples/7?round=0")
    page.get_by_role("button", name="✗ Wrong").press("Enter")
    expect(page.get_by_text("Marked wrong.")).to_be_visible()
    assert run.get("/runs/a/audit").json()["clean"] == [False]
    page.get_by_role("button", name="Undo").press("Enter")
    expect(page.get_by_text("Mark removed.")).to_be_visible()
    assert run.get("/runs/a/audit").json()["clean"] == []
