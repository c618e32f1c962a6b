"""The command line `rnca` (design, contract 2). Commands import what they need when they run: `--help` stays quick."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import DEFAULT_MODEL, __version__
from .errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    name="rnca",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Repair broken segmentation masks with a neural cellular automaton guided by the image.\n\n"
    "For research use only; not a medical device.",
)

Model = Annotated[str, typer.Option(help="Shipped model (see `rnca models`) or path to a NAME.ts.")]
Steps = Annotated[int | None, typer.Option(help="Updates; default: the model's.", show_default=False)]
Label = Annotated[str | None, typer.Option(help="Value to repair, or `all` in turn.", show_default=False)]
Report = Annotated[Path | None, typer.Option(help="Write the run record (JSON) here.", show_default=False)]
Out = Annotated[Path, typer.Option("-o", "--output", help="File to write; its suffix is the format.")]


class Device(str, Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def main() -> None:
    """Entry point: bad input is one line on stderr and exit code 2; Ctrl-C, or being told to end, is 130."""
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        code = typer.main.get_command(app).main(prog_name="rnca", standalone_mode=False) or 0
    except InputError as error:
        code = fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        if out_of_memory(error):
            code = fail("not enough memory: give a region of interest (--roi), or a smaller image.")
        elif hasattr(error, "format_message"):
            hint = getattr(getattr(error, "ctx", None), "command_path", "rnca")
            code = fail(f"{error.format_message().rstrip('.')}; see `{hint} --help`.")
        else:
            raise
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
    if code == INTERRUPTED:  # some versions of Typer return it, others raise
        fail("interrupted; nothing was half-written.")
    sys.exit(code)


INTERRUPTED = 130


def interrupt(*_: object) -> None:
    """End as by Ctrl-C, which takes temporary files along."""
    raise KeyboardInterrupt


def out_of_memory(error: Exception) -> bool:
    """Whether NumPy, ITK or torch (which has an error of its own for GPUs only) could not get memory."""
    text = str(error)
    return isinstance(error, MemoryError) or "allocate memory" in text or "CUDA out of memory" in text


def fail(sentence: str) -> int:
    """Say what is wrong on stderr; returns the exit code."""
    print(f"rnca: {sentence}", file=sys.stderr)
    return 2


def console() -> "Console":
    """Where commands say what they did: stderr, so that stdout stays for data."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)  # file names are not markup


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if show:
        print(f"rnca {__version__}")
        raise typer.Exit


@app.command(
    epilog="Example: rnca refine image.nii.gz mask.nii.gz -o repaired.nii.gz --model ring-2d --animate repair.gif"
)
def refine(
    image: Annotated[Path, typer.Argument(help="PNG, TIFF, NIfTI, NRRD, MHA, or a folder of DICOM slices.")],
    mask: Annotated[Path, typer.Argument(help="The mask to repair, on the image's grid.")],
    output: Out,
    model: Model = DEFAULT_MODEL,
    steps: Steps = None,
    label: Label = None,
    soft: Annotated[bool, typer.Option(help="The mask is grey: starting values in 0..1 (8-bit: value/255).")] = False,
    roi: Annotated[
        str | None, typer.Option(help="Change only this box: i0:i1,j0:j1[,k0:k1].", show_default=False)
    ] = None,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    patience: Annotated[int, typer.Option(help="Stop when nothing changed for this many steps; 0: never early.")] = 0,
    bfloat16: Annotated[bool, typer.Option(help="Faster matrix products, not bit-identical.")] = False,
    confidence: Annotated[
        Path | None, typer.Option(help="Write how often stochastic rollouts agree.", show_default=False)
    ] = None,
    animate: Annotated[Path | None, typer.Option(help="Write a GIF of the repair.", show_default=False)] = None,
    report: Report = None,
) -> None:
    """Repair a mask."""
    from .jobs import Options, refine_file

    options = Options(
        model, steps, parse_label(label), soft, roi, device.value, patience, bfloat16, confidence, animate, report
    )
    out = console()
    with step_bar(out) as on_step:
        record = refine_file(image, mask, output, options, on_step=on_step)
    for row in record["labels"]:
        out.print(describe_label(row))
        if row["removed"] > row["topology"]["before"]["voxels"] / 2:
            out.print(f"more than half of it was removed: {record['model']['name']} was hardly made for such masks.")
    seconds = record["seconds"]
    out.print(
        f"{output} written in {seconds['total']:.2f} s with {record['model']['name']} {record['model']['version']}."
    )
    for path in filter(None, (confidence, animate, report)):
        out.print(f"{path} written.")


