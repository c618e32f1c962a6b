"""Base segmentation networks and their predictions: python benchmarks/segmenters.py --data FOLDER -o OUT

    --task vessels --network unet      three folds over the patients of fives_amd and chase14
    --task vessels --network swin      one network on all of them, for a base that no refiner was trained on
    --task myocardium --network unet   one network on acdc, all three structures

FOLDER holds the data sets, each `SET/SPLIT/{images,labels,predictions/MODEL}/NAME`. Networks, patches (128×128, random
flips, rotation, zoom, blending with grey), loss (Dice) and inference (windows with half overlap, Gaussian weights on the
logits, the weights with the best Dice on the validation images) are the paper's (Appendix C). Different from it: a
learning rate of 1e-3 with cosine decay in place of 1e-2, and 2000 iterations of batch 4 (the U-Net: about 6 minutes on
one core), 400 of batch 2 (Swin: see the log), so that all of it fits two cores.

Vessels: network k of three is trained on the train patients outside fold k. It predicts the train images of fold k (so
no train prediction is by a network that saw its patient) and every val and test image:

    OUT/SET/train/predictions/unet/NAME.png         8 bits, value / 255 is the probability
    OUT/SET/{val,test}/predictions/unet_fold{k}/NAME.png
    OUT/vessels/SPLIT/{images,labels,predictions/MODEL}/SET_NAME.png    links: both sets as one folder of cases
    OUT/networks/NETWORK.pt, .json                  weights, and how they came about

Myocardium: OUT/acdc/{val,test}/predictions/unet/PATIENT_FRAME_zNN.png, label maps as those in FOLDER.

Run it again to go on: finished networks are kept, an unfinished one continues from its last checkpoint.
"""

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from common.fitting import CHECKPOINT_SECONDS, Fit, Recipe, Sample, foreground_dice, predict
from common.networks import build, parameters
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from rnca.bars import progress_bar
from rnca.files import atomic_path, list_images, read_image, read_mask, write_json
from rnca.geometry import as_array, image_channels
from rnca.intensity import normalise

VESSEL_SETS = ("fives_amd", "chase14")
SPLITS = ("train", "val", "test")
FOLDS = 3
PERCENTILES = {"kind": "percentile", "low": 0.5, "high": 99.5}
RECIPES = {
    ("vessels", "unet"): Recipe(iterations=2000),
    ("vessels", "swin"): Recipe(iterations=400, batch=2, validate_every=100),
    ("myocardium", "unet"): Recipe(iterations=2000, turn=0.3, grey=False),
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
    folds = {}
    for source in sorted({s.source for s in samples}):
        groups = sorted({s.group for s in samples if s.source == source})
        folds |= {group: place % FOLDS for place, group in enumerate(rng.permutation(groups))}
    return folds


def fit(
    name: str, kind: str, outputs: int, recipe: Recipe, train: list[Sample], val: list[Sample], out: Path, device: str
) -> torch.nn.Module:
    """The network of this name, trained as far as it is not yet."""
    finished, partly = out / f"{name}.pt", out / f"{name}.partly.pt"
    torch.manual_seed(recipe.seed)
    net = build(kind, train[0].image.shape[0], outputs)
    if finished.exists():
        net.load_state_dict(torch.load(finished, map_location="cpu", weights_only=True))
        return net.to(device)
    run = Fit(net, outputs, recipe, device)
    if partly.exists():
        run.resume(partly)
    _train(run, name, train, val, partly)
    with atomic_path(finished) as temporary:
        torch.save(run.best, temporary)
    about = {
        "network": kind,
        "parameters": parameters(net),
        "recipe": asdict(recipe),
        "patients": sorted({s.group for s in train}),
        "seconds": round(run.seconds, 1),
        "threads": torch.get_num_threads(),
        "validation_dice": round(run.best_dice, 4),
        "chosen_iteration": run.best_at,
        "torch": torch.__version__,
    }
    write_json(out / f"{name}.json", about)
    partly.unlink(missing_ok=True)
    net.load_state_dict(run.best)
    return net


def _train(run: Fit, name: str, train: list[Sample], val: list[Sample], partly: Path) -> None:
    recipe, out = run.recipe, Console(stderr=True)
    losses: list[float] = []
    saved = run.seconds
    with progress_bar(out, name, recipe.iterations) as advance:
        while run.iteration < recipe.iterations:
            losses.append(run.step(train))
            advance(run.iteration, None, f"{name}: loss {np.mean(losses[-50:]):.3f}")
            at_end = run.iteration == recipe.iterations
            if run.iteration % recipe.validate_every == 0 or at_end:
                dice = foreground_dice(run.net, val, recipe.patch, run.device)
                run.keep_best(dice)
                out.print(
                    f"{name}: iteration {run.iteration}, loss {np.mean(losses[-100:]):.3f}, validation Dice {dice:.4f},"
                    f" {run.seconds / run.iteration:.3f} s an iteration"
                )
            if run.seconds - saved > CHECKPOINT_SECONDS or at_end:
                run.save(partly)
                saved = run.seconds


def write_png(values: NDArray[np.uint8], path: Path) -> None:
    """An 8-bit grey PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        Image.fromarray(values).save(temporary, format="PNG")


def write_soft(net: torch.nn.Module, samples: list[Sample], out: Path, place: str, patch: int, device: str) -> None:
    """Probabilities of foreground into OUT/SET/`place`/NAME.png; those that are there are kept."""
    for sample in samples:
        path = out / sample.source / place / f"{sample.name}.png"
        if not path.exists():
            write_png(np.rint(255 * predict(net, sample.image, patch, device)[0]).astype(np.uint8), path)


def run_vessels(data: Path, out: Path, kind: str, recipe: Recipe, device: str) -> None:
    """Networks, their predictions, and the links."""
    known = {split: vessel_samples(data, split) for split in SPLITS}
    folds = deal_folds(known["train"])
    networks = out / "networks"
    networks.mkdir(parents=True, exist_ok=True)
    link_cases(data, out)
    for fold in range(FOLDS) if kind == "unet" else [None]:
        seen = [s for s in known["train"] if folds[s.group] != fold]
        name = kind if fold is None else f"{kind}_fold{fold}"
        net = fit(f"vessels_{name}", kind, 1, recipe, seen, known["val"], networks, device)
        if fold is not None:
            unseen = [s for s in known["train"] if folds[s.group] == fold]
            write_soft(net, unseen, out, f"train/predictions/{kind}", recipe.patch, device)
        for split in ("val", "test"):
            write_soft(net, known[split], out, f"{split}/predictions/{name}", recipe.patch, device)
        link_cases(data, out)


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
                        link.symlink_to(Path(os.path.abspath(file)))


def run_myocardium(data: Path, out: Path, kind: str, recipe: Recipe, device: str) -> None:
    """One network for the three structures; label maps of the val and test slices."""
    known = {split: heart_samples(data, split) for split in SPLITS}
    networks = out / "networks"
    networks.mkdir(parents=True, exist_ok=True)
    net = fit(f"myocardium_{kind}", kind, 4, recipe, known["train"], known["val"], networks, device)
    for split in ("val", "test"):
        for sample in known[split]:
            path = out / "acdc" / split / "predictions" / kind / f"{sample.name}.png"
            if not path.exists():
                write_png(predict(net, sample.image, recipe.patch, device).argmax(0).astype(np.uint8), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--task", choices=["vessels", "myocardium"], default="vessels")
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
    work = run_vessels if options.task == "vessels" else run_myocardium
    work(options.data, options.output, options.network, recipe, options.device)


if __name__ == "__main__":
    main()
