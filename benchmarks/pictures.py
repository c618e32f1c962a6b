"""The pictures of the documentation: python benchmarks/pictures.py [-o FOLDER]

Runs `rnca view` on the project's own sample data, clicks through it in Chromium, and writes view-start.png,
view-repair.png, view-volume.png and view.gif, a repair as it happens. Needs a checkout (it shares the tests' helpers),
the extras `view` and `dev`, and Chromium.
"""

import argparse
import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests")]

SIZE = (1200, 750)
GIF_WIDTH = 840
COLOURS = 96
FRAME = 70
"""Milliseconds between two frames of the animation."""


def shot(page: Any) -> Image.Image:
    """The page as it looks now."""
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def settle(page: Any, seconds: float = 1.2) -> None:
    """Wait until the views are drawn at full quality, with no message and no pointer above them."""
    page.mouse.move(5, SIZE[1] - 5)
    page.wait_for_timeout(int(1000 * seconds))


def save(picture: Image.Image, path: Path) -> None:
    """A PNG, small."""
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path} written, {path.stat().st_size // 1000} kB")


def animated(view: Any) -> list[tuple[Image.Image, int]]:
    """(picture, milliseconds) of a repair: the click, its steps, Accept."""
    page = view.page
    frames = [(shot(page), 900)]
    page.click("#refine")
    page.mouse.move(5, SIZE[1] - 5)
    view.until("s.phase === 'review' && !s.playing")
    last = int(view.state("last_step"))
    page.locator("#result .v-slider-thumb").focus()
    page.keyboard.press("Home")
    for step in [*range(24), *range(24, last, 3), last]:  # as fast as it is drawn, whatever this computer can do
        while view.state("step") < step:
            at = view.state("step")
            page.keyboard.press("ArrowRight")
            view.until(f"s.step > {at}")
        view.until(f"s.step === {step}")
        page.wait_for_timeout(450)
        frames.append((shot(page), FRAME))
    frames[-1] = (frames[-1][0], 1500)
    page.click("#accept")
    view.until("s.phase === 'idle' && s.can_undo")
    settle(page)
    frames.append((shot(page), 1800))
    return frames


def write_gif(frames: list[tuple[Image.Image, int]], path: Path) -> None:
    """All frames with one palette, so that what stays the same costs nothing."""
    small = [f.resize((GIF_WIDTH, GIF_WIDTH * f.height // f.width), Image.Resampling.LANCZOS) for f, _ in frames]
    sheet = Image.new("RGB", (GIF_WIDTH, small[0].height * 3))
    for row, frame in enumerate((small[0], small[len(small) // 2], small[-1])):
        sheet.paste(frame, (0, row * frame.height))
    palette = sheet.quantize(COLOURS, method=Image.Quantize.MEDIANCUT)
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in small]
    indexed[0].save(
        path,
        save_all=True,
        append_images=indexed[1:],
        duration=[t for _, t in frames],
        loop=0,
        optimize=True,
        disposal=1,
    )
    print(f"{path} written, {path.stat().st_size // 1000} kB, {len(frames)} frames")


def main() -> None:
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
    frames = animated(view)
    save(frames[-2][0], folder / "view-repair.png")
    write_gif(frames, folder / "view.gif")
    view.open_sample("ring-stack")
    settle(page)
    page.click("#refine")
    view.until("s.phase === 'review' && !s.playing")
    settle(page, 2.0)
    save(shot(page), folder / "view-volume.png")
    page.keyboard.press("Escape")


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"{time.monotonic() - started:.0f} s")
