"""Table 1: retinal vessels, refiners on base networks: python benchmarks/vessels.py --base OUT [--data-drive FOLDER]

OUT is what benchmarks/segmenters.py wrote: the U-Net's three folds, Swin, which no refiner was trained on, and the
independent predictions. With --data-drive the cases are a user's own DRIVE folder (published layout, its 20 training
images) and the base masks the out-of-fold ones of `segmenters.py --task drive --data FOLDER -o OUT`.

Refiners: none; morphological closing and reconstruction and DenseCRF, their parameters those with the best Dice on the
validation images of the first fold; a conditional U-Net (photograph and starting mask -> mask; the base U-Net's layers,
64×64 patches of the out-of-fold predictions of the train images, soft and binary); the automaton from the soft and from
the binary mask. DenseCRF needs `pip install pydensecrf2`, which is compiled on installation.

Metrics: means over the 64×64 patches of an image that overlap by a quarter, those without any foreground in the base
mask left out (the paper's protocol), and whole-image values; mean ± standard deviation over images (and folds).
"Repaired" is the share of patches with wrong topology that became right, "harmed" that of the right ones with a Dice
above 0.97 that lost their topology or 0.005 of Dice.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.conditional import conditional_unet
from common.data import Picture, read_cases, read_drive
from common.fitting import Recipe
from common.refiners import (
    Refiner,
    automaton,
    closing,
    dense_crf,
    grey_reconstruction,
    none,
    try_refiners,
)
from common.running import choose, guarded, measure, options, say
from common.scores import COUNTS, patch_scores, pool_patches
from common.tables import Row, Rows, aggregate, markdown, versions, write_table
from rnca.metrics import betti_errors, cldice, dice

TASK = "vessels"
BASES = {"unet": "U-Net", "swin": "Swin-UNETR (unseen)", "antillia": "independent U-Net (binary)"}
PATCH = {
    "patch_dice": "Dice, patches",
    "patch_cldice": "clDice, patches",
    "patch_betti0_error": "Δβ0, patches",
    "patch_betti1_error": "Δβ1, patches",
    "patch_repaired": "patches repaired %",
    "patch_harmed": "patches harmed %",
}
WHOLE = {"dice": "Dice", "cldice": "clDice", "betti0_error": "Δβ0", "betti1_error": "Δβ1"}
CONDITIONAL = Recipe(iterations=3000, batch=8, patch=64, grey=False, validate_every=500)


def score(mask: NDArray[np.bool_], truth: NDArray[np.bool_], before: NDArray[np.bool_]) -> Mapping[str, float]:
    """Whole image and patches; no surface distances, which say little about trees."""
    first, second = betti_errors(mask, truth)
    whole = {"dice": dice(mask, truth), "cldice": cldice(mask, truth), "betti0_error": first, "betti1_error": second}
    return whole | patch_scores(mask, truth, before)


def brief(mask: NDArray[np.bool_], truth: NDArray[np.bool_], before: NDArray[np.bool_]) -> Mapping[str, float]:
    """What parameters are chosen by."""
    return {"dice": dice(mask, truth)}


def soft(start: NDArray[np.uint8]) -> NDArray[np.float32]:
    """8 bits to 0..1."""
    return (start / 255).astype(np.float32)


def base_cases(base: Path, split: str, limit: int | None) -> list[Picture]:
    """The cases of segmenters.py's folder, none if it is not there."""
    folder = base / "vessels" / split
    return list(read_cases(folder, limit)) if folder.is_dir() else []


def drive_cases(base: Path, drive: Path, limit: int | None) -> list[Picture]:
    """A user's DRIVE with the out-of-fold predictions of it."""
    cases = []
    for case in read_drive(drive)[:limit]:
        path = base / "drive" / "train" / "predictions" / "unet" / f"{case.name}.png"
        if not path.exists():
            raise SystemExit(
                f"{path} is missing: python benchmarks/segmenters.py --task drive --data {drive} -o {base}"
            )
        cases.append(replace(case, starts={"unet": np.array(Image.open(path))}))
    return cases


