"""Repairs of volumes: python benchmarks/volumes.py --data FOLDER

Fill (--model, organ-3d): hippocampus_msd (both labels as one, and each) and the organs of chaos_mr_t2, boxes and balls
cut out until the Dice is about 0.80, as in benchmarks/fill.py; distances in mm.

Bridge (--bridge-model, vessel-3d): medrad_trees, for which an image is made (the tree blurred, of varying contrast, on
a cloudy noisy background; seeded), and vesselnn_2pm with its own images, for evaluation only. Of each tree the fullest
boxes of up to 96 voxels an edge that do not overlap; gaps cut as `rnca damage --kind gaps` does; distances in voxels.

Refiners: none; closing, its radius that with the best Dice on the validation cases of the task; the automaton. The
unperturbed masks are starts too: harm is measured on them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from common.chunks import cut_chunks
from common.refiners import Mask, Refiner, automaton, closing, none
from common.running import Score, case_seed, choose, guarded, measure, options, say
from common.tables import Row, Rows, aggregate, markdown, versions, write_table
from rnca.defects import damage, smooth_noise
from rnca.files import list_images, read_image, read_mask
from rnca.geometry import as_array
from rnca.metrics import evaluate

HIPPOCAMPUS = {"hippocampus": (1, 2), "anterior hippocampus": (1,), "posterior hippocampus": (2,)}
MR_ORGANS = {"MR liver": (1,), "MR right kidney": (2,), "MR left kidney": (3,), "MR spleen": (4,)}
TREES = ("airway", "lungvessel", "brainvessel", "portalvein", "hepaticvein", "hepaticartery")
METRICS = {
    "dice": "Dice",
    "cldice": "clDice",
    "hd95": "HD95",
    "assd": "ASSD",
    "betti0_error": "Δβ0",
    "betti1_error": "Δβ1",
    "betti2_error": "Δβ2",
    "repaired": "repaired %",
    "harmed": "harmed %",
}


@dataclass
class Volume:
    """One object to repair."""

    group: str
    name: str
    image: Any  # SimpleITK, or an array (*S)
    truth: Mask
    spacing: tuple[float, ...] | None = None  # array order; None: voxels


def score(spacing: tuple[float, ...] | None, mask: Mask, truth: Mask, before: Mask) -> Mapping[str, float]:
    """The metrics of the table."""
    found = evaluate(mask, truth, spacing, before)
    return {name: found[name] for name in (*METRICS, "hd", "topology_right") if name in found}


def fill_cases(data: Path, split: str, limit: int | None) -> Iterator[Volume]:
    """Organs of the two sets, one object a label."""
    for source, organs in (("hippocampus_msd", HIPPOCAMPUS), ("chaos_mr_t2", MR_ORGANS)):
        images, labels = (list_images(data / source / split / kind) for kind in ("images", "labels"))
        for name in sorted(images.keys() & labels.keys())[:limit]:
            image = read_image(images[name])
            values = np.array(as_array(read_mask(labels[name])))
            for group, chosen in organs.items():
                truth = np.isin(values, chosen)
                if truth.any():
                    yield Volume(group, name, image, truth, image.GetSpacing()[::-1])


def full_boxes(truth: Mask, edge: int, count: int) -> list[tuple[slice, ...]]:
    """Up to `count` boxes of at most `edge` voxels an axis on a regular grid, fullest first, 500 voxels in each."""
    starts = [range(0, max(n - edge // 2, 1), edge) for n in truth.shape]
    boxes = [
        (slice(k, k + edge), slice(j, j + edge), slice(i, i + edge))
        for k in starts[0]
        for j in starts[1]
        for i in starts[2]
    ]
    filled = sorted(boxes, key=lambda box: -np.count_nonzero(truth[box]))
    return [box for box in filled[:count] if np.count_nonzero(truth[box]) >= 500]


def render(truth: Mask, rng: np.random.Generator) -> NDArray[np.float32]:
    """An image of a tree that has none: blurred, of varying contrast, on a cloudy and noisy background."""
    contrast = np.clip(0.3 + 0.12 * smooth_noise(truth.shape, 24, rng), 0.08, None)
    soft = ndimage.gaussian_filter(truth.astype(np.float32), rng.uniform(0.5, 1.0))
    clouds = 0.06 * smooth_noise(truth.shape, 12, rng) + 0.03 * smooth_noise(truth.shape, 4, rng)
    grain = rng.uniform(0.03, 0.07) * rng.standard_normal(truth.shape, dtype=np.float32)
    return (0.4 + contrast * soft + clouds + grain).astype(np.float32)


def real_trees(data: Path, split: str, limit: int | None, edge: int, count: int, seed: int) -> Iterator[Volume]:
    """Boxes of trees that have no images, with images made."""
    for kind in TREES:
        folder = data / "medrad_trees" / split / "labels" / kind
        for name, path in list(list_images(folder).items() if folder.is_dir() else [])[:limit]:
            whole = np.array(as_array(read_mask(path))) != 0
            for number, box in enumerate(full_boxes(whole, edge, 1 if limit else count)):
                truth = whole[box]
                image = render(truth, np.random.default_rng(case_seed(seed, name, number)))
                yield Volume(f"{kind} (image made)", f"{name}_{number}", image, truth)


def bridge_cases(data: Path, split: str, limit: int | None, edge: int, count: int, seed: int) -> Iterator[Volume]:
    """Boxes of trees."""
    yield from real_trees(data, split, limit, edge, count, seed)
    folder = data / "vesselnn_2pm" / split
    labels = list_images(folder / "labels")
    for name, path in list(list_images(folder / "images").items())[:limit]:
        image = np.array(as_array(read_image(path)))
        whole = np.array(as_array(read_mask(labels[name]))) != 0
        for number, box in enumerate(full_boxes(whole, edge, 1 if limit else 4 * count)):
            yield Volume("two-photon vessels", f"{name}_{number}", np.ascontiguousarray(image[box]), whole[box])


def cases(given: Any, task: str, split: str) -> Iterator[Volume]:
    """All of a task and a split."""
    if task == "fill":
        return fill_cases(given.data, split, given.limit)
    return bridge_cases(given.data, split, given.limit, given.edge, given.boxes, given.seed)


def broken(task: str, volume: Volume, seed: int) -> Mask:
    """The damaged mask."""
    place = case_seed(seed, f"{volume.group}/{volume.name}")
    if task == "fill":
        return cut_chunks(volume.truth, place)
    rng = np.random.default_rng(place)
    return damage(volume.truth, "gaps", rng.uniform(0.3, 0.8), rng)


def pick_closing(given: Any, task: str, rows: Rows) -> Refiner:
    """Closing with the radius that is best on up to a dozen validation cases."""
    held = [
        (f"{v.group}/{v.name}", v.image, broken(task, v, given.seed).astype(np.float32), v.truth)
        for v in list(cases(given, task, "val"))[::3][:12]
    ]
    return choose(rows, f"volumes {task}", [closing(r) for r in (1, 2, 4)], held, partial(score, None))


def run(given: Any, task: str, rows: Rows) -> list[Row]:
    """Every refiner on every start."""
    model = given.model if task == "fill" else given.bridge_model
    refiners = [none(), pick_closing(given, task, rows), automaton(model, given.steps)]
    found = []
    for volume in cases(given, task, given.split):
        scored: Score = partial(score, volume.spacing)
        for start, seed in (("damaged", given.seed), ("unperturbed", 0)):
            mask = broken(task, volume, given.seed) if start == "damaged" else volume.truth
            key = {"task": task, "split": given.split, "group": volume.group, "case": volume.name, "start": start}
            for refiner in refiners:
                parts = {**key, "seed": seed, "edge": given.edge}
                found += measure(rows, parts, refiner, volume.image, mask.astype(np.float32), volume.truth, scored)
        say(f"{task}: {volume.group}, {volume.name}")
    return found


def main() -> None:
    parser = options(__doc__, "organ-3d", [64, 128])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--bridge-model", default="vessel-3d", help="the automaton for trees (default vessel-3d)")
    parser.add_argument("--task", choices=["fill", "bridge", "both"], default="both")
    parser.add_argument("--edge", type=int, default=96, help="of the boxes of a tree, voxels (default 96)")
    parser.add_argument("--boxes", type=int, default=4, help="boxes of a tree (default 4)")
    given = parser.parse_args()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    rows = Rows(given.output / "volumes.rows.jsonl")
    parts = []
    for task in ("fill", "bridge") if given.task == "both" else (given.task,):
        found = run(given, task, rows)
        for heading, start in ((f"{task}, damaged", "damaged"), (f"{task}, unperturbed", "unperturbed")):
            by = ["group", "refiner"]
            table = aggregate((row for row in found if row["start"] == start), by, list(METRICS))
            parts.append((heading.capitalize(), table, markdown(table, by, METRICS)))
    notes = [f"n is objects (boxes of trees); split {given.split}; seed {given.seed}; {versions()}."]
    print(write_table(given.output, "volumes", parts, notes))


if __name__ == "__main__":
    guarded(main)
