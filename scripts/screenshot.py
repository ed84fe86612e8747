#!/usr/bin/env python3
"""Write the screenshot of a report for the README: `screenshot.py report.html`.

Writes panic_tda/report/screenshot.webp, below 200 kB for the report of the sample (scripts/demo.sh). Needs
Chromium, Playwright and Pillow.
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

TARGET = Path(__file__).parent.parent / "panic_tda" / "report" / "screenshot.webp"
WIDTH, HEIGHT, MARGIN = 1240, 1000, 32
MOST_BYTES = 200_000


def photograph(page: Path, sections: list[str]) -> list[Image.Image]:
    """Return screenshots of sections of a page."""
    with sync_playwright() as driver:
        program = shutil.which("chromium") or shutil.which("chromium-headless-shell")
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        opened.goto(page.resolve().as_uri())
        opened.wait_for_selector("html[data-ready]", state="attached")
        pictures = []
        for name in sections:
            # The navigation would cover the section.
            opened.evaluate("document.querySelector('nav').style.display = 'none'")
            opened.locator(f"#{name}").scroll_into_view_if_needed()
            opened.wait_for_timeout(400)
            pictures.append(Image.open(io.BytesIO(opened.locator(f"#{name}").screenshot())))
        browser.close()
    return pictures


def main() -> None:
    """Write the screenshot of the report named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=TARGET)
    args = parser.parse_args()
    pictures = photograph(args.page, ["head", "map", "runs"])
    size = (pictures[0].width + 2 * MARGIN, sum(picture.height for picture in pictures) + MARGIN)
    picture_sheet = Image.new("RGB", size, "white")
    top = 0
    for picture in pictures:
        picture_sheet.paste(picture, (MARGIN, top))
        top += picture.height
    for quality in (88, 80, 70, 60, 50, 40):
        picture_sheet.save(args.output, quality=quality, method=6)
        if args.output.stat().st_size <= MOST_BYTES:
            break
    print(
        f"{args.output}: {picture_sheet.width} x {picture_sheet.height}, {args.output.stat().st_size} bytes"
    )


if __name__ == "__main__":
    main()
