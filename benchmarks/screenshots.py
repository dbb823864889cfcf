"""Pictures of every page of the dashboard, light and dark, on a wide and on a narrow screen.

usage: python -m benchmarks.screenshots --url http://localhost:8000 [--run-id cifar10] [--only NAME] [--out docs/images]

The run is that of `benchmarks.cifar_run`. Needs Playwright and Chromium. Pictures are quantised, so that they stay
small.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

OUT = Path(__file__).parents[1] / "docs" / "images"
WIDTHS = {"wide": 1440, "narrow": 390}
COLOURS = 256


def pages(client: httpx.Client, run_id: str) -> dict[str, str]:
    """Pages by the name of their picture."""
    here = f"/ui/runs/{run_id}"
    scores = client.get(f"/runs/{run_id}/scores").raise_for_status().json()
    posterior = [value or 0.0 for value in scores["noisy_posterior"]]
    doubtful = min(range(len(posterior)), key=lambda index: abs(posterior[index] - 0.8))
    return {
        "runs": "/ui/",
        "run": here,
        "map": f"{here}/map",
        "classes": f"{here}/classes",
        "samples": f"{here}/samples",
        "sample": f"{here}/samples/{doubtful}",
        "compare": f"{here}/compare",
        "downloads": f"{here}/downloads",
    }


def taken(browser: Browser, address: str, width: int, dark: bool) -> bytes:
    """A page as PNG, all of it, with few colours."""
    page = browser.new_page(
        viewport={"width": width, "height": 900 if width > 600 else 844},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
    )
    page.goto(address, wait_until="load")
    page.wait_for_timeout(700)  # charts are drawn, and pictures have come
    shot = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    page.close()
    out = io.BytesIO()
    shot.quantize(COLOURS, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--run-id", default="cifar10")
    parser.add_argument("--only", action="append")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--chromium", help="Path of Chromium; none: Playwright's own.")
    given = parser.parse_args(argv)
    given.out.mkdir(parents=True, exist_ok=True)
    with httpx.Client(base_url=given.url, timeout=120) as client:
        addresses = pages(client, given.run_id)
    total = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=given.chromium, args=["--no-sandbox", "--disable-gpu"])
        for name, path in addresses.items():
            if given.only and name not in given.only:
                continue
            for screen, width in WIDTHS.items():
                for dark in (False, True):
                    picture = taken(browser, given.url + path, width, dark)
                    total += len(picture)
                    file = given.out / f"{name}-{screen}-{'dark' if dark else 'light'}.png"
                    file.write_bytes(picture)
        browser.close()
    print(f"{total / 1e6:.1f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