def describe_label(row: dict[str, Any]) -> str:
    """One label of a run record in a sentence."""
    if row["reason"] == "empty":
        why = "it has no voxel here, and the automaton only grows from what is there"
        return f"label {row['label']:g}: nothing to repair: {why}."
    parts = [
        f"{name} {row['topology']['before'][name]} → {row['topology']['after'][name]}"
        for name in ("pieces", "holes", "tunnels", "cavities")
        if name in row["topology"]["before"]
    ]
    if not row["added"] and not row["removed"]:
        return (
            f"label {row['label']:g}: {', '.join(parts)}; no voxel changed in {row['steps']} steps;"
            " with --roi changes are made that are slight beside the whole mask."
        )
    return (
        f"label {row['label']:g}: {', '.join(parts)}; {row['added']} voxels added, {row['removed']} removed"
        f" in {row['steps']} steps{', when it had come to rest' if row['reason'] == 'converged' else ''}."
    )


@contextmanager
def step_bar(out: "Console") -> Iterator[Any]:
    """A progress bar over the steps; yields the listener."""
    from .bars import progress_bar

    with progress_bar(out, "reading") as advance:
        yield lambda step: advance(step.index, step.steps, f"label {step.label:g}: {step.changed} voxels changed")


def parse_label(text: str | None, word: str = "all") -> Any:
    """The value of --label: a number, or the word that stands for all of them."""
    if text is None or text == word:
        return text
    try:
        return int(text)
    except ValueError:
        raise InputError(f"label is {text!r}: give a whole number or {word}.") from None


@app.command(epilog="Example: rnca check mask.nii.gz --image image.nii.gz --report check.json")
def check(
    mask: Annotated[Path, typer.Argument(help="The mask to look at.")],
    image: Annotated[Path | None, typer.Option(help="Also check that the mask lies on this image's grid.")] = None,
    label: Label = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of tables.")] = False,
    report: Report = None,
) -> None:
    """Tell the topology of a mask, and where its defects are."""
    from .jobs import check_file, check_outputs

    check_outputs([report], mask, image)
    record = check_file(mask, image, parse_label(label))
    write_record(record, report)
    if json:
        print(dumps(record, indent=2))
        return
    from rich.table import Table

    out = console()
    if not record["labels"]:
        out.print(f"{mask} is empty: it holds no label.")
    for row in record["labels"]:
        betti = ", ".join(f"β{i} = {b}" for i, b in enumerate(row["topology"]["betti"]))
        out.print(f"label {row['label']:g}: {row['topology']['voxels']} voxels, {betti}")
        table = Table("defect", "size", "centre (i, j, k)", "box (i, j, k)")
        for defect in row["defects"][:50]:
            loops = f" × {defect['count']}" if defect["count"] > 1 else ""
            centre = ", ".join(f"{c:.1f}" for c in reversed(defect["centroid"]))
            box = ", ".join(f"{low}:{high}" for low, high in reversed(defect["bbox"]))
            table.add_row(defect["kind"] + loops, str(defect["size"]), centre, box)
        if row["defects"]:
            out.print(table)
        if len(row["defects"]) > 50:
            out.print(f"… and {len(row['defects']) - 50} more (--json lists all).")


@app.command(epilog="Example: rnca evaluate repaired/ truth/ --before masks/ -o scores.csv")
def evaluate(
    pred: Annotated[Path, typer.Argument(help="A mask, or a folder of masks.")],
    truth: Annotated[Path, typer.Argument(help="The right mask, or a folder with the same names.")],
    before: Annotated[Path | None, typer.Option(help="Masks before the repair: tells repaired and harmed.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write a row a case (CSV).")] = None,
    label: Annotated[int | None, typer.Option(help="Value to judge; default: every non-zero one as one.")] = None,
    report: Report = None,
) -> None:
    """Measure masks: Dice, clDice, Hausdorff and surface distances, Betti errors."""
    from rich.table import Table

    from .files import list_images
    from .jobs import check_outputs, evaluate_files, write_csv

    out = console()
    check_outputs([output, report], pred, truth, before)
    rows, means = evaluate_files(pred, truth, before, label)
    if pred.is_dir() and truth.is_dir():
        lacking = sorted(set(list_images(truth)) - {row["case"] for row in rows})
        if lacking:
            out.print(f"without a prediction, and so in no mean: {', '.join(lacking)}.")
    if output:
        write_csv(output, rows)
    write_record({"rnca": __version__, "cases": rows, "mean": {k: v[0] for k, v in means.items()}}, report)
    table = Table("metric", "mean", "std", "cases")
    for name, (mean, std, count) in means.items():
        table.add_row(name, f"{mean:.4f}", f"{std:.4f}", str(count))
    out.print(table)


