"""The page of `rnca view` for tests and pictures: the application as a program of its own, and Chromium to look at it.

Chromium is the system's, driven by Playwright. Where either is missing, or no OpenGL, there is nothing to look at.
"""

import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).parents[1]
GREEN, RED = "green", "red"

RENDERS = """
import vtk
vtk.vtkObject.GlobalWarningDisplayOff()
window = vtk.vtkRenderWindow()
window.SetOffScreenRendering(1)
window.AddRenderer(vtk.vtkRenderer())
window.Render()
assert window.SupportsOpenGL()
"""


def missing() -> str | None:
    """Why the page cannot be shown here; None if it can."""
    for name in ("playwright", "trame_slicer", "slicer", "vtk"):
        if find_spec(name) is None:
            return f"needs {name} (the extras `view` and `dev`)"
    if chromium() is None:
        return "needs Chromium"
    done = subprocess.run([sys.executable, "-c", RENDERS], capture_output=True, timeout=120)
    return "needs OpenGL, in software at least (Debian: libegl1 libgl1-mesa-dri)" if done.returncode else None


def chromium() -> str | None:
    """The system's."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def viewed(*words: str, port: int, folder: Path) -> Iterator[str]:
    """Run `rnca view` with these words; gives the address that it prints."""
    log = folder / f"view-{port}.log"
    env = {k: v for k, v in os.environ.items() if not k.startswith("RNCA_")}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", "from rnca.cli import main; main()", "view", *words]
            + ["--no-open", "--port", str(port)],
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=env | {"PYTHONPATH": str(ROOT / "model"), "OMP_NUM_THREADS": "1"},
        )
    try:
        yield _address(process, log)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: "subprocess.Popen[bytes]", log: Path, seconds: float = 120) -> str:
    deadline = time.monotonic() + seconds
    while True:
        text = log.read_text(encoding="utf-8", errors="replace")
        if "?key=" in text:
            return next(word for word in text.split() if "?key=" in word)
        assert process.poll() is None and time.monotonic() < deadline, text
        time.sleep(0.1)


@contextmanager
def browser(width: int = 1200, height: int = 800) -> Iterator[Any]:
    """A page of Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            yield running.new_page(viewport={"width": width, "height": height})
        finally:
            running.close()


class Page:
    """What a user sees and does.

    Args:
        page: of Playwright.
        address: that the command printed.
    """

    def __init__(self, page: Any, address: str) -> None:
        self.page = page
        page.goto(address)
        page.wait_for_selector("#refine, #accept")
        page.wait_for_function("document.querySelectorAll('.views img[src^=blob]').length > 0")

    def state(self, name: str) -> Any:
        """A value of the page's state."""
        return self.page.evaluate(f"window.trame.state.get('{name}')")

    def until(self, condition: str) -> None:
        """Wait until a condition on the state holds, written as JavaScript on `s`."""
        from playwright.sync_api import TimeoutError as TookTooLong

        try:
            self.page.wait_for_function(f"(() => {{ const s = window.trame.state.state; return {condition}; }})()")
        except TookTooLong:
            state = self.page.evaluate("window.trame.state.state")
            known = {name: value for name, value in state.items() if "trame__" not in name}
            raise AssertionError(f"never {condition}: {known}") from None

    def open_sample(self, name: str) -> None:
        """Choose a sample case in the panel."""
        self.page.click(".pick-sample .v-field")
        self.page.click(f".v-list-item:has-text('{name}')")
        self.until(f"s.sample === '{name}' && s.can_save")

    def choose_model(self, name: str) -> None:
        """Choose a model in the panel."""
        self.until(f"s.models.some((m) => m.value === '{name}')")
        if self.state("model") == name:
            return
        self.page.click(".pick-model .v-field")
        self.page.click(f".v-list-item:has-text('{name}')")
        self.until(f"s.model === '{name}' && s.model_steps")

    def connect(self, address: str) -> None:
        """Choose a server, and connect, or hear why not."""
        self.page.click("#place-server")
        self.page.fill("#address", address)
        self.page.evaluate("window.trame.state.set('message', '')")
        self.page.click("#connect")
        self.until("s.message && !s.connecting")

    def upload(self, kind: str, *files: Path) -> None:
        """Open files of this computer as an image or a mask."""
        self.page.set_input_files(f"#open-{kind}", [str(file) for file in files])

    def saved(self, folder: Path) -> Path:
        """Save the mask; its file."""
        with self.page.expect_download() as download:
            self.page.click("#save")
        path = folder / str(download.value.suggested_filename)
        download.value.save_as(path)
        return path

    def picture(self) -> NDArray[np.uint8]:
        """The views as they look, (rows, columns, 3)."""
        shot = self.page.locator(".views").screenshot()
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))

    def coloured(self, colour: str) -> int:
        """Pixels of the views that are clearly green or red, the legend left out."""
        red, green, blue = (self.picture()[:700].astype(int)[..., n] for n in range(3))
        first, other = (green, red) if colour == GREEN else (red, green)
        return int(np.count_nonzero((first > other + 40) & (first > blue + 25)))

    def shows(self, colour: str, least: int = 1) -> bool:
        """Whether the views come to show as many pixels of a colour; `least` 0 is: none at all."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            found = self.coloured(colour)
            if found >= least if least else not found:
                return True
            self.page.wait_for_timeout(100)
        return False
