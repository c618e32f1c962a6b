"""A training run from the command line: data, training with validation on the way, the model at the end.

The run's folder holds `run.json` (data, network, settings), `checkpoint.npz`, `log.csv`, `validation.csv`,
`validation.png`, TensorBoard events where `rnca[train]` is installed, and finally `NAME.ts`.
"""

import csv
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from .automaton import RNCA
from .cards import card, parse_source
from .cases import PERCENTILES, Case, load_cases, phantom_cases, split_cases
from .errors import InputError
from .files import write_json, write_text
from .jobs import write_csv
from .pictures import write_png
from .rollout import pick_device
from .tidy import NOTHING, Tidying
from .training import Progress, Settings, Trainer, draw_ahead, net_from, read_checkpoint, train
from .validation import Trial, make_trials, picture, repair, score
from .zoo import describe, load_model, save_model

if TYPE_CHECKING:
    from rich.console import Console

CHECKPOINT, RUN = "checkpoint.npz", "run.json"
FINAL_STEPS = (64, 128, 256)


@dataclass(frozen=True)
class Data:
    """Where cases come from."""

    folders: tuple[Path, ...] = ()
    phantoms: tuple[str, ...] = ()  # KIND:COUNT or KIND:COUNT:SIZE; the size is a patch's unless given
    label: int | Literal["each"] | None = None
    validation: float = 0.2  # share of the groups kept aside where `held` is empty
    held: tuple[Path, ...] = ()  # folders to validate on; all of `folders` is trained on then
    intensity: dict[str, Any] = field(default_factory=lambda: dict(PERCENTILES))
    colour: str = "luminance"
    object_size: int = 0  # voxels: larger objects are trained on, and repaired, on a coarser grid; 0: none


def gather(data: Data, dims: int, channels: int, patch: int, seed: int) -> tuple[list[Case], list[Case]]:
    """(training, validation) cases of all sources, each split by itself unless there are folders to validate on."""

    def load(folder: Path) -> list[Case]:
        return load_cases(
            folder,
            dims=dims,
            channels=channels,
            intensity=data.intensity,
            colour=data.colour,
            label=data.label,
            object_size=data.object_size,
        )

    held = [case for folder in data.held for case in load(folder)]
    sources = [] if held else [load(folder) for folder in data.folders]
    training = [case for folder in data.folders for case in load(folder)] if held else []
    for text in data.phantoms:
        kind, count, size = parse_phantoms(text)
        sources.append(phantom_cases(kind, (size or patch,) * dims, count, seed, channels, data.intensity))
    for cases in sources:
        kept, aside = split_cases(cases, data.validation, seed)
        training += kept
        held += aside
    if not training:
        raise InputError(
            "there is nothing to train on: give folders with images/ and labels/, or --phantoms KIND:COUNT."
        )
    return training, held


def parse_phantoms(text: str) -> tuple[str, int, int]:
    """KIND:COUNT or KIND:COUNT:SIZE; the size (edge, voxels) is 0 where it is not given."""
    kind, *numbers = text.split(":")
    if not (1 <= len(numbers) <= 2 and all(n.isdigit() for n in numbers) and int(numbers[0]) >= 2):
        raise InputError(
            f"phantoms are given as KIND:COUNT or KIND:COUNT:SIZE with a count of 2 or more, not as {text!r}."
        )
    return kind, int(numbers[0]), int(numbers[1]) if len(numbers) == 2 else 0