@app.command(epilog="Example: rnca damage mask.png -o broken.png --kind gaps --severity 0.7 --seed 3")
def damage(
    mask: Annotated[Path, typer.Argument(help="The mask to damage.")],
    output: Out,
    kind: Annotated[
        str, typer.Option(help="gaps, holes, chunks, wedges, thin, thick, open, islands, bridges, mixed or none.")
    ],
    seed: Annotated[int, typer.Option(help="Same seed, same damage.")],
    severity: Annotated[float, typer.Option(help="0 (mild) to 1.")] = 0.5,
    label: Annotated[int | None, typer.Option(help="Value to damage; default: the only one there is.")] = None,
    report: Report = None,
) -> None:
    """Break a mask as networks and editors do: to train on, to test with."""
    from .jobs import damage_file

    record = damage_file(mask, output, kind, severity, seed, label, report)
    row = record["labels"][0]
    console().print(f"{output} written: {row['added']} voxels added, {row['removed']} removed.")


@app.command(epilog="Example: rnca batch --images images/ --masks masks/ -o repaired/ --model ring-2d --jobs 2")
def batch(
    images: Annotated[Path, typer.Option(help="Folder of images.")],
    masks: Annotated[Path, typer.Option(help="Folder of masks with the images' names.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write to; what is there already is kept.")],
    model: Model = DEFAULT_MODEL,
    steps: Steps = None,
    label: Label = None,
    soft: Annotated[bool, typer.Option(help="Masks are grey: starting values in 0..1.")] = False,
    roi: Annotated[str | None, typer.Option(help="Change only this box: i0:i1,j0:j1[,k0:k1].")] = None,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    patience: Annotated[int, typer.Option(help="Stop when nothing changed for this many steps; 0: never early.")] = 0,
    bfloat16: Annotated[bool, typer.Option(help="Faster matrix products, not bit-identical.")] = False,
    jobs: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
) -> None:
    """Repair a folder of masks: masks/, reports/, summary.csv and summary.html; resumes where it stopped."""
    from .batch import run_batch
    from .jobs import Options

    options = Options(model, steps, parse_label(label), soft, roi, device.value, patience, bfloat16)
    out = console()
    failed = run_batch(images, masks, output, options, jobs, out)
    out.print(f"{output / 'summary.html'} written.")
    if failed:
        raise typer.Exit(1)


@app.command(epilog="Example: rnca models ring-2d")
def models(
    name: Annotated[str | None, typer.Argument(help="Show this model's card.")] = None,
    trust: Annotated[
        Path | None, typer.Option(help="List a NAME.ts in the manifest beside it, so that it may be loaded.")
    ] = None,
    studies: Annotated[
        Path | None, typer.Option(help="The folder that a server serves: list its models with every version.")
    ] = None,
    activate: Annotated[
        str | None, typer.Option(help="With --studies and NAME: the version to use from now on (publish, roll back).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print metadata as JSON on stdout.")] = False,
) -> None:
    """List the shipped models or a server's, show one, trust one from elsewhere, or roll a server's back."""
    from dataclasses import asdict

    from . import zoo

    out = console()
    if trust:
        out.print(f"{trust} is trusted now: SHA-256 {zoo.trust(trust)}.")
        return
    if studies or activate:
        list_versions(studies, name, activate, json)
        return
    if name and name not in zoo.shipped():
        raise InputError(f"there is no shipped model {name!r}: the list is {', '.join(zoo.shipped())}.")
    known = {n: zoo.shipped_metadata(n) for n in ([name] if name else zoo.shipped())}
    if json:
        print(dumps({n: asdict(m) for n, m in known.items()}, indent=2))
    elif name:
        from rich.markdown import Markdown

        out.print(Markdown((zoo.ZOO / name / "README.md").read_text(encoding="utf-8")))
    else:
        from rich.table import Table

        table = Table("model", "version", "dims", "what it does", "licence")
        for n, m in known.items():
            table.add_row(n, m.version, f"{m.dims}-D", m.description, m.licence)
        out.print(table)


