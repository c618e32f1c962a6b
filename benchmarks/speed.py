"""Speed of the compiled engine against the dense definition: python benchmarks/speed.py [--quick] [-o FOLDER]

Each row is one process: it makes a vessel-like mask of the wanted fill, times the engine (float32, bfloat16) and then
the definition on the same mask with the same threads. The last layer is zero as before training, so that the mask, and
with it the amount of work, stays what the table says. Where 64 dense steps would take minutes, a few are timed and
scaled (column "dense steps timed"); where they would not fit into memory, only the stream is timed. "GEMM" is the share
of the rate that the machine reaches in the same process on the engine's products, (4096, k·K) × (k·K, hidden).
"""

import argparse
import csv
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

import rnca
from rnca.automaton import RNCA
from rnca.rollout import stream
from rnca.zoo import as_model

STEPS = 64
CASES: dict[str, tuple[tuple[int, ...], float, int]] = {  # shape, fill, dense steps timed
    "256²": ((256, 256), 0.05, 64),
    "512²": ((512, 512), 0.05, 16),
    "1024²": ((1024, 1024), 0.05, 4),
    "64³": ((64, 64, 64), 0.02, 8),
    "128³": ((128, 128, 128), 0.02, 2),
    "200×512×512": ((200, 512, 512), 0.01, 0),
}
SLICES = "100 slices 512²"  # a 2-D model on a volume, a compact mask: what a user watches live
QUICK = ("256²", "512²", "64³", SLICES)


def vessels(shape: tuple[int, ...], fill: float, seed: int = 0) -> NDArray[np.bool_]:
    """Curved tubes, five voxels wide, added until about `fill` of the voxels are set."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, bool)
    size = np.array(shape)
    while mask.mean() < fill:
        axis = np.zeros(shape, bool)
        for _ in range(8):
            place, heading = rng.uniform(0, size), rng.normal(size=len(shape))
            for _ in range(2 * max(shape)):
                heading += 0.15 * rng.normal(size=len(shape))
                heading /= np.linalg.norm(heading)
                place = place + heading
                if (place < 0).any() or (place >= size).any():
                    break
                axis[tuple(place.astype(int))] = True
            if mask.mean() + 20 * axis.mean() > fill:
                break
        mask |= ndimage.binary_dilation(axis, iterations=2)
    return mask


def compact(shape: tuple[int, ...], fill: float) -> NDArray[np.bool_]:
    """A ball with about `fill` of the voxels."""
    mask = np.zeros(shape, bool)
    radius = round((fill * mask.size * 3 / 4 / np.pi) ** (1 / 3))
    box = tuple(slice(n // 2 - radius, n // 2 + radius + 1) for n in shape)
    places = np.ogrid[tuple(slice(-radius, radius + 1) for _ in shape)]
    mask[box] = sum(p.astype(int) ** 2 for p in places) <= radius**2
    return mask


def seconds(work: Callable[[], Any], repeats: int = 1) -> float:
    """The least of some timings."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def gemm_rate(width: int, hidden: int, dtype: torch.dtype) -> float:
    """FLOP/s of the product that the engine makes most."""
    a, b = torch.randn(4096, width).to(dtype), torch.randn(width, hidden).to(dtype)
    return 2 * 4096 * width * hidden / seconds(lambda: a @ b, 50)


