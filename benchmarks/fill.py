"""Table 4: chunks cut out of organs in slices: python benchmarks/fill.py --data FOLDER [--data-chaos-ct FOLDER]

Liver slices of curvas_ct2d (label 3) and each organ of chaos_mr_t2 on its slices; --data-chaos-ct adds the liver slices
of a user's own CHAOS CT folder (published layout), every fifth with liver. As in Appendix B the organ is brought to the
size that it has in a 128×128 crop (its longer side at most 108 pixels; the rest of the slice stays around it, so that
intensities mean what they mean in a whole slice), rectangles and circles that may overlap are cut out until the Dice is
about 0.80 ± 0.11, three times a slice. Starts too are masks that lack one chunk of 1 to 6 % at the outline, as an
annotator finds it in a mask that is right otherwise, and unperturbed masks: harm is measured on these.

Refiners: none; morphological reconstruction (closing, then filling of holes), its radius that with the best Dice on the
validation slices; the automaton. HD and ASSD in pixels of the resized slice.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.chunks import cut_chunks, cut_one
from common.data import Picture, read_cases, read_chaos_ct
from common.refiners import Refiner, automaton, none, reconstruction
from common.running import case_seed, choose, guarded, measure, options, say
from common.tables import Row, Rows, aggregate, markdown, versions, write_table
from rnca.metrics import evaluate

LIVER_OF_CURVAS = 3
MR_ORGANS = {"MR liver": (1,), "MR kidneys": (2, 3), "MR spleen": (4,)}
SMALLEST = 150  # pixels of an organ after resizing: less is the tip of it
REPEATS = 3
METRICS = {
    "hd": "HD",
    "assd": "ASSD",
    "dice": "Dice",
    "betti0_error": "Δβ0",
    "betti1_error": "Δβ1",
    "repaired": "repaired %",
    "harmed": "harmed %",
}


def resize(case: Picture, organ: NDArray[np.bool_], longest: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The slice and the organ's mask, made smaller until the organ's longer side is `longest` pixels; never larger."""
    from skimage.transform import resize as scale_to

    places = np.argwhere(organ)
    scale = min(1.0, longest / (places.max(0) - places.min(0) + 1).max())
    if scale == 1.0:
        return case.image.astype(np.float32), organ
    shape = tuple(round(n * scale) for n in organ.shape)
    image = scale_to(case.image.astype(np.float32), shape, order=1, anti_aliasing=True, preserve_range=True)
    mask = scale_to(organ.astype(np.float32), shape, order=1, anti_aliasing=True) > 0.5
    return image.astype(np.float32), mask


def slices_of(case: Picture) -> Iterator[Picture]:
    """The slices of a volume along its first axis."""
    for number, (image, labels) in enumerate(zip(case.image, case.labels, strict=True)):
        yield Picture(f"{case.name}_{number}", case.name, image, labels)


def organs(given: Any, split: str) -> Iterator[tuple[str, Picture, NDArray[np.bool_]]]:
    """(group of the table, slice, mask of the organ)."""
    if given.data:
        for case in read_cases(given.data / "curvas_ct2d" / split, given.limit):
            yield "CT liver", case, case.labels == LIVER_OF_CURVAS
        for volume in read_cases(given.data / "chaos_mr_t2" / split, given.limit):
            for case in list(slices_of(volume))[:: 6 if given.limit else 1]:
                for name, labels in MR_ORGANS.items():
                    for label in labels:
                        yield (
                            name,
                            Picture(f"{case.name}_l{label}", case.group, case.image, case.labels),
                            (case.labels == label),
                        )
    if given.data_chaos_ct and split == "test":
        for case in read_chaos_ct(given.data_chaos_ct)[::5][: given.limit]:
            yield "CHAOS CT liver", case, case.truth