def train_run(
    folder: Path,
    name: str,
    data: Data,
    network: dict[str, Any],
    settings: Settings,
    parent: str | None,
    device: str,
    out: "Console",
    workers: int = 0,
) -> Path:
    """Train in `folder`, or go on with the run it holds; returns the path of the model.

    With `workers`, that many processes damage masks ahead of time; a run that goes on then draws other patches than
    one that was not interrupted.
    """
    base = load_model(parent) if parent else None
    if base:  # what the parent sees, its child sees
        meta = base.metadata
        data = replace(data, intensity=meta.intensity, colour=meta.colour, object_size=meta.object_size)
    about = {
        "name": name,
        "data": {**asdict(data), "folders": _short(data.folders), "held": _short(data.held)},
        "network": network,
        "settings": asdict(settings),
        "parent": parent,
        "tidying": asdict(base.metadata.tidying if base else NOTHING),
    }
    about = json.loads(json.dumps(about))
    place = pick_device(device)
    torch.manual_seed(settings.seed)  # the first weights, too
    net = base.definition if base else RNCA(**network)
    lineage = f"{base.metadata.name} {base.metadata.version} {base.sha256}" if base else None
    training, held = gather(data, net.dims, net.image_channels, settings.patch, settings.seed)
    out.print(
        f"{len(training)} cases to train on, {len(held)} to validate on; {place}, {settings.precision} precision."
    )
    checkpoint = folder / CHECKPOINT
    with ExitStack() as stack:
        patches = None
        if workers:
            done = read_checkpoint(checkpoint)[0]["iteration"] if checkpoint.exists() else 0
            patches = stack.enter_context(draw_ahead(training, net.dims, settings, workers, done))
        if checkpoint.exists():
            _check_same_run(folder, about)
            trainer = Trainer.resume(checkpoint, training, place, settings.iterations, patches)
            out.print(f"going on after iteration {trainer.iteration}.")
        else:
            trainer = Trainer(net, training, settings, place, patches)
            folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RUN, about | {"lineage": lineage, "command": command_line()})
        trials = make_trials(held, settings.starts, settings.seed)
        with Watcher(folder, trials, trainer, out) as watcher:
            net = train(trainer, folder, on_progress=watcher.progress, on_checkpoint=watcher.checkpoint)
    rules = Tidying(**about["tidying"])
    figures = {f"validation, {steps} steps": score(trials, repair(net, trials, steps, rules)) for steps in FINAL_STEPS}
    show(figures, out)
    write_json(folder / "figures.json", figures)
    metadata = describe(
        net,
        name,
        intensity=data.intensity,
        colour=data.colour,
        object_size=data.object_size,
        **asdict(rules),
        parent=lineage,
        training=about,
        figures=figures,
    )
    return save_model(net, folder / f"{name}.ts", metadata)


def _short(folders: Sequence[Path]) -> list[str]:
    """The last two parts of each path: enough to know the data by, and nothing about the machine."""
    return ["/".join(folder.resolve().parts[-2:]) for folder in folders]


def command_line() -> str:
    """How this process was called, for a model card, with paths as `_short` gives them."""
    return shlex.join(["rnca", *[_short([Path(word)])[0] if os.sep in word else word for word in sys.argv[1:]]])


def _check_same_run(folder: Path, about: dict[str, Any]) -> None:
    """A run goes on with what it was begun with; only its length may change."""
    try:
        stored = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} holds a checkpoint but no readable {RUN}: choose another folder.") from error
    for part in ("data", "network", "settings", "parent"):
        old, new = stored[part], about[part]
        if part == "settings":
            old, new = ({k: v for k, v in s.items() if k != "iterations"} for s in (old, new))
        if old != new:
            raise InputError(f"{folder} holds a run with other {part}: repeat its options, or choose another folder.")