def peak_gigabytes() -> float:
    """Largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure_slices() -> dict[str, Any]:
    """The stream of a 2-D model on a volume: how soon the first step comes, and how many follow in a second."""
    shape = (100, 512, 512)
    torch.manual_seed(0)
    mask = compact(shape, 0.01)
    image = np.random.default_rng(0).integers(0, 1000, shape, np.int16)
    row: dict[str, Any] = {"case": SLICES, "fill": float(mask.mean()), "threads": torch.get_num_threads()}
    model = as_model(rnca.compile(RNCA().eval()))
    for _ in stream(image[:2, :64, :64], mask[49:51, 224:288, 224:288], model, 3):
        pass  # TorchScript optimises in its first calls
    started = time.perf_counter()
    times = [time.perf_counter() - started for _ in stream(image, mask.astype(np.uint8), model, STEPS)]
    row["first step s"], row["stream s"], row["peak GB"] = times[0], times[-1], peak_gigabytes()
    row["steps a second"] = (STEPS - 1) / (times[-1] - times[0])
    return row


def measure(name: str) -> dict[str, Any]:
    """One row of the table, in this process."""
    if name == SLICES:
        return measure_slices()
    shape, fill, dense_steps = CASES[name]
    torch.manual_seed(0)
    mask = vessels(shape, fill)
    image = np.random.default_rng(0).integers(0, 1000, shape).astype(np.int16)
    net = RNCA(dims=len(shape)).eval()
    row: dict[str, Any] = {"case": name, "fill": float(mask.mean()), "threads": torch.get_num_threads()}

    started = time.perf_counter()
    for step in stream(image, mask, net, STEPS):
        if step.index == 1:
            row["first step s"] = time.perf_counter() - started
    row["stream s"] = time.perf_counter() - started
    row["peak GB"] = peak_gigabytes()

    pixels = torch.from_numpy(image)[None, None].float() / 1000
    start = torch.from_numpy(mask)[None, None]
    small = max(mask.shape) <= 256
    alive = 0
    for precision in ("float32", "bfloat16") if dense_steps else ():
        fast = rnca.compile(net, bfloat16=precision == "bfloat16")
        with torch.inference_mode():
            alive = int(fast.start(pixels, start).alive.sum())
            fast(pixels, start, 2)  # TorchScript optimises in its first calls
            row[f"{precision} s"] = seconds(partial(fast, pixels, start, STEPS), 5 if small else 2)
        width = 3**net.dims * net.state_channels
        work = 2 * net.hidden_width * (width + net.state_channels) * alive * STEPS
        row[f"{precision} GEMM share"] = (
            work / row[f"{precision} s"] / gemm_rate(width, net.hidden_width, getattr(torch, precision))
        )
    if not dense_steps:  # a minute a rollout: the stream's timing above has to do
        return row
    row["alive"] = alive / mask.size
    row["µs an alive voxel and step"] = row["float32 s"] / alive / STEPS * 1e6
    row["bfloat16 speed-up"] = row["float32 s"] / row["bfloat16 s"]
    row["dense steps timed"] = dense_steps
    with torch.inference_mode():
        features, state = net.perceive_image(pixels), net.seed(start.float())
        net.step(state, features)

        def dense() -> None:
            moved = state
            for _ in range(dense_steps):
                moved = net.step(moved, features)

        row["dense s"] = seconds(dense) / dense_steps * STEPS
    row["ratio"] = row["dense s"] / row["float32 s"]
    row["dense peak GB"] = peak_gigabytes()
    return row


COLUMNS = [
    ("case", "{}"),
    ("fill", "{:.1%}"),
    ("alive", "{:.1%}"),
    ("dense s", "{:.1f}"),
    ("dense steps timed", "{}"),
    ("float32 s", "{:.2f}"),
    ("ratio", "{:.0f}×"),
    ("bfloat16 s", "{:.2f}"),
    ("bfloat16 speed-up", "{:.2f}×"),
    ("µs an alive voxel and step", "{:.2f}"),
    ("float32 GEMM share", "{:.0%}"),
    ("bfloat16 GEMM share", "{:.0%}"),
    ("first step s", "{:.2f}"),
    ("stream s", "{:.1f}"),
    ("steps a second", "{:.1f}"),
    ("peak GB", "{:.2f}"),
    ("dense peak GB", "{:.2f}"),
]


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table, with what it was measured on."""
    lines = [
        "| " + " | ".join(name for name, _ in COLUMNS) + " |",
        "|" + " --- |" * len(COLUMNS),
        *("| " + " | ".join(f.format(row[n]) if n in row else "–" for n, f in COLUMNS) + " |" for row in rows),
    ]
    about = f"{STEPS} steps, {rows[0]['threads']} threads; rnca {rnca.__version__}, torch {torch.__version__},"
    return "\n".join([*lines, "", f"{about} Python {platform.python_version()}, {platform.machine()}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the small cases only")
    parser.add_argument("--case", choices=[*CASES, SLICES], help="one case, as JSON")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case)))
        return
    rows = []
    for name in QUICK if options.quick else [*CASES, SLICES]:
        print(f"{name} …", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, "--case", name]
        rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout))
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "speed.md").write_text(markdown(rows) + "\n", encoding="utf-8")
        with (options.output / "speed.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [n for n, _ in COLUMNS] + ["threads"], restval="")
            writer.writeheader()
            writer.writerows(rows)
    print(markdown(rows))


if __name__ == "__main__":
    main()
