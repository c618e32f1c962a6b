"""Base segmentation networks and their predictions: python benchmarks/segmenters.py --data FOLDER -o OUT

    --task vessels --network unet      three folds over the patients of fives_amd and chase14
    --task vessels --network swin      one network on all of them, for a base that no refiner was trained on
    --task myocardium --network unet   one network on acdc, all three structures
    --task drive --network unet        three folds over the training images of a DRIVE folder, given as --data

FOLDER holds the data sets, each `SET/SPLIT/{images,labels,predictions/MODEL}/NAME`. Networks, patches (128×128,
random flips, rotation, zoom, blending with grey), loss (Dice), AdamW at a learning rate of 1e-2 and inference (windows
with half overlap, Gaussian weights on the logits, the weights with the best Dice on the validation images) are the
paper's (Appendix C). Not from there: cosine decay of the learning rate, and as few iterations as fit two cores: 1200 of
batch 4 for the U-Net (3 minutes of a core; with 1e-3 the loss after 200 iterations was 0.74 instead of 0.56), and for
Swin 400 of batch 2 at 1e-3, matrix products in bfloat16, the last weights (6 minutes of a core, and 30 s an image).
The U-Net for the heart gets 12000 at 2e-3 (40 minutes of a core): its validation Dice is 0.80 then; after 3000 it was
0.75, after 1200 at 1e-2 0.53.
Swin needs the package einops (`pip install -e .[bench]`).

Vessels: network k of three is trained on the train patients outside fold k. It predicts the train images of fold k (so
no train prediction is by a network that saw its patient) and every val and test image:

    OUT/SET/train/predictions/unet/NAME.png         8 bits, value / 255 is the probability
    OUT/SET/{val,test}/predictions/unet_fold{k}/NAME.png
    OUT/vessels/SPLIT/{images,labels,predictions/MODEL}/SET_NAME.png    links: both sets as one folder of cases
    OUT/networks/NETWORK.pt, .json                  weights, and how they came about

Myocardium: OUT/acdc/{val,test}/predictions/unet/PATIENT_FRAME_zNN.png, label maps as those in FOLDER.

DRIVE: OUT/drive/train/predictions/unet/NAME.png, out of fold, the last weights (no image is left to choose them by).

Run it again to go on: finished networks are kept, an unfinished one continues from its last checkpoint.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from PIL import Image

from common.data import read_drive
from common.fitting import Recipe, Sample, fit, predict
from common.running import guarded
from rnca.files import atomic_path, list_images, read_image, read_mask
from rnca.geometry import as_array, image_channels
from rnca.intensity import normalise

VESSEL_SETS = ("fives_amd", "chase14")
SPLITS = ("train", "val", "test")
FOLDS = 3
PERCENTILES = {"kind": "percentile", "low": 0.5, "high": 99.5}
RECIPES = {
    ("vessels", "unet"): Recipe(iterations=1200, validate_every=300),
    ("vessels", "swin"): Recipe(400, batch=2, learning_rate=1e-3, validate_every=0, bfloat16=True),
    ("drive", "unet"): Recipe(iterations=1200),
    ("myocardium", "unet"): Recipe(12000, learning_rate=2e-3, turn=0.3, grey=False),
}


def patient(name: str) -> str:
    """The patient of a vessel image: CHASE_DB1 has a left and a right eye of each child, Image_01L and Image_01R."""
    return name[:-1] if name.startswith("Image_") else name


def vessel_samples(data: Path, split: str) -> list[Sample]:
    """The photographs of both sets, three channels in 0..1."""
    samples = []
    for source in VESSEL_SETS:
        folder = data / source / split
        labels = list_images(folder / "labels")
        for name, path in sorted(list_images(folder / "images").items()):
            label = as_array(read_mask(labels[name])) != 0
            pixels = normalise(image_channels(read_image(path), label.shape), PERCENTILES)
            samples.append(Sample(name, f"{source}/{patient(name)}", pixels, label.astype(np.uint8), source))
    return samples


def heart_samples(data: Path, split: str) -> list[Sample]:
    """The slices of acdc with any structure, one channel normalised over the volume."""
    samples = []
    folder = data / "acdc" / split
    labels = list_images(folder / "labels")
    for name, path in sorted(list_images(folder / "images").items()):
        label = as_array(read_mask(labels[name])).astype(np.uint8)
        pixels = normalise(image_channels(read_image(path), label.shape), PERCENTILES)
        group = name.split("_", maxsplit=1)[0]
        samples += [
            Sample(f"{name}_z{z:02d}", group, np.ascontiguousarray(pixels[:, z]), label[z], "acdc")
            for z in range(len(label))
            if label[z].any()
        ]
    return samples


def deal_folds(samples: list[Sample], seed: int = 0) -> dict[str, int]:
    """Patient -> fold; the patients of each set are shuffled and dealt in turn."""
    rng = np.random.default_rng(seed)
    folds: dict[str, int] = {}
    for source in sorted({s.source for s in samples}):
        groups = sorted({s.group for s in samples if s.source == source})
        folds |= {group: place % FOLDS for place, group in enumerate(rng.permutation(groups))}
    return folds


def write_png(values: NDArray[np.uint8], path: Path) -> None:
    """An 8-bit grey PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        Image.fromarray(values).save(temporary, format="PNG")