def starts(given: Any, split: str) -> Iterator[tuple[Row, NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]]:
    """(key, image, start, truth) of every measurement."""
    for group, case, organ in organs(given, split):
        if not organ.any():
            continue
        image, truth = resize(case, organ, given.edge * 108 // 128)
        if truth.sum() < SMALLEST:
            continue
        key = {"organ": group, "case": case.name, "edge": given.edge, "split": split}
        for number in range(REPEATS):
            damaged = cut_chunks(truth, case_seed(given.seed, case.name, number))
            drawn = {"start": "chunks", "seed": given.seed, "draw": number}
            yield {**key, **drawn}, image, damaged.astype(np.float32), truth
        one = cut_one(truth, case_seed(given.seed, case.name, REPEATS))
        if one is not None:
            yield {**key, "start": "one chunk", "seed": given.seed, "draw": 0}, image, one.astype(np.float32), truth
        yield {**key, "start": "unperturbed", "seed": 0, "draw": 0}, image, truth.astype(np.float32), truth


def export(given: Any, folder: Path) -> int:
    """Write the organs of a split as cases to train on (images/, labels/), in the size that the table uses."""
    import SimpleITK as sitk

    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    count = 0
    for _, case, organ in organs(given, given.split):
        if organ.any():
            image, truth = resize(case, organ, given.edge * 108 // 128)
            if truth.sum() >= SMALLEST:
                sitk.WriteImage(sitk.GetImageFromArray(image), str(folder / "images" / f"{case.name}.mha"))
                sitk.WriteImage(
                    sitk.GetImageFromArray(truth.astype("uint8")), str(folder / "labels" / f"{case.name}.mha")
                )
                count += 1
    return count


def score(mask: NDArray[np.bool_], truth: NDArray[np.bool_], before: NDArray[np.bool_]) -> Mapping[str, float]:
    """The metrics of the table, in pixels."""
    found = evaluate(mask, truth, before=before)
    return {name: found[name] for name in (*METRICS, "cldice", "topology_right")}


def pick_refiners(given: Any, rows: Rows) -> list[Refiner]:
    """The rows of the table."""
    held = (
        (f"{key['case']}/{key['draw']}", image, start, truth)
        for key, image, start, truth in starts(given, "val")
        if key["start"] == "chunks" and key["draw"] == 0
    )
    task = f"fill {given.edge}"
    filled = choose(rows, task, [reconstruction(radius) for radius in (2, 4, 6, 8, 10, 12)], held, score)
    return [none(), filled, automaton(given.model, given.steps)]


def main() -> None:
    parser = options(__doc__, "organ-2d", [64, 128, 256])
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--data-chaos-ct", type=Path, help="a CHAOS CT folder")
    parser.add_argument("--edge", type=int, default=128, help="edge of the crop that the organ would fit (default 128)")
    parser.add_argument("--export", type=Path, help="only write the organs of the split here, as cases to train on")
    given = parser.parse_args()
    if not given.data and not given.data_chaos_ct:
        parser.error("give --data, --data-chaos-ct or both")
    if given.export:
        print(f"{export(given, given.export)} cases written to {given.export}")
        return
    rows = Rows(given.output / "fill.rows.jsonl")
    refiners = pick_refiners(given, rows)
    found = []
    for key, image, start, truth in starts(given, given.split):
        for refiner in refiners:
            found += measure(rows, {"task": "fill", **key}, refiner, image, start, truth, score)
        say(f"{key['case']}, {key['start']} {key['draw']}")
    by = ["organ", "refiner"]
    parts = []
    headings = (("Chunks cut out", "chunks"), ("One small chunk", "one chunk"), ("Unperturbed", "unperturbed"))
    for heading, kind in headings:
        table = aggregate((row for row in found if row["start"] == kind), by, list(METRICS))
        parts.append((heading, table, markdown(table, by, METRICS)))
    notes = [f"n is slices × draws; split {given.split}; seed {given.seed}; {versions()}."]
    print(write_table(given.output, "fill", parts, notes))


if __name__ == "__main__":
    guarded(main)
