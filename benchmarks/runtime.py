"""Table 5: weights and seconds of every refiner: python benchmarks/runtime.py [--model vessel-2d] [--full 1024]

One 64×64 patch and one full image (a generated tree, its mask with gaps), one at a time, mean ± standard deviation over
--repeats runs after one to warm up; on the CPU with the threads that torch takes (OMP_NUM_THREADS), and on the GPU
where there is one. The morphological refiners and DenseCRF (`pip install pydensecrf2`) run on the CPU only. A row is
kept when it is made.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.conditional import untrained_unet
from common.refiners import Refiner, automaton, closing, dense_crf, grey_reconstruction, try_refiners
from common.running import guarded, options, say
from common.tables import Row, Rows, versions, write_table
from rnca.defects import damage
from rnca.phantoms import phantom


def example(edge: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A colour picture of a tree, and its mask with gaps in it."""
    image, truth = phantom("vessels", (edge, edge), 0)
    grey = np.rint(255 * image).astype(np.uint8)
    return np.repeat(grey[..., None], 3, -1), damage(truth, "gaps", 0.5, 0).astype(np.float32)


def seconds(work: Callable[[], Any], repeats: int, device: str) -> tuple[float, float]:
    """Mean and standard deviation of a call."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return float(np.mean(times[1:])), float(np.std(times[1:]))


def refiners(model: str, steps: int, device: str) -> tuple[list[Refiner], list[str]]:
    """Those that run on this device."""
    if device == "cuda":
        return [untrained_unet(3, device), automaton(model, [steps], device=device)], []
    made, missing = try_refiners([("DenseCRF", dense_crf)])
    ours = [automaton(model, [steps], device=device), automaton(model, [steps], device=device, bfloat16=True)]
    ours[1].name += " (bfloat16)"
    return [closing(2), grey_reconstruction(0.2), *made, untrained_unet(3, device), *ours], missing


def cell(row: Row) -> str:
    """Milliseconds with their deviation."""
    return f"{1000 * row['mean']:.3g} ± {1000 * row['std']:.2g}"


def main() -> None:
    parser = options(__doc__, "vessel-2d", [64])
    parser.add_argument("--full", type=int, default=1024, help="edge of the full image (default 1024)")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    rows = Rows(given.output / "runtime.rows.jsonl")
    edges, table, missing = (64, given.full), [], []
    pictures = {edge: example(edge) for edge in edges}
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        chosen, left_out = refiners(given.model, given.steps[-1], device)
        missing += left_out
        for refiner in chosen:
            line: Row = {"device": device, "refiner": refiner.label(refiner.steps[-1]), "weights": refiner.parameters}
            for edge in edges:
                key = {**line, "identity": dict(refiner.identity), "edge": edge, "threads": torch.get_num_threads()}
                row = rows.get(key)
                if row is None:
                    mean, std = seconds(partial(refiner.repair, *pictures[edge]), given.repeats, device)
                    row = rows.add(key, {"mean": mean, "std": std})
                line |= {f"{edge} s": row["mean"], f"{edge} std": row["std"], f"{edge}²: ms": cell(row)}
            say(f"{line['refiner']}, {device}: {line[f'{edges[-1]}²: ms']} ms")
            table.append(line)
    heads = ["device", "refiner", "weights", *(f"{edge}²: ms" for edge in edges)]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    lines += ["| " + " | ".join(str(row[h]) if row[h] is not None else "–" for h in heads) + " |" for row in table]
    about = f"{torch.get_num_threads()} threads, {given.repeats} runs; {versions('pydensecrf2')}."
    print(write_table(Path(given.output), "runtime", [("Runtime", table, "\n".join(lines))], [*missing, about]))


if __name__ == "__main__":
    guarded(main)
