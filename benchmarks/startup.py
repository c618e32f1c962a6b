"""Cold starts, each in a new process: python benchmarks/startup.py

Median seconds of: `import rnca`, the same with all that a repair needs loaded, `rnca --help`, and `rnca refine` of
a 512² image with a mask of about 5 % fill, from the command to the written file.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from speed import vessels


def seconds(command: list[str], runs: int) -> float:
    """Median wall-clock seconds of a process, after one that warms the file cache."""
    times = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    rnca = [sys.executable, "-c", "from rnca.cli import main; main()"]
    with tempfile.TemporaryDirectory() as folder:
        image, mask, out = (str(Path(folder) / name) for name in ("image.png", "mask.png", "out.png"))
        pixels = np.random.default_rng(0).integers(0, 255, (512, 512), np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(pixels), image)
        sitk.WriteImage(sitk.GetImageFromArray(vessels((512, 512), 0.05).astype(np.uint8)), mask)
        commands = {
            "`import rnca`": [sys.executable, "-c", "import rnca"],
            "`import rnca; rnca.refine`": [sys.executable, "-c", "import rnca; rnca.refine, rnca.load_model"],
            "`rnca --help`": [*rnca, "--help"],
            "`rnca refine`, 512²": [*rnca, "refine", image, mask, "-o", out],
        }
        rows = {name: seconds(command, options.runs) for name, command in commands.items()}
    text = "\n".join(["| cold start | median s |", "| --- | --- |", *(f"| {n} | {s:.2f} |" for n, s in rows.items())])
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "startup.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
