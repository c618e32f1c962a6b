"""Tables 2 and 3: the ring of the myocardium: python benchmarks/rings.py --data FOLDER --base OUT [--data-acdc FOLDER]

Every test slice of acdc with myocardium (label 2). Starting masks:

    FlexUNet    the independent predictions in FOLDER/acdc/test/predictions/flexunet_2d
    U-Net       those of benchmarks/segmenters.py --task myocardium in OUT/acdc/test/predictions/unet
    U-Net, largest piece    of these the largest piece of each slice, as most pipelines keep it
    damaged     the truth damaged as in Appendix D: one to three of thinning, thickening, opening, wedges cut out and
                islands, at severities of 0.6–1, and every seventh or so left as it is; one draw a slice
    right       the truth itself

Subsets: all slices, and those whose ring is broken (the truth is one ring, β0 = β1 = 1, and the start is not). With
--data-acdc a user's own ACDC folder in its published layout is taken instead, for the last two. Distances in pixels.
"Harmed" is of the starts with right topology and a Dice above 0.97 the share that lost one or the other; "broken anew"
is of all starts with right topology the share that lost it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms.utils import get_largest_connected_component_mask

from common.data import Picture, read_acdc, read_cases, read_stack
from common.refiners import Mask, Refiner, Soft, automaton, closing, none
from common.running import case_seed, choose, guarded, measure, options, say
from common.tables import Row, Rows, aggregate, markdown, versions, write_table
from rnca.defects import damage
from rnca.metrics import evaluate
from rnca.topology import betti_numbers

MYOCARDIUM = 2
RING = (1, 1)
KINDS = ("thin", "thick", "open", "wedges", "islands")
SEVERITY = (0.6, 1.0)
UNPERTURBED = 0.15
METRICS = {
    "dice": "Dice",
    "assd": "ASSD",
    "hd": "HD",
    "betti0_error": "Δβ0",
    "betti1_error": "Δβ1",
    "repaired": "repaired %",
    "harmed": "harmed %",
    "broken_anew": "broken anew %",
}


def score(mask: Mask, truth: Mask, before: Mask) -> Mapping[str, float]:
    """The metrics of the table, in pixels."""
    found = evaluate(mask, truth, before=before)
    was_right = found["before_topology_right"] == 1
    chosen = {name: found[name] for name in (*METRICS, "cldice", "topology_right") if name in found}
    broken = betti_numbers(truth) == RING and not was_right
    return chosen | {
        "broken_anew": 1 - found["topology_right"] if was_right else nan,
        "ring_broken": float(broken),
    }


def damage_ring(truth: Mask, rng: np.random.Generator) -> Mask:
    """A draw of the damage that the docstring of this file describes."""
    if rng.random() < UNPERTURBED:
        return truth
    out = truth
    for kind in sorted(rng.choice(len(KINDS), rng.integers(1, 4), replace=False)):
        if out.any():
            out = damage(out, KINDS[kind], rng.uniform(*SEVERITY), rng)
    return out


def in_volume(refiner: Refiner, slice_number: int) -> Refiner:
    """The same refiner on one slice of a volume whose intensities it normalises as a whole."""

    def repair(image: Any, start: Soft) -> dict[int, Mask]:
        stack = np.zeros(image.shape, np.float32)
        stack[slice_number] = start
        return {step: found[slice_number] for step, found in refiner.repair(image, stack).items()}

    return replace(refiner, repair=repair)


def read_volumes(given: Any, split: str) -> list[Picture]:
    """The frames, of the user's ACDC or of the project's data."""
    if given.data_acdc:
        return read_acdc(given.data_acdc)[: given.limit]
    return list(read_cases(given.data / "acdc" / split, given.limit))


def starts(given: Any, volume: Picture, split: str) -> Iterator[tuple[str, int, Mask]]:
    """(base, slice, starting mask) for the slices with myocardium."""
    truth = volume.labels == MYOCARDIUM
    if not given.data_acdc:
        predictions = {"FlexUNet (independent)": given.data / "acdc" / split / "predictions" / "flexunet_2d"}
        if given.base:
            predictions["U-Net"] = given.base / "acdc" / split / "predictions" / "unet"
        for base, folder in predictions.items():
            for number, labels in read_stack(folder, volume.name, volume.labels).items():
                if truth[number].any():
                    yield base, number, labels == MYOCARDIUM
                    if base == "U-Net":
                        yield "U-Net, largest piece", number, largest_piece(labels == MYOCARDIUM)
    for number in np.flatnonzero(truth.any((1, 2))).tolist():
        rng = np.random.default_rng(case_seed(given.seed, volume.name, number))
        yield "damaged", number, damage_ring(truth[number], rng)
        yield "right", number, truth[number]


def largest_piece(mask: Mask) -> Mask:
    """The largest 8-connected piece of a slice."""
    return np.asarray(get_largest_connected_component_mask(mask[None])[0]) > 0


def pick_closing(given: Any, rows: Rows) -> Refiner:
    """Closing with the radius that is best on the damaged validation slices."""
    if given.data_acdc:
        return closing(3)
    held = [
        (f"{volume.name}_{number}", volume.image[number], start.astype(np.float32), volume.labels[number] == MYOCARDIUM)
        for volume in read_volumes(given, "val")
        for base, number, start in starts(given, volume, "val")
        if base == "damaged"
    ]
    return choose(rows, "rings", [closing(radius) for radius in (1, 2, 3, 5, 8)], held, score)


def main() -> None:
    parser = options(__doc__, "myocardium-2d", [64, 128, 256])
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--base", type=Path, help="folder that segmenters.py wrote")
    parser.add_argument("--data-acdc", type=Path, help="an ACDC folder, in place of --data")
    given = parser.parse_args()
    if not given.data and not given.data_acdc:
        parser.error("give --data or --data-acdc")
    name = "rings-acdc" if given.data_acdc else "rings"
    rows = Rows(given.output / f"{name}.rows.jsonl")
    closed = pick_closing(given, rows)
    net = automaton(given.model, given.steps)
    found: list[Row] = []
    for volume in read_volumes(given, given.split):
        for base, number, start in starts(given, volume, given.split):
            key = {"task": name, "base": base, "case": f"{volume.name}_{number}", "split": given.split}
            key["seed"] = given.seed if base == "damaged" else 0
            soft, truth = start.astype(np.float32), volume.labels[number] == MYOCARDIUM
            for refiner in (none(), closed):
                found += measure(rows, key, refiner, volume.image[number], soft, truth, score)
            found += measure(rows, key, in_volume(net, number), volume.image, soft, truth, score)
        say(volume.name)
    by = ["base", "refiner"]
    parts = []
    for heading, rings in (("All slices", found), ("Broken rings", [row for row in found if row["ring_broken"]])):
        table = aggregate(rings, by, list(METRICS))
        parts.append((heading, table, markdown(table, by, METRICS)))
    notes = [f"n is slices; split {given.split}; seed {given.seed}; {versions()}."]
    print(write_table(given.output, name, parts, notes))


if __name__ == "__main__":
    guarded(main)
