"""How the shipped models are made: python benchmarks/models.py pack|train|export ...

    pack --data FOLDER --base OUT -o CASES     the training and validation cases, normalised, one file a source
    train NAME --cases CASES -o RUN            one model from them (see RECIPES); a GPU is used where there is one
    export NAME RUN --cases CASES -o FOLDER    the archive, its metadata, validation figures and card

FOLDER holds the data sets, OUT is what benchmarks/segmenters.py wrote (its out-of-fold predictions are what vessel-2d
repairs). Only `train` patients are trained on and only `val` patients are validated on. A file of cases holds images of
8 bits after normalisation, so that it can be taken to a machine with a GPU; `train` needs neither SimpleITK nor MONAI.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from common.running import case_seed, guarded, say
from rnca.automaton import RNCA
from rnca.cases import Case, Starts, phantom_cases
from rnca.files import atomic_path, write_json
from rnca.intensity import network_input
from rnca.patches import PatchesAhead
from rnca.training import Settings, Trainer, train
from volumes import render

FULL = 42.0  # of an int8 for 1 deviation: normalised images end at 3
FREE, SHARE_ALIKE, NC = "CC BY 4.0", "CC BY-SA 4.0", "CC BY-NC-SA 4.0 (non-commercial)"
SCALES = [0.0, 2.0]

FIVES = "FIVES (AMD), training images; CC BY 4.0; Jin et al., Scientific Data 9:475, 2022"
CHASE = (
    "CHASE_DB1, training children; CC BY 4.0; "
    "Fraz et al., IEEE Transactions on Biomedical Engineering 59:2538-2548, 2012"
)
ACDC = (
    "ACDC, training patients; CC BY-NC-SA 4.0; Bernard et al., IEEE Transactions on Medical Imaging 37:2514-2525, 2018"
)
CURVAS = "CURVAS, training patients; CC BY-NC; CURVAS challenge, MICCAI 2024"
CHAOS = "CHAOS T2-SPIR MR, training subjects; CC BY-NC-SA 4.0; Kavur et al., Medical Image Analysis 69:101950, 2021"
HIPPOCAMPUS = (
    "Medical Segmentation Decathlon, hippocampus, training subjects; CC BY-SA 4.0; "
    "Antonelli et al., Nature Communications 13:4128, 2022"
)
RINGS = "rNCA authors' synthetic rings (120 of 512 images of 64×64); MIT; Silbernagel, Alonso et al., arXiv 2512.13397"
TREES = "MedRad trees, training subjects (masks; images made); CC BY-NC-SA 4.0; see the data set"
PHANTOMS = "phantoms of this package (rnca.phantoms); Apache-2.0; "


@dataclass(frozen=True)
class Recipe:
    """One model."""

    description: str
    licence: str
    trained_on: tuple[str, ...]
    sources: tuple[str, ...]  # of SOURCES
    phantoms: tuple[str, ...]  # KIND:COUNT:SIZE; KIND:COUNT:SIZE:rendered also with images made as for trees
    settings: Settings
    sigma: float  # of the local contrast, voxels
    dims: int = 2
    colour: str = "luminance"

    @property
    def intensity(self) -> dict[str, Any]:
        """The metadata's entry."""
        return {"kind": "local", "sigma": self.sigma, "scales": SCALES}