def pick_refiners(options: Any, rows: Rows) -> tuple[list[Refiner], list[str]]:
    """All rows of the table, and why some are missing."""
    automata = [automaton(options.model, options.steps, soft=way) for way in (True, False)]
    if options.quick:
        return [none(), *automata], ["Other refiners left out (--quick)."]
    val = [case for case in base_cases(options.base, "val", options.limit) if "unet_fold0" in case.starts]
    held = [(case.name, case.image, soft(case.starts["unet_fold0"]), case.truth) for case in val]
    pick = partial(choose, rows, TASK, cases=held, score=brief)
    grid = [(weight, colour, reach) for weight in (1.0, 3.0) for colour in (3.0, 8.0) for reach in (5.0, 20.0)]
    makers = [
        ("closing", lambda: pick([closing(radius) for radius in (1, 2, 3, 5)])),
        ("reconstruction", lambda: pick([grey_reconstruction(low) for low in (0.3, 0.2, 0.1, 0.05, 0.02)])),
        ("DenseCRF", lambda: pick([dense_crf(*values) for values in grid])),
    ]
    refiners, missing = try_refiners(makers)
    train = base_cases(options.base, "train", None)  # a trial with --limit must not leave a network of few cases
    if any("unet" in case.starts for case in train):
        recipe = replace(CONDITIONAL, iterations=options.conditional_iterations, seed=options.seed)
        refiners.append(conditional_unet(train, "unet", val, "unet_fold0", recipe, options.base))
    else:
        missing.append("The conditional U-Net left out: no out-of-fold predictions of train images.")
    return [none(), *refiners, *automata], missing


def place(model: str) -> tuple[int, str]:
    """Sorts the bases as BASES has them, others behind."""
    kinds = list(BASES)
    kind = model.split("_")[0]
    return kinds.index(kind) if kind in kinds else len(kinds), model


def run(options: Any, rows: Rows, refiners: list[Refiner]) -> list[Row]:
    """Every refiner on every start."""
    drive = options.data_drive
    cases = (
        drive_cases(options.base, drive, options.limit)
        if drive
        else base_cases(options.base, options.split, options.limit)
    )
    found = []
    for case in cases:
        for model, start in sorted(case.starts.items(), key=lambda item: place(item[0])):
            for refiner in refiners:
                parts = {"task": "drive" if drive else TASK, "split": options.split, "case": case.name, "model": model}
                made = measure(rows, parts, refiner, case.image, soft(start), case.truth, score)
                base = BASES.get(model.split("_")[0], model)  # unet_fold0: the network without its fold
                found += [{"base": base, **row} for row in made]
                say(f"{case.name}, {model}, {refiner.name}: Δβ0 {made[0]['patch_betti0_error']:.3f} a patch")
    return found


def main() -> None:
    parser = options(__doc__, "vessel-2d", [64])
    parser.add_argument("--base", type=Path, required=True, help="folder that segmenters.py wrote")
    parser.add_argument("--data-drive", type=Path, help="a DRIVE folder, in place of the test images of --base")
    parser.add_argument("--conditional-iterations", type=int, default=CONDITIONAL.iterations, help="of that U-Net")
    parser.add_argument("--quick", action="store_true", help="no refiner that has to be chosen or trained first")
    given = parser.parse_args()
    name = "vessels-drive" if given.data_drive else "vessels"
    rows = Rows(given.output / f"{name}.rows.jsonl")
    refiners, missing = pick_refiners(given, rows)
    found = run(given, rows, refiners)
    by = ["base", "refiner"]
    tables = []
    for heading, metrics in (("64×64 patches", PATCH), ("Whole images", WHOLE)):
        table = aggregate(found, by, [*metrics, *COUNTS])
        pool_patches(table)
        tables.append((heading, table, markdown(table, by, metrics)))
    split = "DRIVE's training images, out of fold" if given.data_drive else f"split {given.split}"
    notes = [f"n is images × folds; {split}; seed {given.seed}.", *missing, versions("pydensecrf2") + "."]
    print(write_table(given.output, name, tables, notes))


if __name__ == "__main__":
    guarded(main)
