"""How the latest models were made: python benchmarks/models.py pack|train|export ...

    pack --data FOLDER --base OUT -o CASES        training and validation cases, normalised, one file a source
    train NAME --cases CASES -o RUNS              one model from them (see recipes.py); on a GPU where there is one
    export NAME --cases CASES -o RUNS --version V the archive, with metadata, validation figures and card, in RUNS/NAME

FOLDER holds the data sets, OUT what `segmenters.py --task vessels --network unet` made of them (vessel-2d alone needs
it); only `train` patients are trained on and only `val` patients validated on. A file of cases
holds images of 8 bits after normalisation and can be taken to a machine with a GPU. Older models were made by the
commands on their cards.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

import fill
import volumes
from common.inflate import inflate
from common.running import case_seed, guarded, say
from recipes import RECIPES, Recipe
from rnca.automaton import RNCA
from rnca.cases import Case, load_cases, phantom_cases
from rnca.contrast import TRUNCATE
from rnca.errors import InputError
from rnca.files import atomic_path, list_images, read_image, read_mask, write_json, write_text
from rnca.geometry import as_array
from rnca.intensity import network_input
from rnca.training import Progress, Trainer, draw_ahead, net_from, read_checkpoint, train

FULL = 42.0  # of an int8 for 1 deviation: normalised images end at 3


# --- packing ----------------------------------------------------------------------------------------------------------


@dataclass
class Packed:
    """A case as it is stored: the image normalised, not yet blurred; `objects` are the labels of each case."""

    name: str
    group: str
    image: NDArray[np.int8]  # (*S)
    label: NDArray[np.uint8]  # (*S)
    starts: list[NDArray[np.uint8]] = field(default_factory=list)  # value / 255
    objects: tuple[tuple[int, ...], ...] = ((1,),)


def crop(case: Packed, margin: int) -> Packed:
    """The part about the label and the starts."""
    used = np.logical_or.reduce([case.label > 0, *[start > 127 for start in case.starts]])
    box = tuple(slice(max(int(at.min()) - margin, 0), int(at.max()) + margin + 1) for at in np.nonzero(used))
    return replace(case, image=case.image[box], label=case.label[box], starts=[s[box] for s in case.starts])


def quantise(image: NDArray[np.float32]) -> NDArray[np.int8]:
    """Normalised values, -3 to 3, as 8 bits."""
    return np.rint(np.clip(image, -3, 3) * FULL).astype(np.int8)


def volumes_of(folder: Path) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.uint8]]]:
    """(name, image, labels) of a folder's volumes."""
    labels = list_images(folder / "labels")
    for name, path in sorted(list_images(folder / "images").items()):
        image = np.array(as_array(read_image(path)), np.float32)
        yield name, image, np.array(as_array(read_mask(labels[name]))).astype(np.uint8)


def hippocampus(data: Path, base: Path | None, split: str, spec: dict[str, Any]) -> Iterator[Packed]:
    """Both parts as one, and each."""
    for name, image, label in volumes_of(data / "hippocampus_msd" / split):
        values = network_input(image[None], 1, spec)[0]
        yield crop(Packed(name, name, quantise(values), label, [], ((1, 2), (1,), (2,))), 8)


def hippocampus_slices(data: Path, base: Path | None, split: str, spec: dict[str, Any]) -> Iterator[Packed]:
    """Three slices of each, three times as large: as many pixels as an organ in a slice has."""
    for name, image, label in volumes_of(data / "hippocampus_msd" / split):
        area = (label > 0).sum((1, 2))
        for number in np.argsort(-area)[: min(9, np.count_nonzero(area)) : 3]:
            large = ndimage.zoom(image[number], 3, order=1)
            mask = ndimage.zoom((label[number] > 0).astype(np.float32), 3, order=1) > 0.5
            values = network_input(large[None], 1, spec)[0]
            yield crop(Packed(f"{name}_{number}", name, quantise(values), mask.astype(np.uint8)), 28)


def from_cases(cases: Sequence[Case], margin: int) -> Iterator[Packed]:
    """Cases that the package read, of one image channel."""
    for case in cases:
        if case.label.any():
            starts = [np.rint(255 * s).astype(np.uint8) for s in case.starts]
            packed = Packed(case.name, case.group, quantise(case.image[0]), case.label.astype(np.uint8), starts)
            yield crop(packed, margin)


def fundus(data: Path, base: Path | None, split: str, spec: dict[str, Any]) -> Iterator[Packed]:
    """Photographs with what networks made of them."""
    if base is None:
        raise InputError("vessel-2d is trained on what U-Nets predict: give --base, the folder segmenters.py wrote.")
    yield from from_cases(load_cases(base / "vessels" / split, dims=2, intensity=spec, colour="green"), 32)


