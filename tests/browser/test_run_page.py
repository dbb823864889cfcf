"""One run in a browser: its charts, its cut against the API, and what changes while it trains."""

from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.service.recordings import put_epochs, recording

N = 400
BODIES = recording(N, 24)


@pytest.fixture
def run(api: httpx.Client) -> httpx.Client:
    """Run `a` with a finished round, and two epochs of the next one."""
    api.put("/runs/a", json={"num_samples": N, "tags": {"note": "<script>alert(1)</script>"}})
    put_epochs(api, "a", BODIES[:12])
    for epoch in range(12):
        api.put(f"/runs/a/rounds/0/metrics/{epoch}", json={"test_accuracy": epoch / 20, "train_loss": 1.0})
    api.post("/runs/a/rounds/0/finish")
    return api


def shown(page: Page, name: str) -> str:
    return page.locator(f'[data-out="{name}"]').text_content() or ""


def test_what_the_cut_shows_is_what_the_api_answers(
    page: Page, run: httpx.Client, check_access: Callable[[], None]
) -> None:
    page.goto("/ui/runs/a")
    slider = page.get_by_role("slider", name="Cut")
    expect(slider).to_be_visible()
    check_access()
    box = page.locator("#cut-chart svg").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 100)
    page.mouse.down()
    for share in (0.5, 0.3, 0.75):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + 100)
        _same_as_the_api(page, run)
    page.mouse.up()
    slider.focus()
    at = int(slider.get_attribute("aria-valuenow") or "")
    page.keyboard.press("ArrowLeft")
    assert int(slider.get_attribute("aria-valuenow") or "") == at - 1
    _same_as_the_api(page, run)
    request = page.get_by_role("tabpanel").locator("code").first
    value = page.locator("#cut-chart").get_attribute("data-value")
    expect(request).to_contain_text(f'"value": {value}')
    page.get_by_role("button", name="Copy Python").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == request.text_content()
    compile(copied, "copied", "exec")
    page.get_by_role("button", name="Back to the run's own cut").click()
    expect(slider).to_be_focused()
    expect(request).not_to_contain_text("value")
    check_access()


def _same_as_the_api(page: Page, api: httpx.Client) -> None:
    value = page.locator("#cut-chart").get_attribute("data-value")
    answer = api.get(f"/selection/a?round=0&threshold=value&value={value}").json()
    assert shown(page, "kept") == f"{answer['num_selected']:,}"
    for name in ("precision", "recall"):
        estimate = answer["fitted"][name]
        assert shown(page, name) == f"{100 * estimate['value']:.1f}%"
        assert shown(page, f"{name}-range") == f"{100 * estimate['low']:.0f}–{100 * estimate['high']:.0f}%"


def test_the_page_follows_its_run(page: Page, run: httpx.Client, check_access: Callable[[], None]) -> None:
    page.goto("/ui/runs/a?round=0")
    expect(page.locator("[data-live-state]")).to_have_attribute("data-state", "live")
    facts = page.locator("#live-facts")
    expect(facts).to_contain_text("Epochs of round 0")
    put_epochs(run, "a", BODIES[12:16], round_=1)
    expect(facts).to_contain_text("Epochs of round 1")
    expect(page.locator("#course-legend")).to_contain_text("Round 1, epoch 3")
    page.goto("/ui/runs/a")
    panel = page.locator("[data-selection]")
    expect(panel).to_have_attribute("data-selection", "1")
    expect(panel).to_contain_text("Set so far")
    check_access()
    run.post("/runs/a/rounds/1/finish")
    expect(page.locator("#live-rounds")).not_to_contain_text("open")
    expect(panel).not_to_contain_text("Set so far")


def test_measured_quality_is_shown_where_an_audit_is_known(
    page: Page, run: httpx.Client, check_access: Callable[[], None]
) -> None:
    run.put("/runs/a/audit", json={"indices": list(range(40)), "clean": [i % 2 == 0 for i in range(40)]})
    page.goto("/ui/runs/a")
    expect(page.get_by_text("On 40 audited samples")).to_be_visible()
    value = float(page.locator("#cut-chart").get_attribute("data-value") or "")
    cuts = run.get("/runs/a/rounds/0/sweep").json()["cuts"]
    (own,) = [cut["measured"] for cut in cuts if cut["value"] == value]
    assert shown(page, "measured-precision") == f"{100 * own['precision']:.1f}%"
    check_access()


def test_the_set_is_downloaded_in_every_form(page: Page, run: httpx.Client, check_access: Callable[[], None]) -> None:
    page.goto("/ui/runs/a/downloads")
    check_access()
    for name, media_type in (("JSON", "application/json"), ("NumPy", "application/x-npy"), ("CSV", "text/csv")):
        with page.expect_download() as saved:
            page.get_by_role("link", name=f"Download {name}").click()
        answer = run.get("/selection/a?round=0", headers={"Accept": media_type})
        assert saved.value.path().read_bytes() == answer.content
    expect(page.get_by_role("region", name="curl for Arrow")).to_contain_text("-o a-round-0.arrows")


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(page: Page, run: httpx.Client, width: int, scheme: str) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    for path in ("/ui/", "/ui/runs/a", "/ui/runs/a/downloads"):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