PLANE = Settings(
    iterations=8000,
    batch=64,
    pool=1024,
    fresh=8,
    patch=64,
    first=(20, 40),
    focus=0.7,
    topology=2.0,
    noise=0.1,
    zoom=(0.75, 1.35),
)
SPACE = replace(PLANE, batch=8, pool=192, fresh=1, patch=32)
CHUNKS = ("chunks", "chunks", "chunks", "holes", "thin", "islands", "mixed")
RECIPES = {
    "vessel-2d": Recipe(
        "Bridges gaps in retinal vessels and takes loose pieces away, from a network's probabilities (soft) or from a"
        " binary mask.",
        FREE,
        (FIVES, CHASE, PHANTOMS),
        ("vessels",),
        ("vessels:40:96",),
        replace(
            PLANE,
            starts=Starts(("gaps", "thin", "open", "mixed"), (0.1, 0.9), clean=0.2, given=0.85),
        ),
        24.0,
        colour="green",
    ),
    "myocardium-2d": Recipe(
        "Closes the ring of the left ventricle's myocardium in short-axis cine MR slices: gaps, missing wedges, thinned"
        " and thickened walls, loose islands.",
        NC,
        (ACDC,),
        ("heart",),
        (),
        replace(
            PLANE,
            patch=80,
            batch=48,
            fresh=6,
            starts=Starts(("wedges", "wedges", "thin", "thick", "open", "islands"), (0.2, 1.0), clean=0.25, most=3),
        ),
        16.0,
    ),
    "organ-2d": Recipe(
        "Fills chunks and holes of compact objects in slices and takes loose islands away.",
        SHARE_ALIKE,
        (HIPPOCAMPUS, PHANTOMS),
        ("hippocampus-slices",),
        ("blobs:400:128",),
        replace(PLANE, patch=96, batch=32, fresh=4, starts=Starts(CHUNKS, (0.1, 1.0), clean=0.3, most=2)),
        32.0,
    ),
    "organ-2d-nc": Recipe(
        "Fills chunks and holes of compact organs in CT and MR slices (liver, kidney, spleen) and takes loose islands"
        " away.",
        NC,
        (CURVAS, CHAOS, PHANTOMS),
        ("organs",),
        ("blobs:60:128",),
        replace(PLANE, patch=96, batch=32, fresh=4, starts=Starts(CHUNKS, (0.1, 1.0), clean=0.3, most=2)),
        32.0,
    ),
    "general-2d": Recipe(
        "Closes gaps, fills chunks and holes and takes loose islands away, in rings, compact organs and vessels alike:"
        " the model for masks that no other one was made for.",
        SHARE_ALIKE,
        (FIVES, CHASE, HIPPOCAMPUS, RINGS, PHANTOMS),
        ("vessels", "vessels", "vessels", "rings", "rings", "hippocampus-slices"),
        ("rings:200:96", "thin-rings:80:80", "blobs:200:96", "vessels:150:96"),
        replace(
            PLANE,
            patch=72,
            batch=64,
            fresh=8,
            learning_rate=8e-4,
            starts=Starts(("mixed", "mixed", "gaps", "chunks", "wedges"), (0.1, 0.9), clean=0.3),
        ),
        24.0,
    ),
    "organ-3d": Recipe(
        "Fills chunks and holes of compact organs in volumes and takes loose islands away.",
        SHARE_ALIKE,
        (HIPPOCAMPUS, PHANTOMS),
        ("hippocampus",),
        ("blobs:100:48",),
        replace(SPACE, starts=Starts(CHUNKS, (0.1, 1.0), clean=0.3, most=2)),
        16.0,
        dims=3,
    ),
    "organ-3d-nc": Recipe(
        "Fills chunks and holes of abdominal organs and of the hippocampus in MR volumes and takes loose islands away.",
        NC,
        (HIPPOCAMPUS, CHAOS, PHANTOMS),
        ("hippocampus", "mr"),
        ("blobs:40:48",),
        replace(SPACE, starts=Starts(CHUNKS, (0.1, 1.0), clean=0.3, most=2)),
        16.0,
        dims=3,
    ),
    "vessel-3d": Recipe(
        "Bridges gaps in trees of vessels and airways in volumes and takes loose pieces away.",
        "Apache-2.0",
        (PHANTOMS,),
        (),
        ("vessels:160:64:rendered",),
        replace(SPACE, starts=Starts(("gaps", "gaps", "gaps", "thin", "open", "mixed"), (0.2, 0.9), clean=0.25)),
        16.0,
        dims=3,
    ),
    "vessel-3d-nc": Recipe(
        "Bridges gaps in trees of vessels and airways in volumes and takes loose pieces away; has seen real trees.",
        NC,
        (TREES, PHANTOMS),
        ("trees",),
        ("vessels:60:64:rendered",),
        replace(SPACE, starts=Starts(("gaps", "gaps", "gaps", "thin", "open", "mixed"), (0.2, 0.9), clean=0.25)),
        16.0,
        dims=3,
    ),
    "general-3d": Recipe(
        "Closes gaps, fills chunks and holes and takes loose islands away in volumes of organs and trees alike: the"
        " model for volumes that no other one was made for.",
        SHARE_ALIKE,
        (HIPPOCAMPUS, PHANTOMS),
        ("hippocampus",),
        ("blobs:80:48", "rings:60:48", "vessels:100:64:rendered"),
        replace(SPACE, learning_rate=8e-4, starts=Starts(("mixed", "gaps", "chunks"), (0.1, 0.9), clean=0.3)),
        16.0,
        dims=3,
    ),
}


