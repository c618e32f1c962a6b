"""The shipped ring-2d on its held-out rings: python benchmarks/ring_model.py --data FOLDER [--model NAME|PATH]

FOLDER is the rNCA authors' ring data (images/, labels/, states/). The cases are those that the model's training run
kept for validation (the split is seeded and stored in its metadata). Starting states: as given (soft gaps), binarised
at 0.5, and the right mask itself. Prints a table in Markdown and writes it to benchmarks/results/ring_model.md.
"""

import argparse
from pathlib import Path

import numpy as np

import rnca
from common.running import guarded
from rnca.cases import load_cases, split_cases
from rnca.metrics import cldice, dice
from rnca.topology import betti_numbers
from rnca.validation import Trial, repair


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="ring-2d")
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 64, 128, 256])
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    model = rnca.load_model(options.model)
    run = model.metadata.training
    cases = load_cases(options.data, dims=2, intensity=model.metadata.intensity)
    _, held = split_cases(cases, run["data"]["validation"], run["settings"]["seed"])
    starts = {
        "soft": [case.starts[0] for case in held],
        "binary": [(case.starts[0] > 0.5).astype(np.float32) for case in held],
        "already right": [case.label.astype(np.float32) for case in held],
    }
    lines = [
        "| start | steps | topology right | Dice mean ± std | Dice min | clDice mean |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, states in starts.items():
        trials = [Trial(name, case.image, state, case.label) for case, state in zip(held, states, strict=True)]
        for steps in options.steps:
            masks = repair(model.definition, trials, steps, model.metadata.tidying)
            pairs = [(mask, trial.truth) for mask, trial in zip(masks, trials, strict=True)]
            right = np.mean([betti_numbers(mask) == betti_numbers(truth) for mask, truth in pairs])
            overlap = np.array([dice(*pair) for pair in pairs])
            centre = np.mean([cldice(*pair) for pair in pairs])
            lines.append(
                f"| {name} | {steps} | {right:.1%} | {overlap.mean():.4f} ± {overlap.std():.4f} | {overlap.min():.4f}"
                f" | {centre:.4f} |"
            )
    meta = model.metadata
    lines += ["", f"{len(held)} held-out cases; {meta.name} {meta.version}, weights {meta.weights_sha256[:12]}…"]
    text = "\n".join(lines)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "ring_model.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    guarded(main)