def list_versions(studies: Path | None, name: str | None, version: str | None, as_json: bool) -> None:
    """The versions that a server has, and which of them it uses; with `version` that one from now on."""
    from dataclasses import asdict
    from getpass import getuser

    from rich.table import Table

    from .registry import open_registry

    if studies is None:
        raise InputError("--activate changes a server's model: say whose with --studies DIR.")
    registry, out = open_registry(studies), console()
    if version:
        if not name:
            raise InputError("--activate needs the model's name: rnca models NAME --studies DIR --activate VERSION.")
        registry.load(registry.record(name, version))
        record = registry.activate(name, version, getuser())
        out.print(f"{name} {version} is used from now on: SHA-256 {record.sha256}.")
        return
    known = {n: registry.versions(n) for n in ([name] if name else registry.names())}
    if as_json:
        print(dumps({n: [asdict(r) for r in records] for n, records in known.items()}, indent=2))
        return
    table = Table("model", "version", "used", "made", "by", "from")
    for n, records in known.items():
        used = registry.active(n).version
        for r in records:
            parent = " ".join((r.parent or "").split()[:2])
            made = "shipped" if r.shipped else r.created
            table.add_row(n, r.version, "yes" if r.version == used else "", made, r.user, parent)
    out.print(table)


@app.command(epilog="Example: rnca train cases/ -o runs/mine --iterations 3000 --kinds wedges,gaps,thin")
def train(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the run: checkpoint, log, pictures, model.")
    ],
    cases: Annotated[
        list[Path] | None, typer.Argument(help="Folders with images/ and labels/ (states/, predictions/*/).")
    ] = None,
    phantoms: Annotated[
        list[str] | None, typer.Option(help="Generated cases KIND:COUNT[:SIZE], e.g. rings:200; may be repeated.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the model.")] = "model",
    dims: Annotated[int, typer.Option(help="2 or 3.")] = 2,
    channels: Annotated[int, typer.Option(help="Image channels.")] = 1,
    hidden: Annotated[int, typer.Option(help="Hidden width.")] = 128,
    label: Annotated[
        str | None,
        typer.Option(help="Value to train on in label maps, or `each` in cases of its own; default: all as one."),
    ] = None,
    iterations: Annotated[int, typer.Option(help="Updates of the weights.", min=1)] = 3000,
    batch: Annotated[int, typer.Option(help="States an iteration.", min=1)] = 8,
    fresh: Annotated[int, typer.Option(help="States of a batch that are new; the others go on.", min=1)] = 2,
    rate: Annotated[float, typer.Option(help="Learning rate of the first iterations.", min=0)] = 1e-3,
    patch: Annotated[int, typer.Option(help="Edge of a patch, pixels.", min=8)] = 64,
    kinds: Annotated[str, typer.Option(help="Kinds of damage, separated by commas.")] = "mixed",
    clean: Annotated[float, typer.Option(help="Share of starts that are right already.", min=0, max=1)] = 0.15,
    given: Annotated[
        float, typer.Option(help="Share of the others taken from states/ and predictions/.", min=0, max=1)
    ] = 0.7,
    soft: Annotated[
        float, typer.Option(help="Share of starts that stay soft; the others are binary.", min=0, max=1)
    ] = 0.5,
    severity: Annotated[tuple[float, float], typer.Option(help="Least and greatest severity of the damage, 0..1.")] = (
        0.1,
        0.8,
    ),
    focus: Annotated[float, typer.Option(help="Extra weight in the loss of pixels that are wrong.", min=0)] = 0.0,
    hold: Annotated[float, typer.Option(help="Extra weight in the loss of pixels that were right.", min=0)] = 0.0,
    topology: Annotated[
        float,
        typer.Option(help="Extra weight of what is wrong and not only at the outline: holes, gaps, specks.", min=0),
    ] = 0.0,
    most: Annotated[int, typer.Option(help="Defects made one after the other, up to this many.", min=1)] = 1,
    zoom: Annotated[tuple[float, float], typer.Option(help="Least and greatest factor cases are enlarged by.")] = (
        1.0,
        1.0,
    ),
    neighbours: Annotated[
        float, typer.Option(help="Share of patches that get something as bright beside the object.", min=0, max=1)
    ] = 0.0,
    validation: Annotated[float, typer.Option(help="Share of the cases kept for validation.", min=0, max=1)] = 0.2,
    val: Annotated[
        list[Path] | None, typer.Option(help="Folder of cases to validate on, instead of a share; may be repeated.")
    ] = None,
    intensity: Annotated[
        str, typer.Option(help="Normalisation: percentile, zscore, local[:SIGMA], window:LOW:HIGH, unit, none.")
    ] = "percentile",
    scales: Annotated[str, typer.Option(help="Blurs of the image given to the network, pixels.")] = "0",
    colour: Annotated[str, typer.Option(help="How colour becomes one channel: luminance or green.")] = "luminance",
    start_from: Annotated[str | None, typer.Option("--from", help="Fine-tune this model (name or path).")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same run (on the CPU).")] = 0,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    workers: Annotated[
        int, typer.Option(help="Processes that damage masks ahead of time, for a GPU; 0: none.", min=0)
    ] = 0,
) -> None:
    """Train a model, or go on where a run in the same folder was interrupted."""
    from .intensity import parse_intensity
    from .runs import Data, train_run
    from .training import Settings, Starts

    spec = parse_intensity(intensity, scales)
    starts = Starts(tuple(kinds.split(",")), severity, clean, given, soft, most)
    if not 0 < zoom[0] <= zoom[1]:
        raise InputError(f"zoom is {zoom[0]:g} to {zoom[1]:g}: give the smaller factor first, both above 0.")
    settings = Settings(
        iterations=iterations,
        batch=batch,
        fresh=min(fresh, batch),
        patch=patch,
        seed=seed,
        starts=starts,
        focus=focus,
        hold=hold,
        topology=topology,
        zoom=zoom,
        neighbours=neighbours,
        learning_rate=rate,
    )
    data = Data(
        tuple(cases or ()),
        tuple(phantoms or ()),
        parse_label(label, "each"),
        validation,
        tuple(val or ()),
        spec,
        colour,
    )
    net = {"dims": dims, "image_channels": channels * len(spec.get("scales", [0])), "hidden": hidden}
    out = console()
    path = train_run(output, name, data, net, settings, start_from, device.value, out, workers)
    out.print(f"{path} written; try it: rnca refine IMAGE MASK -o OUT --model {path}")