# --- packing ----------------------------------------------------------------------------------------------------------


@dataclass
class Packed:
    """A case as it is stored: the image normalised, not yet blurred; `objects` are the labels of each case made of it.

    Without an image (a mask that has none) one is made when the case is loaded.
    """

    name: str
    group: str
    image: NDArray[np.int8] | None  # (*S)
    label: NDArray[np.uint8]  # (*S)
    starts: list[NDArray[np.uint8]] = field(default_factory=list)  # value / 255
    objects: tuple[tuple[int, ...], ...] = ((1,),)


def quantise(image: NDArray[np.float32]) -> NDArray[np.int8]:
    """Normalised values, -3 to 3, as 8 bits."""
    return np.rint(np.clip(image, -3, 3) * FULL).astype(np.int8)


def crop(case: Packed, margin: int) -> Packed:
    """The part about the label and the starts."""
    used = (case.label > 0) | np.any([s > 127 for s in case.starts], axis=0) if case.starts else case.label > 0
    box = tuple(slice(max(int(found.min()) - margin, 0), int(found.max()) + margin + 1) for found in np.nonzero(used))
    image = None if case.image is None else case.image[box]
    return replace(case, image=image, label=case.label[box], starts=[s[box] for s in case.starts])


def from_cases(cases: Sequence[Case], margin: int) -> Iterator[Packed]:
    """Of one image channel."""
    for case in cases:
        if case.label.any():
            starts = [np.rint(255 * s).astype(np.uint8) for s in case.starts]
            packed = Packed(case.name, case.group, quantise(case.image[0]), case.label.astype(np.uint8), starts)
            yield crop(packed, margin)


def vessels(data: Path, base: Path, split: str) -> Iterator[Packed]:
    """Fundus photographs with what networks made of them."""
    from rnca.cases import load_cases

    spec = {"kind": "local", "sigma": 24.0}
    yield from from_cases(load_cases(base / "vessels" / split, dims=2, intensity=spec, colour="green"), 32)


def rings(data: Path, base: Path, split: str) -> Iterator[Packed]:
    """120 of the rNCA authors' rings to train on, 40 to validate on."""
    from rnca.cases import load_cases

    cases = load_cases(data / "rnca_rings" / "train", dims=2, intensity={"kind": "local", "sigma": 24.0})
    yield from from_cases({"train": cases[:120], "val": cases[120:160]}[split], 32)


def heart(data: Path, base: Path, split: str) -> Iterator[Packed]:
    """Slices with myocardium."""
    from rnca.cases import load_cases

    spec = {"kind": "local", "sigma": 16.0}
    yield from from_cases(load_cases(data / "acdc" / split, dims=2, intensity=spec, label=2), 28)


def organs(data: Path, base: Path, split: str) -> Iterator[Packed]:
    """Organs in slices, in the size of benchmarks/fill.py."""
    import fill

    given = argparse.Namespace(data=data, data_chaos_ct=None, limit=None)
    for _, case, organ in fill.organs(given, split):
        if not organ.any():
            continue
        image, truth = fill.resize(case, organ, 108)
        if truth.sum() >= fill.SMALLEST:
            values = network_input(image[None], 1, {"kind": "local", "sigma": 32.0})[0]
            yield crop(Packed(case.name, case.group, quantise(values), truth.astype(np.uint8)), 28)


def volume_cases(
    folder: Path, sigma: float, objects: tuple[tuple[int, ...], ...], zoom: int = 1
) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.uint8]]]:
    """(name, normalised image, labels) of the volumes of a folder."""
    from rnca.files import list_images, read_image, read_mask
    from rnca.geometry import as_array

    labels = list_images(folder / "labels")
    for name, path in sorted(list_images(folder / "images").items()):
        image = np.array(as_array(read_image(path)))
        yield name, image, np.array(as_array(read_mask(labels[name]))).astype(np.uint8)