class Watcher:
    """Progress bar, validation, pictures and TensorBoard of a run."""

    def __init__(self, folder: Path, trials: Sequence[Trial], trainer: Trainer, out: "Console") -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.folder, self.trials, self.out = folder, trials, out
        self.bar = Progress(*columns, console=out, transient=True)
        self.task = self.bar.add_task("training", total=trainer.settings.iterations, completed=trainer.iteration)
        self.rows = _rows_until(folder / "validation.csv", trainer.iteration)
        self.board = _tensorboard(folder)

    def __enter__(self) -> "Watcher":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
        if self.board:
            self.board.close()

    def progress(self, report: Progress) -> None:
        """After some iterations."""
        text = f"loss {report.loss:.4f}, {report.seconds:.2f} s an iteration"
        self.bar.update(self.task, completed=report.iteration, description=text)
        if self.board:
            self.board.add_scalar("training/loss", report.loss, report.iteration)
            self.board.add_scalar("training/learning_rate", report.learning_rate, report.iteration)

    def checkpoint(self, trainer: Trainer) -> None:
        """After a checkpoint: validate at 64 steps."""
        trainer.net.eval()
        masks = repair(trainer.net, self.trials, 64)
        trainer.net.train()
        scores = score(self.trials, masks)
        flat = {f"{kind}/{name}": value for kind, row in scores.items() for name, value in row.items()}
        self.rows.append({"iteration": trainer.iteration, **flat})
        write_csv(self.folder / "validation.csv", self.rows)
        sheet = picture(self.trials, masks)
        write_png(sheet, self.folder / "validation.png")
        words = "; ".join(
            f"{kind}: Dice {row['dice']:.4f}, right {row['topology_right']:.1%}" for kind, row in scores.items()
        )
        self.out.print(f"iteration {trainer.iteration}: {words}")
        if self.board:
            for name, value in flat.items():
                self.board.add_scalar(f"validation/{name}", value, trainer.iteration)
            self.board.add_image("before, change, against truth", sheet, trainer.iteration, dataformats="HWC")


def _rows_until(path: Path, iteration: int) -> list[dict[str, Any]]:
    """What a run that goes on has validated before."""
    if not iteration or not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if int(row["iteration"]) <= iteration]


def _tensorboard(folder: Path) -> Any:
    """A writer, or None without the extra `rnca[train]`."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))


def show(figures: dict[str, dict[str, dict[str, float]]], out: "Console") -> None:
    """A table of validation figures."""
    from rich.table import Table

    names = list(dict.fromkeys(n for kinds in figures.values() for row in kinds.values() for n in row))
    table = Table("validation", "start", *names)
    for title, kinds in figures.items():
        for kind, row in kinds.items():
            table.add_row(title, kind, *[f"{row[n]:.4f}" if n in row else "–" for n in names])
    out.print(table)


def export_run(
    run: Path,
    path: Path,
    name: str,
    version: str,
    description: str,
    licence: str,
    sources: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
) -> Path:
    """Write the model of a run's latest checkpoint, with what the run knows about itself.

    Beside the archive go `metadata.json` (a readable copy), `README.md` (the model card) and the manifest.

    Args:
        run: a run's folder, or a checkpoint.
        sources: what it was trained on, "NAME; LICENCE; CITATION" each.
        changes: entries of the metadata (`rnca.tidy.Tidying`, `object_size`) that differ from those of the run's
            parent.
    """
    if not path.exists() and path.with_name("README.md").exists():
        raise InputError(
            f"{path.parent} holds another README.md, which the model card would replace: give a new folder."
        )
    checkpoint = run / CHECKPOINT if run.is_dir() else run
    about, arrays = read_checkpoint(checkpoint)
    folder = checkpoint.parent

    def stored(file: str) -> dict[str, Any]:
        found = folder / file
        return dict(json.loads(found.read_text(encoding="utf-8"))) if found.exists() else {}

    known = stored(RUN)
    command, lineage = known.pop("command", ""), known.pop("lineage", None)
    size = {"object_size": known.get("data", {}).get("object_size", 0)}
    rules = size | known.pop("tidying", {}) | dict(changes or {})
    metadata = describe(
        net_from(about, arrays),
        name,
        version,
        description=description,
        licence=licence,
        intensity=known.get("data", {}).get("intensity", PERCENTILES),
        colour=known.get("data", {}).get("colour", "luminance"),
        **rules,
        trained_on=[parse_source(text) for text in sources],
        training={**known, "settings": about["settings"], "iteration": about["iteration"]},
        figures=stored("figures.json"),
        parent=lineage,
    )
    save_model(net_from(about, arrays), path, metadata)
    write_json(path.with_name("metadata.json"), asdict(load_model(path).metadata))
    write_text(path.with_name("README.md"), card(metadata, command))
    return path
