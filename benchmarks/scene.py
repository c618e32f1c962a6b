"""The Slicer extension's library in a MRML scene, against a server: python benchmarks/scene.py [--cycles 1000]

Real scene classes (slicer-core, of the extra `view`), without rendering, in a loop that ticks every 15 ms as the
module's timer does. A server of its own on loopback; a 512×512×100 volume, its image already sent, and a compact mask
of about 260,000 voxels; the model is a shipped 2-D one, or --model.

    first change   from the click to the first changed pixel in the preview segment
    steps shown    preview updates a second while steps come in
    blocked        the longest time that the main thread was not free for, clicks and Accept included
    stop           from the click on Stop until the refinement has ended
    cycles         refine and discard many times: memory, nodes, threads and open files before and after
"""

import argparse
import gc
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "slicer_extension" / "RNCARefine")]

PERIOD = 0.015  # of the timer, seconds


class Window:
    """A main thread that does what clicks ask for and ticks: how long it was busy, and when."""

    def __init__(self, logic: Any) -> None:
        self.logic, self.longest, self.shown = logic, 0.0, 0
        self.first: float | None = None
        logic.changed.connect(self._changed)

    def _changed(self) -> None:
        progress = self.logic.progress()
        self.shown += 1
        if self.first is None and progress is not None and progress.added + progress.removed:
            self.first = time.perf_counter()

    def click(self, action: Any) -> None:
        """What a click does, timed as everything in the main thread is."""
        started = time.perf_counter()
        action()
        self.longest = max(self.longest, time.perf_counter() - started)

    def run_while(self, going: Any, seconds: float = 120) -> None:
        """Tick until it is over; a wait that takes longer than asked for counts as blocked too."""
        deadline = time.perf_counter() + seconds
        while going() and time.perf_counter() < deadline:
            started = time.perf_counter()
            self.logic.tick()
            time.sleep(PERIOD)
            self.longest = max(self.longest, time.perf_counter() - started - PERIOD)


def memory() -> float:
    """Resident memory of this process, MiB."""
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**20


def large(address: str, model: str) -> list[tuple[str, str, str]]:
    """The rows for the large volume."""
    from RNCARefineLib.client import Client
    from RNCARefineLib.logic import RUNNING, RefineLogic
    from RNCARefineLib.remote import Remote
    from scenes import add_segmentation, add_volume, new_scene
    from server import tube

    shape = (100, 512, 512)
    truth = tube(shape, 29.0, 60)
    rng = np.random.default_rng(0)
    image = (truth * 800 + rng.normal(100, 40, shape)).astype(np.int16)
    mask = truth & (rng.random(shape) > 0.02)
    scene = new_scene()
    spacing = np.diag([-0.7, -0.7, 2.0, 1.0])
    volume = add_volume(scene, image, spacing)
    segmentation, (segment, _) = add_segmentation(scene, volume, [mask, ~truth & (rng.random(shape) > 0.5)])
    logic = RefineLogic(scene)
    logic.told.connect(lambda text, error: print(text, file=sys.stderr))
    backend = Remote(Client(address))

    def click(steps: int) -> None:
        logic.refine(backend, volume, segmentation, [segment], model=model, steps=steps)

    window = Window(logic)
    click(1)
    window.run_while(lambda: logic.state == RUNNING)  # sends the image
    logic.discard()

    firsts, rates, stops, blocked = [], [], [], []
    for _ in range(3):
        window = Window(logic)
        started = time.perf_counter()
        window.click(lambda: click(64))
        window.run_while(lambda w=window: logic.state == RUNNING and w.first is None)
        assert window.first is not None
        firsts.append(window.first - started)
        shown, since = window.shown, time.perf_counter()
        window.run_while(lambda: logic.state == RUNNING)
        rates.append((window.shown - shown) / (time.perf_counter() - since))
        window.click(logic.accept)
        window.click(logic.undo)
        blocked.append(window.longest)
        window = Window(logic)
        click(500)
        window.run_while(lambda w=window: logic.state == RUNNING and w.first is None)
        started = time.perf_counter()
        window.click(logic.stop)
        window.run_while(lambda: logic.state == RUNNING)
        stops.append(time.perf_counter() - started)
        window.click(logic.discard)
    print(firsts, rates, blocked, stops, file=sys.stderr)
    return [
        ("click to first changed pixel", f"{np.median(firsts):.2f} s", "1.5 s"),
        ("steps shown a second", f"{np.median(rates):.1f}", "10"),
        ("main thread blocked at most", f"{1000 * max(blocked):.0f} ms", "100 ms"),
        ("Stop takes effect in", f"{1000 * max(stops):.0f} ms", "200 ms"),
    ]


def cycles(address: str, model: str, count: int) -> list[tuple[str, str, str]]:
    """Refine and discard, `count` times."""
    from rnca.defects import damage
    from rnca.phantoms import phantom
    from RNCARefineLib.client import Client
    from RNCARefineLib.logic import RUNNING, RefineLogic
    from RNCARefineLib.remote import Remote
    from scenes import add_segmentation, add_volume, new_scene

    image, truth = phantom("rings", (64, 64), 0)
    scene = new_scene()
    volume = add_volume(scene, (image[None] * 1000).astype(np.int16))
    segmentation, (segment,) = add_segmentation(scene, volume, [damage(truth, "gaps", 0.5, 0)[None]])
    logic, backend = RefineLogic(scene), Remote(Client(address))
    found = []
    for number in range(count):
        logic.refine(backend, volume, segmentation, [segment], model=model, steps=6)
        window = Window(logic)
        window.run_while(lambda: logic.state == RUNNING)
        logic.changed.disconnect(window._changed)
        logic.discard()
        if number in (count // 10, count - 1):
            gc.collect()
            time.sleep(0.5)
            files = sum(1 for _ in Path("/proc/self/fd").glob("*"))
            found.append((memory(), scene.GetNumberOfNodes(), threading.active_count(), files))
    backend.close()
    (mib, nodes, threads, files), (mib_end, nodes_end, threads_end, files_end) = found
    return [
        (f"memory, cycle {count // 10} → {count}", f"{mib:.0f} → {mib_end:.0f} MiB", "flat"),
        (
            "nodes, threads, open files",
            f"{nodes_end - nodes:+d}, {threads_end - threads:+d}, {files_end - files:+d}",
            "+0",
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vessel-2d", help="shipped model (default vessel-2d)")
    parser.add_argument("--only-cycles", action="store_true", help="leave the large volume out")
    parser.add_argument("--cycles", type=int, default=1000, help="refine/discard cycles (default 1000; 0 none)")
    parser.add_argument("-o", "--output", type=Path, help="write the table as Markdown")
    given = parser.parse_args()
    from serving import make_studies, running

    with tempfile.TemporaryDirectory() as folder:
        studies = Path(folder) / "studies"
        studies.mkdir()
        make_studies(studies, 1)
        with running(studies, plain=False) as server:
            rows = [] if given.only_cycles else large(server.url, given.model)
            if given.cycles:
                rows += cycles(server.url, given.model, given.cycles)
    lines = [f"| {what} | {measured} | {target} |" for what, measured, target in rows]
    table = "\n".join(["| what | measured | target |", "| --- | --- | --- |", *lines])
    print(table)
    if given.output:
        given.output.write_text(table + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