def of_parent(text: str, *names: str, least: float | None = None, most: float | None = None) -> Any:
    """An option of `export` for a rule that a model otherwise has from its parent."""
    return typer.Option(*names, help=f"{text}; default: as the run's parent.", min=least, max=most, show_default=False)


@app.command(epilog="Example: rnca export runs/mine -o mine/mine.ts --name mine --version 1.0.0")
def export(
    run: Annotated[Path, typer.Argument(help="A training run's folder, or a checkpoint.npz.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="NAME.ts to write; listed in the manifest beside it.")],
    name: Annotated[str | None, typer.Option(help="Name in the metadata; default: the file's.")] = None,
    version: Annotated[str, typer.Option(help="Version in the metadata.")] = "0.1.0",
    description: Annotated[str, typer.Option(help="One line on what it does.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the weights.")] = "",
    trained_on: Annotated[list[str] | None, typer.Option(help="'NAME; LICENCE; CITATION'; may be repeated.")] = None,
    specks: Annotated[
        int | None, of_parent("Dots, pinholes and cuts up to this many voxels are undone", least=0)
    ] = None,
    nibbles: Annotated[
        int | None, of_parent("Changes at the border up to this many voxels are undone", least=0)
    ] = None,
    bites: Annotated[int | None, of_parent("The same for those that take something away alone", least=0)] = None,
    looks: Annotated[
        int | None,
        of_parent("Growth of this many voxels or more that looks like background is undone; 0: none", least=0),
    ] = None,
    bulges: Annotated[
        float | None,
        of_parent(
            "Changes that mend nothing and take less than this share of the outline away that they make are undone: 1"
            " undoes all growth that makes an outline longer",
            least=0,
        ),
    ] = None,
    keep_holes: Annotated[
        bool | None,
        of_parent("Whether small holes are the objects' own and not filled", "--keep-holes/--fill-holes"),
    ] = None,
    bays: Annotated[
        int | None, of_parent("Bays up to this many voxels wide that were left half filled are filled", least=0)
    ] = None,
    gaps: Annotated[
        int | None, of_parent("Pieces with up to this many voxels between them are joined", least=0)
    ] = None,
    tolerance: Annotated[
        float | None,
        of_parent(
            "A repair that moves a whole mask's outline by no more than this share of it leaves it alone",
            least=0,
            most=1,
        ),
    ] = None,
    object_size: Annotated[
        int | None, of_parent("Objects whose longer side has more voxels are repaired on a coarser grid", least=0)
    ] = None,
    betti: Annotated[
        str | None,
        of_parent(
            "Betti numbers of the one object that a mask holds, as 1,1 for a ring: once it is whole, other pieces go;"
            " 'none' for no such object"
        ),
    ] = None,
) -> None:
    """Make a model archive from a training run, its latest checkpoint, with metadata and a model card beside it."""
    from .runs import export_run
    from .tidy import object_betti

    given = {
        "speck_size": specks,
        "nibble_size": nibbles,
        "bite_size": bites,
        "look_size": looks,
        "bulge_ratio": bulges,
        "keep_holes": keep_holes,
        "bay_width": bays,
        "gap_size": gaps,
        "tolerance": tolerance,
        "object_size": object_size,
    }
    rules: dict[str, Any] = {entry: value for entry, value in given.items() if value is not None}
    if betti is not None:
        rules["object_betti"] = object_betti(betti)
    path = export_run(run, output, name or output.stem, version, description, licence, trained_on or (), rules)
    console().print(f"{path} written.")


@app.command(epilog="Example: rnca serve --studies studies/ --port 8000")
def serve(
    studies: Annotated[str, typer.Option(help="Folder of images, or the address of a DICOMweb archive.")],
    host: Annotated[str, typer.Option(help="Address to listen on; others than this computer's demand a login.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
    model: Annotated[str, typer.Option(help="Model used where a client names none.")] = DEFAULT_MODEL,
    state: Annotated[
        Path | None, typer.Option(help="Where the server keeps what is its own; default: STUDIES/.rnca.")
    ] = None,
    conf: Annotated[
        list[str] | None, typer.Option(help="A setting of the app as NAME=VALUE; may be repeated.", show_default=False)
    ] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(help="Key for TLS without a proxy.")] = None,
    ssl_certfile: Annotated[Path | None, typer.Option(help="Certificate for TLS without a proxy.")] = None,
) -> None:
    """Start the MONAI Label server: refine, watch live, learn from corrections. Needs the extra `server`."""
    from .serve import serve as run

    settings = {"model": model} | ({"state": str(state)} if state else {})
    for text in conf or ():
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--conf is given as NAME=VALUE, not as {text!r}.")
        settings[key] = value
    run(studies, host, port, settings, ssl_keyfile, ssl_certfile)


@app.command(epilog="Example: rnca view image.nii.gz mask.nii.gz")
def view(
    image: Annotated[Path | None, typer.Argument(help="Image; default: a sample case.", show_default=False)] = None,
    mask: Annotated[Path | None, typer.Argument(help="Mask on its grid.", show_default=False)] = None,
    server: Annotated[
        str | None, typer.Option(help="Address of a server that refines; default: this computer.", show_default=False)
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on: this computer's own.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8080,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the browser.")] = True,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Listen on another --host; put TLS and a login before it.")
    ] = False,
) -> None:
    """Watch a repair in a browser: refine, stop, look back, accept, undo, save. Needs the extra `view`."""
    from .view import view as run

    run(image, mask, server, host, port, open_, allow_remote)


@app.command(epilog="Example: rnca demo -o demo-output")
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the pictures and masks.")] = Path(
        "demo-output"
    ),
) -> None:
    """The whole story on the sample data: damaged masks, a server that repairs them live, figures and pictures."""
    from .demo import run_demo

    run_demo(output, console())


def write_record(record: dict[str, Any], path: Path | None) -> None:
    """Write a run record where --report asks for one."""
    if path:
        from .files import write_json

        write_json(path, record)
