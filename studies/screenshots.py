"""Takes pictures of every page of the dashboard, light and dark, on a wide and on a narrow screen.

usage: python -m studies.screenshots --url http://localhost:8000 --clean FILE.npy [--run-id cifar10] [--only NAME]
           [--out docs/images]

The run and the file are those of `studies.cifar_run`. Pictures are taken before an audit (``unchecked``, ``draw``),
with a part of its answers (``checking``), and after all of them, which are read from the file. Needs Playwright and
Chromium. Pictures are quantised, so that they are small.
"""

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from mild_trainer.report.report import write_run_report

OUT = Path(__file__).parents[1] / "docs" / "images"
WIDTHS = {"wide": 1440, "narrow": 390}
COLOURS = 256
MAX_HEIGHTS = {"checking": 1600, "report": 1600, "report-unchecked": 1600}


N_DRAWN = 100
"""Number of samples that are drawn and checked."""
N_FIRST = 37
"""Number of answers before the picture ``checking``."""


def answer_audit(client: httpx.Client, run_id: str, clean: NDArray[np.bool_], n: int) -> None:
    """Draw samples, unless they are drawn already, and answer the first `n` of them."""
    indices = (
        client.post(f"/runs/{run_id}/audit/draw", json={"n": N_DRAWN}).raise_for_status().json()["draw"]["indices"][:n]
    )
    client.put(f"/runs/{run_id}/audit", json={"indices": indices, "clean": clean[indices].tolist()}).raise_for_status()


def list_pages(client: httpx.Client, run_id: str) -> dict[str, str]:
    """List the pages by the names of their pictures."""
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
        "audit": f"{here}/audit",
        "compare": f"{here}/compare",
        "downloads": f"{here}/downloads",
    }


def take_picture(browser: Browser, address: str, width: int, dark: bool, max_height: int | None) -> bytes:
    """Take a picture of a page as PNG with few colours, of at most `max_height` pixels from the top."""
    page = browser.new_page(
        viewport={"width": width, "height": 900 if width > 600 else 844},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
    )
    page.goto(address, wait_until="load")
    page.evaluate("for (const picture of document.images) picture.loading = 'eager'")
    page.wait_for_timeout(1500)  # until charts are drawn and pictures are loaded
    shot = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    shot = shot.crop((0, 0, shot.width, min(shot.height, max_height or shot.height)))
    page.close()
    out = io.BytesIO()
    shot.quantize(COLOURS, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--clean", type=Path, required=True, help="Mask of the right labels.")
    parser.add_argument("--run-id", default="cifar10")
    parser.add_argument("--only", action="append")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--chromium", help="Path of Chromium; none: Playwright's own.")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    total = 0

    def take(pictures: Mapping[str, str]) -> None:
        nonlocal total
        for name, path in pictures.items():
            if options.only and name not in options.only:
                continue
            for screen, width in WIDTHS.items():
                for dark in (False, True):
                    picture = take_picture(browser, path, width, dark, MAX_HEIGHTS.get(name))
                    total += len(picture)
                    file = options.out / f"{name}-{screen}-{'dark' if dark else 'light'}.png"
                    file.write_bytes(picture)

    clean = np.load(options.clean)
    report = options.out.resolve() / "report.html"
    with sync_playwright() as playwright, httpx.Client(base_url=options.url, timeout=120) as client:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox", "--disable-gpu"])
        here = f"{options.url}/ui/runs/{options.run_id}"
        write_run_report(options.run_id, options.url, None, report)
        take({"unchecked": here, "draw": f"{here}/audit", "report-unchecked": report.as_uri()})
        answer_audit(client, options.run_id, clean, N_FIRST)
        take({"checking": f"{here}/audit"})
        answer_audit(client, options.run_id, clean, N_DRAWN)
        write_run_report(options.run_id, options.url, None, report)
        pages = {name: options.url + path for name, path in list_pages(client, options.run_id).items()}
        take({**pages, "report": report.as_uri()})
        report.unlink()
        browser.close()
    print(f"{total / 1e6:.1f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
