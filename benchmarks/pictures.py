"""The pictures of the documentation: python benchmarks/pictures.py [-o FOLDER]

Runs `rnca view` on the project's own sample data, clicks through it in Chromium, and writes view-start.png,
view-repair.png, view-volume.png and view.gif, a repair step by step. Needs a checkout (it shares the tests' helpers),
the extras `view` and `dev`, and Chromium.
"""

import argparse
import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests")]

SIZE = (1200, 810)
GIF_WIDTH = 840
FRAME = 70
"""Milliseconds between two frames of the animation."""

GREYS, COLOURS = 120, 120
"""Of the animation's palette: taken from all pixels, and from those with a colour, which are few and matter most."""


def main() -> None:
    """Read the command line, start the application, take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "images", help="folder for the pictures")
    given = parser.parse_args()
    from serving import free_port
    from viewing import Page, browser, missing, viewed

    reason = missing()
    if reason:
        sys.exit(f"no pictures: {reason}")
    given.output.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        viewed(port=free_port(), folder=Path(folder)) as address,
        browser(*SIZE) as page,
    ):
        take(Page(page, address), given.output)


def take(view: Any, folder: Path) -> None:
    """Click through the page and write what it looks like."""
    page = view.page
    view.until("s.connected && s.can_save")
    page.evaluate("window.trame.state.set('message_shown', false)")
    settle(page)
    save(shot(page), folder / "view-start.png")
    frames = repair(view)
    save(frames[-2][0], folder / "view-repair.png")
    write_gif(frames, folder / "view.gif")
    view.open_sample("ring-stack")
    settle(page)
    page.click("#refine")
    view.until("s.phase === 'review' && !s.playing")
    settle(page, 2.0)
    save(shot(page), folder / "view-volume.png")
    page.keyboard.press("Escape")


def repair(view: Any) -> list[tuple[Image.Image, int]]:
    """(picture, milliseconds) of a repair: before, its steps, after Accept."""
    page = view.page
    frames = [(shot(page), 900)]
    page.click("#refine")
    view.until("s.phase === 'review' && !s.playing")
    page.locator("#result .v-slider-thumb").focus()
    page.keyboard.press("Home")
    view.until("s.step === 0")
    page.mouse.move(5, SIZE[1] - 5)
    last = int(view.state("last_step"))
    wanted = [*range(24), *range(24, last, 3), last]
    for step in range(last + 1):  # by the slider, so that the pictures do not depend on how fast this computer is
        if step:
            page.keyboard.press("ArrowRight")
            view.until(f"s.step === {step}")
        if step in wanted:
            page.wait_for_timeout(450)
            frames.append((shot(page), FRAME))
    page.evaluate("document.activeElement.blur()")
    settle(page)
    frames[-1] = (shot(page), 1500)
    page.click("#accept")
    view.until("s.phase === 'idle' && s.can_undo")
    settle(page)
    return [*frames, (shot(page), 1800)]


def shot(page: Any) -> Image.Image:
    """The page as it looks now."""
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def settle(page: Any, seconds: float = 1.2) -> None:
    """Wait until the views are drawn at full quality, with no pointer above them."""
    page.mouse.move(5, SIZE[1] - 5)
    page.wait_for_timeout(int(1000 * seconds))


def save(picture: Image.Image, path: Path) -> None:
    """As a PNG."""
    picture.save(path, optimize=True)
    print(f"{path} written, {path.stat().st_size // 1000} kB")


def write_gif(frames: list[tuple[Image.Image, int]], path: Path) -> None:
    """All frames with one palette, so that what stays the same costs nothing."""
    small = [f.resize((GIF_WIDTH, GIF_WIDTH * f.height // f.width), Image.Resampling.LANCZOS) for f, _ in frames]
    palette = palette_of([small[0], small[len(small) // 3], small[-2], small[-1]])
    first, *others = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in small]
    times = [milliseconds for _, milliseconds in frames]
    first.save(path, save_all=True, append_images=others, duration=times, loop=0, optimize=True, disposal=1)
    print(f"{path} written, {path.stat().st_size // 1000} kB, {len(frames)} frames")


def palette_of(frames: list[Image.Image]) -> Image.Image:
    """An image whose palette holds the greys of some frames, and their few colours too."""
    pixels = np.concatenate([np.asarray(frame).reshape(-1, 3) for frame in frames])
    bright = pixels[np.ptp(pixels.astype(int), axis=1) > 70]
    found: list[int] = []
    for part, count in ((pixels, GREYS), (bright, COLOURS)):
        strip = Image.fromarray(part[None]).quantize(count, method=Image.Quantize.MEDIANCUT)
        found += (strip.getpalette() or [])[: 3 * count]
    palette = Image.new("P", (1, 1))
    palette.putpalette(found)
    return palette


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"{time.monotonic() - started:.0f} s")