def hippocampus(data: Path, base: Path, split: str) -> Iterator[Packed]:
    """Both parts as one, and each."""
    for name, image, label in volume_cases(data / "hippocampus_msd" / split, 16, ()):
        values = network_input(image[None], 1, {"kind": "local", "sigma": 16.0})[0]
        yield crop(Packed(name, name, quantise(values), label, [], ((1, 2), (1,), (2,))), 8)


def hippocampus_slices(data: Path, base: Path, split: str) -> Iterator[Packed]:
    """Three slices of each, three times as large: as many pixels as an organ in a slice has."""
    for name, image, label in volume_cases(data / "hippocampus_msd" / split, 24, ()):
        area = (label > 0).sum((1, 2))
        for number in np.argsort(-area)[:9:3]:
            large = ndimage.zoom(image[number].astype(np.float32), 3, order=1)
            mask = ndimage.zoom((label[number] > 0).astype(np.float32), 3, order=1) > 0.5
            values = network_input(large[None], 1, {"kind": "local", "sigma": 28.0})[0]
            yield crop(Packed(f"{name}_{number}", name, quantise(values), mask.astype(np.uint8)), 28)


def mr(data: Path, base: Path, split: str) -> Iterator[Packed]:
    """Abdominal organs, each an object."""
    for name, image, label in volume_cases(data / "chaos_mr_t2" / split, 16, ()):
        values = network_input(image[None], 1, {"kind": "local", "sigma": 16.0})[0]
        yield crop(Packed(name, name, quantise(values), label, [], ((1,), (2,), (3,), (4,))), 6)


def trees(data: Path, base: Path, split: str) -> Iterator[Packed]:
    """Boxes of trees, without images."""
    import volumes
    from rnca.files import list_images, read_mask
    from rnca.geometry import as_array

    for kind in volumes.TREES:
        folder = data / "medrad_trees" / split / "labels" / kind
        for name, path in list_images(folder).items() if folder.is_dir() else ():
            whole = np.array(as_array(read_mask(path))) != 0
            for number, box in enumerate(volumes.full_boxes(whole, 96, 6)):
                yield Packed(f"{kind}_{name}_{number}", name, None, whole[box].astype(np.uint8))


SOURCES: dict[str, Callable[[Path, Path, str], Iterator[Packed]]] = {
    "vessels": vessels,
    "rings": rings,
    "heart": heart,
    "organs": organs,
    "hippocampus": hippocampus,
    "hippocampus-slices": hippocampus_slices,
    "mr": mr,
    "trees": trees,
}


