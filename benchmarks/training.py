"""Speed of a training iteration on alive cells against the dense definition: python benchmarks/training.py

Batch 8 at 64×64, hidden width 128, the loss at three moments of a rollout of 24–48 steps, masks of which about 20 % of
the pixels are alive; the last layer stays zero so that this does not change. Each iteration includes the gradient and
the optimizer's step. Prints a table in Markdown; writes it to benchmarks/results/training.md.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import rnca
from rnca.automaton import RNCA
from rnca.gradients import rollout

BATCH, EDGE, ALIVE = 8, 64, 0.20


def start() -> Tensor:
    """Squares that with their rim cover `ALIVE` of the pixels, (BATCH, 1, EDGE, EDGE)."""
    side = round((ALIVE * EDGE**2) ** 0.5) - 2
    mask = torch.zeros(BATCH, 1, EDGE, EDGE)
    low = (EDGE - side) // 2
    mask[..., low : low + side, low : low + side] = 1
    return mask


def dense(net: RNCA, image: Tensor, state: Tensor, moments: tuple[int, ...]) -> list[Tensor]:
    """The definition's rollout with autograd."""
    features, visible = net.perceive_image(image), []
    for step in range(1, moments[-1] + 1):
        state = net.step(state, features)
        if step in moments:
            visible.append(state[:, :1])
    return visible


def seconds(form: str, iterations: int) -> float:
    """Mean seconds of an iteration, the first one left out."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    net = RNCA().train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.0)
    mask, image = start(), torch.rand(BATCH, 1, EDGE, EDGE)
    times = []
    for _ in range(iterations + 1):
        first, second, third = rng.integers(16, 33), rng.integers(4, 9), rng.integers(4, 9)
        moments = (int(first), int(first + second), int(first + second + third))
        begun = time.perf_counter()
        if form == "dense":
            visible = dense(net, image, net.seed(mask), moments)
        else:
            visible, _ = rollout(net, image, net.seed(mask), moments, precision=getattr(torch, form))
        loss = torch.stack([((v - mask) ** 2).mean() for v in visible]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - begun)
    return float(np.mean(times[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=30, help="timed iterations of each form")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    rows = {form: seconds(form, options.iterations) for form in ("float32", "bfloat16")}
    rows["dense"] = seconds("dense", max(2, options.iterations // 6))
    alive = RNCA().alive(start()).float().mean().item()
    lines = ["| form | s an iteration | min for 1,000 iterations | against dense |", "| --- | --- | --- | --- |"]
    for form, took in rows.items():
        name = "dense definition, autograd" if form == "dense" else f"alive cells, {form} products"
        lines.append(f"| {name} | {took:.3f} | {took * 1000 / 60:.1f} | {rows['dense'] / took:.1f}× |")
    about = f"{alive:.1%} alive, {torch.get_num_threads()} threads; rnca {rnca.__version__}, torch {torch.__version__}."
    text = "\n".join([*lines, "", about])
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "training.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