def heart(data: Path, base: Path | None, split: str, spec: dict[str, Any]) -> Iterator[Packed]:
    """Slices with myocardium."""
    yield from from_cases(load_cases(data / "acdc" / split, dims=2, intensity=spec, label=2), 28)


def organ_slices(data: Path, base: Path | None, split: str, spec: dict[str, Any]) -> Iterator[Packed]:
    """Organs in slices, in the size of benchmarks/fill.py."""
    given = argparse.Namespace(data=data, data_chaos_ct=None, limit=None)
    for _, case, organ in fill.organs(given, split):
        if organ.any():
            image, truth = fill.resize(case, organ, 108)
            if truth.sum() >= fill.SMALLEST:
                yield from from_cases([Case(case.name, network_input(image[None], 1, spec), truth)], 28)


def abdomen(data: Path, base: Path | None, split: str, spec: dict[str, Any]) -> Iterator[Packed]:
    """Abdominal organs in MR, each an object."""
    for name, image, label in volumes_of(data / "chaos_mr_t2" / split):
        values = network_input(image[None], 1, spec)[0]
        yield crop(Packed(name, name, quantise(values), label, [], ((1,), (2,), (3,), (4,))), 6)


def trees(data: Path, base: Path | None, split: str, spec: dict[str, Any]) -> Iterator[Packed]:
    """The fullest boxes of real trees, with images made for them."""
    for tree in volumes.real_trees(data, split, None, 64, 6, seed=1):
        values = network_input(tree.image[None], 1, spec)[0]
        yield Packed(tree.name, tree.name.rpartition("_")[0], quantise(values), tree.truth.astype(np.uint8))


SOURCES: dict[str, Callable[[Path, Path | None, str, dict[str, Any]], Iterator[Packed]]] = {
    "abdomen": abdomen,
    "fundus": fundus,
    "heart": heart,
    "hippocampus": hippocampus,
    "hippocampus-slices": hippocampus_slices,
    "organ-slices": organ_slices,
    "trees": trees,
}


