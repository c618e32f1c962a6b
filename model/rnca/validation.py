"""Validation of a network on held-out cases: repaired share, harm rate, overlap, topology, from every kind of start."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .automaton import RNCA
from .cases import Case, Starts, choose_box
from .defects import generator
from .engine import compile
from .metrics import evaluate, summarise
from .pictures import Picture, enlarge, grey, overlay, sheet
from .tidy import NOTHING, Tidying, tidy

STARTS: dict[str, dict[str, Any]] = {
    "soft": {"clean": 0.0, "soft": 1.0},
    "binary": {"clean": 0.0, "soft": 0.0},
    "clean": {"clean": 1.0, "soft": 0.0},
}
"""From soft states, from binary ones, and from masks that are right already (harm)."""

SHOWN = (
    "before_dice",
    "dice",
    "before_cldice",
    "cldice",
    "betti0_error",
    "betti1_error",
    "betti2_error",
    "topology_right",
    "repaired",
    "harmed",
)


@dataclass(frozen=True)
class Trial:
    """One case with the mask to start from, the same in every validation of a run."""

    kind: str  # of STARTS
    image: NDArray[np.float32]  # (C, *S)
    start: NDArray[np.float32]  # (*S) in 0..1
    truth: NDArray[np.bool_]  # (*S)


def make_trials(
    cases: Sequence[Case], starts: Starts, seed: int, most: int = 64, edges: tuple[int, int] = (256, 64)
) -> list[Trial]:
    """A trial of each kind for up to `most` of the cases, evenly chosen; seeded.

    Of a case longer than `edges` (an image's, a volume's) a part of that size is taken: validation is often.
    """
    rng = generator(seed)
    chosen = [cases[int(i)] for i in np.linspace(0, len(cases) - 1, min(most, len(cases)))]
    trials = []
    for case in chosen:
        box = choose_box(case, [edges[case.label.ndim - 2]] * case.label.ndim, rng)
        image, label, given = case.image[(slice(None), *box)], case.label[box], [start[box] for start in case.starts]
        for kind, shares in STARTS.items():
            trials.append(Trial(kind, image, replace(starts, **shares).draw(label, given, rng), label))
    return trials


def repair(net: RNCA, trials: Sequence[Trial], steps: int, rules: Tidying = NOTHING) -> list[NDArray[np.bool_]]:
    """The mask of each trial after `steps` updates, on the net's device, tidied."""
    device = next(net.parameters()).device
    fast = compile(net).to(device)
    masks = []
    with torch.inference_mode():
        for trial in trials:
            image = torch.from_numpy(np.ascontiguousarray(trial.image))[None].to(device)
            start = torch.from_numpy(np.ascontiguousarray(trial.start))[None, None].to(device)
            mask = (fast(image, start, steps)[0, 0] > 0.5).cpu().numpy()
            masks.append(tidy(trial.start > 0.5, mask, rules, image=trial.image))
    return masks


def score(trials: Sequence[Trial], masks: Sequence[NDArray[np.bool_]]) -> dict[str, dict[str, float]]:
    """Means of the metrics in `SHOWN` for each kind of start; a metric that no case has is left out."""
    rows: dict[str, list[dict[str, float]]] = {kind: [] for kind in STARTS}
    for trial, mask in zip(trials, masks, strict=True):
        rows[trial.kind].append(evaluate(mask, trial.truth, before=trial.start > 0.5))
    means = {kind: summarise(found) for kind, found in rows.items()}
    return {
        kind: {name: round(m[name][0], 5) for name in SHOWN if name in m and m[name][2]} for kind, m in means.items()
    }


def picture(trials: Sequence[Trial], masks: Sequence[NDArray[np.bool_]], most: int = 12) -> Picture:
    """A sheet, a column a case: the start, what the repair changed, and how it differs from the truth.

    Volumes show their middle slice.
    """
    rows: list[list[Picture]] = [[], [], []]
    broken = [(t, m) for t, m in zip(trials, masks, strict=True) if t.kind != "clean"]
    for trial, mask in broken[:most]:
        middle = (mask.shape[0] // 2,) if mask.ndim == 3 else ()
        base = grey(np.moveaxis(trial.image[(slice(None), *middle)], 0, -1))
        before, after, truth = ((m > 0.5)[middle] for m in (trial.start, mask, trial.truth))
        for row, (old, new) in zip(rows, ((before, before), (before, after), (truth, after)), strict=True):
            row.append(enlarge(overlay(base, old, new), 128))
    return sheet(rows)