def write_soft(net: torch.nn.Module, samples: list[Sample], out: Path, place: str, recipe: Recipe, device: str) -> None:
    """Probabilities of foreground into OUT/SET/`place`/NAME.png; those that are there are kept."""
    for sample in samples:
        path = out / sample.source / place / f"{sample.name}.png"
        if not path.exists():
            write_png(np.rint(255 * predict(net, sample.image, recipe, device)[0]).astype(np.uint8), path)


def run_vessels(data: Path, out: Path, kind: str, recipe: Recipe, device: str) -> None:
    """Networks, their predictions, and the links."""
    known = {split: vessel_samples(data, split) for split in SPLITS}
    later = {split: known[split] for split in ("val", "test")}
    link_cases(data, out)
    if kind == "unet":
        for _ in run_folds("vessels", kind, known["train"], later, out, recipe, device):
            link_cases(data, out)
        return
    net = fit(f"vessels_{kind}", kind, 1, recipe, known["train"], known["val"], make_folder(out / "networks"), device)
    for split, samples in later.items():
        write_soft(net, samples, out, f"{split}/predictions/{kind}", recipe, device)
    link_cases(data, out)


def run_drive(data: Path, out: Path, kind: str, recipe: Recipe, device: str) -> None:
    """Out-of-fold predictions of a user's own DRIVE."""
    cases = read_drive(data)
    samples = [
        Sample(c.name, c.group, normalise(image_channels(c.image, c.labels.shape), PERCENTILES), c.labels, "drive")
        for c in cases
    ]
    for _ in run_folds("drive", kind, samples, {}, out, recipe, device):
        pass


def run_folds(
    task: str,
    kind: str,
    train: list[Sample],
    later: dict[str, list[Sample]],
    out: Path,
    recipe: Recipe,
    device: str,
) -> Iterator[int]:
    """One network a fold; yields the fold when it has predicted what it did not see, and the later splits."""
    folds = deal_folds(train)
    for fold in range(FOLDS):
        seen = [s for s in train if folds[s.group] != fold]
        name = f"{task}_{kind}_fold{fold}"
        net = fit(name, kind, 1, recipe, seen, later.get("val", []), make_folder(out / "networks"), device)
        unseen = [s for s in train if folds[s.group] == fold]
        write_soft(net, unseen, out, f"train/predictions/{kind}", recipe, device)
        for split, samples in later.items():
            write_soft(net, samples, out, f"{split}/predictions/{kind}_fold{fold}", recipe, device)
        yield fold


def make_folder(path: Path) -> Path:
    """The folder, there now."""
    path.mkdir(parents=True, exist_ok=True)
    return path


def link_cases(data: Path, out: Path) -> None:
    """Links in OUT/vessels to images, labels, and the predictions of FOLDER (antillia) and of OUT, of both sets."""
    for source in VESSEL_SETS:
        for split in SPLITS:
            folder = data / source / split
            given = {f"predictions/{p.name.split('_')[0]}": p for p in (folder / "predictions").glob("*")}
            made = {f"predictions/{p.name}": p for p in (out / source / split / "predictions").glob("*")}
            for place, found in ({"images": folder / "images", "labels": folder / "labels"} | given | made).items():
                target = out / "vessels" / split / place
                target.mkdir(parents=True, exist_ok=True)
                for file in found.glob("*.png"):
                    link = target / f"{source}_{file.name}"
                    if not link.is_symlink():
                        link.symlink_to(file.absolute())


def run_myocardium(data: Path, out: Path, kind: str, recipe: Recipe, device: str) -> None:
    """One network for the three structures; label maps of the val and test slices."""
    known = {split: heart_samples(data, split) for split in SPLITS}
    net = fit(
        f"myocardium_{kind}", kind, 4, recipe, known["train"], known["val"], make_folder(out / "networks"), device
    )
    for split in ("val", "test"):
        for sample in known[split]:
            path = out / "acdc" / split / "predictions" / kind / f"{sample.name}.png"
            if not path.exists():
                write_png(predict(net, sample.image, recipe, device).argmax(0).astype(np.uint8), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--task", choices=["vessels", "myocardium", "drive"], default="vessels")
    parser.add_argument("--network", choices=["unet", "swin"], default="unet")
    parser.add_argument("--iterations", type=int, help="instead of the recipe's")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    if (options.task, options.network) not in RECIPES:
        sys.exit(f"no recipe for {options.network} on {options.task}: use unet.")
    recipe = RECIPES[options.task, options.network]
    if options.iterations:
        recipe = Recipe(**asdict(recipe) | {"iterations": options.iterations})
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    works = {"vessels": run_vessels, "myocardium": run_myocardium, "drive": run_drive}
    works[options.task](options.data, options.output, options.network, recipe, options.device)


if __name__ == "__main__":
    guarded(main)