def write_packed(cases: Sequence[Packed], path: Path) -> None:
    """Into one compressed .npz, without pickles."""
    about = [{"name": c.name, "group": c.group, "objects": c.objects, "starts": len(c.starts)} for c in cases]
    arrays: dict[str, NDArray[Any]] = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
    for number, case in enumerate(cases):
        arrays[f"{number}/label"] = case.label
        arrays[f"{number}/image"] = case.image
        arrays |= {f"{number}/start{n}": start for n, start in enumerate(case.starts)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def read_packed(path: Path) -> Iterator[Packed]:
    """What `write_packed` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        for number, about in enumerate(json.loads(stored["about"].tobytes())):
            image = stored[f"{number}/image"]
            starts = [stored[f"{number}/start{n}"] for n in range(about["starts"])]
            objects = tuple(tuple(labels) for labels in about["objects"])
            yield Packed(about["name"], about["group"], image, stored[f"{number}/label"], starts, objects)


# --- training ---------------------------------------------------------------------------------------------------------


def packed_path(source: str, recipe: Recipe, folder: Path, split: str) -> Path:
    """Where the cases of a source are packed, as a recipe sees them."""
    return folder / f"{source}-{recipe.sigma:g}.{split}.npz"


def scaled(image: NDArray[np.float32], scales: Sequence[float]) -> NDArray[np.float32]:
    """A normalised image (*S) at a recipe's scales: (C, *S), as `rnca.intensity` blurs it."""
    levels = [image if s == 0 else ndimage.gaussian_filter(image, s, mode="nearest", truncate=TRUNCATE) for s in scales]
    return np.stack(levels).astype(np.float32)


def rendered(case: Case, recipe: Recipe, split: str) -> Case:
    """A tree with another image, made as benchmarks/volumes.py makes those of trees that have none."""
    image = volumes.render(case.label, np.random.default_rng(case_seed(0, f"{case.name}_{split}")))
    return replace(case, image=network_input(image[None], len(recipe.scales), recipe.intensity))


def unpacked(packed: Packed, recipe: Recipe) -> Iterator[Case]:
    """A case an object."""
    image = scaled(packed.image / np.float32(FULL), recipe.scales)
    starts = [(s / 255).astype(np.float32) for s in packed.starts]
    for labels in packed.objects:
        label = np.isin(packed.label, labels)
        if label.any():
            yield Case(f"{packed.name}_{labels[0]}", image, label, starts, packed.group)


def phantoms(text: str, recipe: Recipe, split: str) -> list[Case]:
    """KIND:COUNT:SIZE, for validation a tenth as many, others; with :rendered behind, each with a second image."""
    kind, count, size, *made = text.split(":")
    amount, seed = (int(count) // 10, 1) if split == "val" else (int(count), 0)
    found = phantom_cases(kind, (int(size),) * recipe.dims, amount, seed, len(recipe.scales), recipe.intensity)
    return found + [rendered(case, recipe, split) for case in found if made]


def load(recipe: Recipe, folder: Path, split: str) -> list[Case]:
    """All cases of a recipe."""
    cases = []
    for source in recipe.sources:
        path = packed_path(source, recipe, folder, split)
        if not path.exists():
            raise InputError(f"{path} does not exist: python benchmarks/models.py pack --help")
        cases += [case for packed in read_packed(path) for case in unpacked(packed, recipe)]
    return cases + [case for text in recipe.phantoms for case in phantoms(text, recipe, split)]


def first_net(recipe: Recipe, checkpoint: Path | None) -> RNCA:
    """What training begins with."""
    if checkpoint:
        return net_from(*read_checkpoint(checkpoint))
    if recipe.start is None:
        return RNCA(dims=recipe.dims, image_channels=len(recipe.scales))
    from rnca.zoo import load_model

    parent = load_model(recipe.start).definition
    return parent if parent.dims == recipe.dims else inflate(parent)


def run(name: str, recipe: Recipe, given: argparse.Namespace) -> None:
    """Train one model, or go on with it."""
    settings = replace(recipe.settings, iterations=given.iterations or recipe.settings.iterations)
    if given.seed is not None:
        settings = replace(settings, seed=given.seed)
    cases, folder = load(recipe, given.cases, "train"), given.output / name
    say(f"{name}: {len(cases)} cases, {settings.iterations} iterations of {settings.batch} on {given.device}")
    torch.manual_seed(settings.seed)
    checkpoint = folder / "checkpoint.npz"
    done = read_checkpoint(checkpoint)[0]["iteration"] if checkpoint.exists() else 0

    def keep(trainer: Trainer) -> None:
        if trainer.iteration in given.keep:
            trainer.save(folder / f"checkpoint-{trainer.iteration}.npz")

    def tell(progress: Progress) -> None:
        say(f"{name} {progress.iteration}: loss {progress.loss:.4f}, {progress.seconds:.2f} s")

    with draw_ahead(cases, recipe.dims, settings, given.workers, done) as patches:
        if done:
            trainer = Trainer.resume(checkpoint, cases, given.device, settings.iterations, patches)
        else:
            trainer = Trainer(first_net(recipe, given.start), cases, settings, given.device, patches)
        train(trainer, folder, on_progress=tell, on_checkpoint=keep)


def averaged(checkpoints: Sequence[Path]) -> tuple[RNCA, list[dict[str, Any]]]:
    """The mean of the weights of checkpoints of one run, and what they say about themselves.

    Late checkpoints lie around a better place than any of them is at (Izmailov et al., "Averaging weights leads to
    wider optima and better generalization", 2018).

    Raises:
        InputError: one of them cannot be read.
    """
    known = [read_checkpoint(path) for path in checkpoints]
    return mean_net([net_from(*found) for found in known]), [about for about, _ in known]


def mean_of_shipped(names: Sequence[str]) -> tuple[RNCA, dict[str, Any]]:
    """The mean of the weights of shipped models with a common ancestor, and what the first says of its training.

    What each has learned of its own averages out, what they share stays (Wortsman et al., "Model soups", 2022). Models
    begun apart have nothing to average: their units do not correspond.

    Raises:
        InputError: one of them does not exist, or is built differently.
    """
    from rnca.zoo import load_model

    models = [load_model(name) for name in names]
    for name, model in zip(names, models, strict=True):
        if model.definition.config != models[0].definition.config:
            raise InputError(f"{name} is built differently from {names[0]}; give models with a common ancestor")
    parts = [f"{model.metadata.name} {model.metadata.version} {model.metadata.weights_sha256}" for model in models]
    net = mean_net([model.definition for model in models])
    return net, dict(models[0].metadata.training) | {"mean": parts}


def mean_net(nets: Sequence[RNCA]) -> RNCA:
    """A network with the mean of the weights."""
    mean = torch.optim.swa_utils.AveragedModel(nets[0])
    for net in nets:
        mean.update_parameters(net)
    nets[0].load_state_dict(mean.module.state_dict())
    return nets[0].eval()


def lengthen(net: RNCA, gain: float) -> None:
    """Make each update of the states this much longer: where it is nothing it stays nothing."""
    with torch.no_grad():
        for parameter in net.delta.parameters():
            parameter.mul_(gain)


def export(name: str, recipe: Recipe, given: argparse.Namespace) -> None:
    """Validation figures, archive, metadata and card."""
    from rnca.cards import card, parse_source
    from rnca.validation import make_trials, repair, score
    from rnca.zoo import describe, load_model, save_model

    if given.mean:
        net, training = mean_of_shipped(given.mean)
        start: str | None = given.mean[0]
        made = f"export {name} --mean {' '.join(given.mean)}"
    else:
        net, abouts = averaged([given.output / name / "checkpoint.npz", *given.average])
        lengthen(net, recipe.gain)
        start, made = recipe.start, f"train {name}"
        training = {
            "recipe": f"benchmarks/models.py, {name}",
            "settings": abouts[0]["settings"],
            "iteration": abouts[0]["iteration"],
            "averaged": [about["iteration"] for about in abouts],
            "gain": recipe.gain,
        }
    trials = make_trials(load(recipe, given.cases, "val"), recipe.settings.starts, 0, most=given.trials)
    figures = {}
    for steps in (64, 128, 256):
        say(f"{name}: {len(trials)} starts, {steps} steps")
        figures[f"validation, {steps} steps"] = score(trials, repair(net, trials, steps, recipe.tidying))
    parent = load_model(start).metadata if start else None
    metadata = describe(
        net,
        name,
        given.version,
        description=recipe.description,
        licence=recipe.licence,
        intensity=recipe.intensity,
        colour=recipe.colour,
        **asdict(recipe.tidying),
        object_size=recipe.object_size,
        steps=recipe.steps,
        trained_on=[parse_source(text) for text in recipe.trained_on],
        training=json.loads(json.dumps(training)),
        figures=figures,
        parent=f"{parent.name} {parent.version} {parent.weights_sha256}" if parent else None,
    )
    path = given.output / name / "zoo" / f"{name}.ts"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(net, path, metadata)
    write_json(path.with_name("metadata.json"), asdict(load_model(path).metadata))
    write_text(path.with_name("README.md"), card(metadata, f"python benchmarks/models.py {made} --cases CASES -o RUNS"))
    say(f"{path.parent} written")


def pack(given: argparse.Namespace) -> None:
    """The cases of the recipes, both splits; those that are there are kept."""
    for recipe in (RECIPES[name] for name in given.only):
        for source, split in ((source, split) for source in recipe.sources for split in ("train", "val")):
            path = packed_path(source, recipe, given.output, split)
            if path.exists():
                continue
            cases = list(SOURCES[source](given.data, given.base, split, {"kind": "local", "sigma": recipe.sigma}))
            write_packed(cases, path)
            say(f"{path.name}: {len(cases)} cases, {path.stat().st_size / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="normalise the cases of recipes")
    packing.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES), help="these recipes")
    packing.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    packing.add_argument("--base", type=Path, help="folder that segmenters.py wrote")
    packing.add_argument("-o", "--output", type=Path, required=True)
    training = commands.add_parser("train", help="train a model")
    training.add_argument("name", choices=RECIPES)
    training.add_argument("--cases", type=Path, required=True, help="folder that pack wrote")
    training.add_argument("--iterations", type=int, help="instead of the recipe's")
    training.add_argument("--seed", type=int, help="of patches, damage and updates, instead of the recipe's")
    training.add_argument("--start", type=Path, help="checkpoint of an earlier stage whose weights to begin with")
    training.add_argument("--keep", type=int, nargs="+", default=[], help="iterations whose checkpoint is kept (×250)")
    training.add_argument("--workers", type=int, default=1, help="processes that damage masks (default 1)")
    training.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    training.add_argument("-o", "--output", type=Path, required=True)
    exporting = commands.add_parser("export", help="make the archive of a trained model")
    exporting.add_argument("name", choices=RECIPES)
    exporting.add_argument("--cases", type=Path, required=True, help="folder that pack wrote")
    means = exporting.add_mutually_exclusive_group()
    means.add_argument(
        "--average", type=Path, nargs="+", default=[], help="kept checkpoints to average the last one with"
    )
    means.add_argument(
        "--mean", nargs="+", default=[], metavar="MODEL", help="instead: the mean of the weights of models, or of files"
    )
    exporting.add_argument("--version", default="1.0.0")
    exporting.add_argument("--trials", type=int, default=64, help="cases to validate on, at most (default 64)")
    exporting.add_argument("-o", "--output", type=Path, required=True, help="folder that train wrote")
    given = parser.parse_args()
    if given.command == "pack":
        pack(given)
    else:
        (run if given.command == "train" else export)(given.name, RECIPES[given.name], given)


if __name__ == "__main__":
    guarded(main)
