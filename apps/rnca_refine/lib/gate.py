"""Whether a fine-tuned model may take the place of the current one: judged on corrected cases that it never saw.

Each held-out case is repaired twice by each model: from the mask that the clinician corrected (or a synthetically
damaged one where that is missing), and from the right mask itself, which a good model leaves alone.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rnca.cases import Case, Starts
from rnca.defects import generator
from rnca.metrics import betti_errors, dice
from rnca.validation import Trial, repair
from rnca.zoo import Metadata

TOLERANCE = 0.001  # of Dice: less than what one voxel at the border makes
HARM = 0.005  # a right mask that loses more Dice than this, or its topology, was made worse
MOST = 40  # slices or volumes that are looked at


def trials(held: Sequence[Case], seed: int) -> list[Trial]:
    """A damaged and a right start for up to `MOST` of the held-out cases, the same in every run with this seed."""
    rng = generator(seed)
    chosen = [held[int(i)] for i in np.linspace(0, len(held) - 1, min(MOST, len(held)))]
    out = []
    for case in chosen:
        starts = Starts(clean=0.0, given=1.0, soft=0.0)
        out.append(Trial("broken", case.image, starts.draw(case.label, case.starts, rng), case.label))
        out.append(Trial("right", case.image, case.label.astype(np.float32), case.label))
    return out


def judge(net: Any, cases: Sequence[Trial], meta: Metadata) -> dict[str, float]:
    """Mean Dice and Betti error from broken starts, and the share of right masks made worse.

    The net repairs as a model of this metadata would: with its steps, tidied.
    """
    scores: dict[str, list[float]] = {"dice": [], "betti": [], "harmed": []}
    for trial, mask in zip(cases, repair(net, cases, meta.steps, meta.tidying), strict=True):
        if trial.kind == "broken":
            scores["dice"].append(dice(mask, trial.truth))
            scores["betti"].append(float(sum(betti_errors(mask, trial.truth))))
        else:
            lost = 1 - dice(mask, trial.truth) > HARM or any(betti_errors(mask, trial.truth))
            scores["harmed"].append(float(lost))
    return {name: float(np.mean(values)) if values else 0.0 for name, values in scores.items()}


def compare(old: dict[str, float], new: dict[str, float], count: int) -> dict[str, Any]:
    """The gate's report: both scores, whether the new model passed, and if not why."""
    reasons = []
    if new["dice"] < old["dice"] - TOLERANCE:
        reasons.append(f"Dice {new['dice']:.4f} is below {old['dice']:.4f}")
    if new["betti"] > old["betti"] + 1e-9:
        reasons.append(f"Betti error {new['betti']:.3f} is above {old['betti']:.3f}")
    if new["harmed"] > old["harmed"] + 1e-9:
        reasons.append(f"{new['harmed']:.0%} of the right masks are made worse, before it was {old['harmed']:.0%}")
    rounded = [{k: round(v, 5) for k, v in scores.items()} for scores in (old, new)]
    return {"passed": not reasons, "reasons": reasons, "old": rounded[0], "new": rounded[1], "trials": count}