def write_packed(cases: Sequence[Packed], path: Path) -> None:
    """Into one compressed .npz, without pickles."""
    about = [{"name": c.name, "group": c.group, "objects": c.objects, "starts": len(c.starts)} for c in cases]
    arrays: dict[str, NDArray[Any]] = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
    for number, case in enumerate(cases):
        arrays[f"{number}/label"] = case.label
        if case.image is not None:
            arrays[f"{number}/image"] = case.image
        arrays |= {f"{number}/start{n}": start for n, start in enumerate(case.starts)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def read_packed(path: Path) -> Iterator[Packed]:
    """What `write_packed` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        for number, about in enumerate(json.loads(stored["about"].tobytes())):
            image = stored[f"{number}/image"] if f"{number}/image" in stored.files else None
            starts = [stored[f"{number}/start{n}"] for n in range(about["starts"])]
            objects = tuple(tuple(labels) for labels in about["objects"])
            yield Packed(about["name"], about["group"], image, stored[f"{number}/label"], starts, objects)


# --- training ---------------------------------------------------------------------------------------------------------


def scaled(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """A normalised image (*S) at the recipes' scales: (C, *S), as `rnca.intensity` blurs it."""
    levels = [image if s == 0 else ndimage.gaussian_filter(image, s, mode="nearest", truncate=3) for s in SCALES]
    return np.stack(levels).astype(np.float32)


def rendered(label: NDArray[np.bool_], name: str, recipe: Recipe, seed: int) -> Case:
    """A tree with an image made for it."""
    image = render(label, np.random.default_rng(case_seed(seed, name)))
    return Case(f"{name}_{seed}", network_input(image[None], len(SCALES), recipe.intensity), label, group=name)


def load(recipe: Recipe, folder: Path, split: str) -> list[Case]:
    """All cases of a recipe; a tenth of the phantoms is for validation."""
    cases = []
    for source in recipe.sources:
        for packed in read_packed(folder / f"{source}.{split}.npz"):
            image = None if packed.image is None else scaled(packed.image / np.float32(FULL))
            for labels in packed.objects:
                label = np.isin(packed.label, labels)
                if not label.any():
                    continue
                if image is None:
                    cases += [rendered(label, packed.name, recipe, seed) for seed in range(2)]
                    continue
                starts = [(s / 255).astype(np.float32) for s in packed.starts]
                cases.append(Case(f"{packed.name}_{labels[0]}", image, label, starts, packed.group))
    for text in recipe.phantoms:
        kind, count, size, *made = text.split(":")
        held = int(count) // 10
        amount, seed = (held, 1) if split == "val" else (int(count), 0)
        found = phantom_cases(kind, (int(size),) * recipe.dims, amount, seed, len(SCALES), recipe.intensity)
        cases += found
        if made:
            cases += [rendered(case.label, f"{case.name}_{seed}", recipe, 0) for case in found]
    return cases


def new_net(recipe: Recipe) -> RNCA:
    """The untrained network."""
    return RNCA(dims=recipe.dims, image_channels=len(SCALES), hidden=128)


def run(name: str, recipe: Recipe, given: argparse.Namespace) -> None:
    """Train one model, or go on with it."""
    settings = replace(recipe.settings, iterations=given.iterations or recipe.settings.iterations)
    if given.batch:
        settings = replace(settings, batch=given.batch, fresh=max(1, given.batch // 8), pool=32 * given.batch)
    cases = load(recipe, given.cases, "train")
    folder = given.output / name
    checkpoint = folder / "checkpoint.npz"
    say(f"{name}: {len(cases)} cases, {settings.iterations} iterations of {settings.batch} on {given.device}")
    torch.manual_seed(settings.seed)
    size = (settings.patch,) * recipe.dims
    with PatchesAhead(cases, size, settings.starts, settings.noise, settings.zoom, workers=given.workers) as patches:
        if checkpoint.exists():
            trainer = Trainer.resume(checkpoint, cases, given.device, settings.iterations, patches)
        else:
            trainer = Trainer(new_net(recipe), cases, settings, given.device, patches)
        train(trainer, folder, on_progress=lambda p: say(f"{name} {p.iteration}: loss {p.loss:.4f}, {p.seconds:.3f} s"))
    write_json(folder / "run.json", {"name": name, "seconds": round(time.process_time())})


def pack(given: argparse.Namespace) -> None:
    """Every source, both splits; those that are there are kept."""
    for source in given.source or SOURCES:
        for split in ("train", "val"):
            path = given.output / f"{source}.{split}.npz"
            if not path.exists():
                cases = list(SOURCES[source](given.data, given.base, split))
                write_packed(cases, path)
                say(f"{path.name}: {len(cases)} cases, {path.stat().st_size / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="normalise the cases")
    packing.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    packing.add_argument("--base", type=Path, required=True, help="folder that segmenters.py wrote")
    packing.add_argument("--source", nargs="+", choices=SOURCES, help="these only")
    packing.add_argument("-o", "--output", type=Path, required=True)
    training = commands.add_parser("train", help="train models, one after the other")
    training.add_argument("name", nargs="+", choices=RECIPES)
    training.add_argument("--cases", type=Path, required=True, help="folder that pack wrote")
    training.add_argument("--iterations", type=int, help="instead of the recipe's")
    training.add_argument("--batch", type=int, help="instead of the recipe's; 8 suits a CPU")
    training.add_argument("--workers", type=int, default=2, help="processes that damage masks (default 2)")
    training.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    training.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    if given.command == "pack":
        pack(given)
    elif given.command == "train":
        for name in given.name:
            run(name, RECIPES[name], given)


if __name__ == "__main__":
    guarded(main)
