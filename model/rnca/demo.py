"""The whole story on the sample data: what is broken, its repair, how good it is, in pictures (`rnca demo`).

Where the extra `server` is installed, a server is started that streams the repairs and keeps the corrections, as it
would for a clinician; else the same repairs are made in this process.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .bars import progress_bar
from .errors import InputError
from .files import list_images, read_image, read_mask, write_image, write_text
from .geometry import Grid, as_array, slice_axis
from .jobs import NOTICE, animation
from .live import Server, is_installed
from .metrics import dice
from .pages import legend, page, table
from .pictures import ADDED, KEPT, REMOVED, Picture, caption, enlarge, grey, overlay, sheet, write_gif, write_png
from .registry import Registry
from .rollout import stream
from .samples import sample_folder
from .topology import betti_numbers
from .zoo import Model, load_model

if TYPE_CHECKING:
    from rich.console import Console

MODEL, CASES = "ring-2d", "ring-"  # the shipped model, and the names of the samples that it is for
TOLD_STEPS = (1, 4, 8, 16, 32)
SHOWN_SLICES = 6

Mask = NDArray[np.bool_]
Counts = tuple[int, int]  # pieces and holes


@dataclass
class Outcome:
    """A repaired sample: masks as slices (N, H, W), N = 1 in 2-D, and figures."""

    name: str
    image: NDArray[Any]
    before: Mask
    after: Mask
    truth: Mask
    seconds: float

    @property
    def repaired(self) -> bool:
        """Whether each slice has as many pieces and holes as it should."""
        return self.right_slices(self.after) == len(self.truth)

    def right_slices(self, mask: Mask) -> int:
        return sum(betti_numbers(a) == betti_numbers(b) for a, b in zip(mask, self.truth, strict=True))

    def dice(self, mask: Mask) -> float:
        return dice(mask, self.truth)


def run_demo(output: Path, out: "Console", model: str | Path = MODEL) -> None:
    """Repair the sample masks and write masks/, pictures, animations and demo.html into a folder.

    Raises:
        InputError: no sample data, no such model, the folder cannot be written, or the server does not start.
    """
    from rich.table import Table

    samples = sample_folder()
    names = {name: path.name for name, path in list_images(samples / "masks").items() if name.startswith(CASES)}
    chosen = load_model(model)
    try:
        (output / "masks").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {output}: {(error.strerror or str(error)).lower()}.") from error
    out.print(
        f"{len(names)} masks of rings that were closed and were broken on purpose. The automaton gets the image and the"
        f" broken mask; the right answer is only used to judge it.\n{NOTICE}\n"
    )
    outcomes = []
    with maybe_server(samples, names, chosen, out) as server:
        for name, file in names.items():
            outcome = repair(samples, name, file, output, chosen, server, out)
            write_png(before_after(outcome), output / f"{name}_before_after.png")
            outcomes.append(outcome)
        if server:
            kept = [server.submit(name, output / "masks" / file) for name, file in names.items()]
            tags = [tag for tag in kept[0] if all(tag in found for found in kept)]
            out.print(f"{len(kept)} results were submitted; of each the server keeps: {', '.join(tags)}.\n")
    write_text(output / "demo.html", demo_page(outcomes, chosen, try_it(samples, names, model)))

    shown = Table(*FIGURES)
    for outcome in outcomes:
        shown.add_row(*figures(outcome))
    out.print(shown)
    out.print(f"\nLook at {output / 'demo.html'} (pictures and animations of every case). Then try it yourself:\n")
    out.print(f"  {try_it(samples, names, model)}")


@contextmanager
def maybe_server(samples: Path, names: dict[str, str], model: Model, out: "Console") -> Iterator[Server | None]:
    """A server for copies of the sample images, in a folder that goes away with it; None where none is installed."""
    if not is_installed():
        out.print("No server is installed here (extra `server`), so the repairs are made in this process.\n")
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="rnca-demo-") as folder:
        studies = Path(folder)
        for file in names.values():
            shutil.copyfile(samples / "images" / file, studies / file)
        registry = Registry(studies / ".rnca" / "models")
        name = model.metadata.name
        if name not in registry.names() or registry.active(name).sha256 != model.sha256:  # it was given as a file
            registry.publish(model.definition, model.metadata, user="demo", gate={}, data={})
        out.print("Starting a server (rnca serve) for the images …")
        with Server.start(studies, name) as server:
            out.print(f"It answers on {server.address} and streams each repair, step by step.\n")
            yield server
        out.print("The server has ended.\n")


def repair(
    samples: Path, name: str, file: str, output: Path, model: Model, server: Server | None, out: "Console"
) -> Outcome:
    """Repair one sample into the output folder and tell how it goes."""
    paths = [samples / part / file for part in ("images", "masks", "truth")]
    image, mask, truth = (read(path) for read, path in zip((read_image, read_mask, read_mask), paths, strict=True))
    right = as_slices(as_array(truth) != 0, mask, model)
    where = "" if len(right) == 1 else f", counted in its {len(right)} slices"
    start = as_slices(as_array(mask) != 0, mask, model)
    out.print(f"{name}: {told(counts(start))}{where}; right would be {told(counts(right))}.")
    steps = server.stream(name, paths[1]) if server else stream(image, mask, model)
    frames: list[NDArray[np.uint8]] = []
    numbers: list[int] = []
    with progress_bar(out, "reading") as advance:
        for step in steps:
            values = as_array(step.mask) != 0
            frames.append(np.packbits(values))
            numbers.append(step.index)
            now = told(counts(as_slices(values, mask, model)))
            advance(step.index, step.steps, f"{step.changed} pixels changed, {now}")
            if step.index in TOLD_STEPS or step.reason:
                out.print(f"  step {step.index:2}: {step.changed:3} pixels changed, {now}")
    write_image(step.mask, output / "masks" / file)
    pictures = animation(image, mask, frames, model.metadata.slice_axis, soft=False, numbers=numbers)
    write_gif(pictures, output / f"{name}.gif")
    end = as_slices(values, mask, model)
    return Outcome(name, as_slices(as_array(image), mask, model), start, end, right, step.seconds)


def as_slices(array: NDArray[Any], mask: Any, model: Model) -> NDArray[Any]:
    """(N, H, W): a 2-D image as one slice, a volume along the axis on which the model goes from slice to slice."""
    if array.ndim == 2:
        return array[None]
    grid = Grid.of(mask)
    return np.moveaxis(array, slice_axis(grid.spacing, grid.shape, model.metadata.slice_axis), 0)


def counts(slices: Mask) -> Counts:
    """Pieces and holes, of a volume summed over its slices."""
    pieces, holes = np.sum([betti_numbers(mask) for mask in slices], axis=0)
    return int(pieces), int(holes)


def told(found: Counts) -> str:
    """Counts in words."""
    return " and ".join(
        f"{n} {what if n == 1 else what + 's'}" for n, what in zip(found, ("piece", "hole"), strict=True)
    )


FIGURES = ("case", "Dice", "pieces (right)", "holes (right)", "repaired")


def figures(outcome: Outcome) -> list[str]:
    """A line of the table: before → after."""
    before, after, right = (counts(mask) for mask in (outcome.before, outcome.after, outcome.truth))
    yes = "yes" if outcome.repaired else "no"
    if len(outcome.truth) > 1:
        yes += f", {outcome.right_slices(outcome.after)} of {len(outcome.truth)} slices"
    return [
        outcome.name,
        f"{outcome.dice(outcome.before):.3f} → {outcome.dice(outcome.after):.3f}",
        *(f"{b} → {a} ({r})" for b, a, r in zip(before, after, right, strict=True)),
        yes,
    ]


def before_after(outcome: Outcome) -> Picture:
    """One picture: image, broken mask, repaired mask, right mask; of a volume, a row for each and some slices."""
    columns = (
        ("image", None),
        (f"broken: {told(counts(outcome.before))}", outcome.before),
        (f"repaired: {told(counts(outcome.after))}", outcome.after),
        (f"right answer: {told(counts(outcome.truth))}", outcome.truth),
    )
    if len(outcome.truth) == 1:
        return sheet([[caption(_shown(outcome, mask, 0, 384), text, size=20) for text, mask in columns]])
    some = np.linspace(0, len(outcome.truth) - 1, SHOWN_SLICES).round().astype(int)
    rows = []
    for text, mask in columns:
        pictures = [_shown(outcome, mask, n, 256) for n in some]
        line = sheet([pictures])
        rows.append(
            [caption(line, f"{text} in all {len(outcome.truth)} slices" if mask is not None else text, size=20)]
        )
    return sheet(rows, gap=0)


def _shown(outcome: Outcome, mask: Mask | None, n: int, edge: int) -> Picture:
    picture = grey(outcome.image[n])
    if mask is None:
        return enlarge(picture, edge)
    before = outcome.before[n] if mask is outcome.after else mask[n]
    return enlarge(overlay(picture, before, mask[n]), edge)


def try_it(samples: Path, names: dict[str, str], model: str | Path) -> str:
    """A command to type next."""
    file = next(iter(names.values()))
    image, mask = (quote(str(samples / part / file)) for part in ("images", "masks"))
    chosen = "" if model == MODEL else f" --model {quote(str(model))}"
    return f"rnca refine {image} {mask} -o repaired.png{chosen} --animate repair.gif"


def demo_page(outcomes: Sequence[Outcome], model: Model, command: str) -> str:
    """demo.html: what it is about, the figures, and the pictures of each case."""
    meta = model.metadata
    right = sum(outcome.repaired for outcome in outcomes)
    parts = [
        f'<p class="notice">{escape(NOTICE)}</p>',
        "<p>A program made these images and the right masks, which are closed rings. Then the masks were broken: gaps,"
        " missing sectors, thin places, loose islands. The automaton gets an image and a broken mask. At each step each"
        " pixel in or beside the mask looks at its neighbours and at the image, and the mask may grow by one pixel. The"
        " right mask is only used to judge the result.</p>",
        f"<p><b>{right} of {len(outcomes)} masks are repaired</b>: they have as many pieces and holes as they should."
        " A closed ring is one piece with one hole; a ring with a gap has no hole, and each further gap makes one more"
        " piece. Dice is the overlap with the right mask; 1 is perfect.</p>",
        table(FIGURES, [[escape(cell) for cell in figures(outcome)] for outcome in outcomes]),
        "<p>The colours in the pictures:</p>",
        legend(((KEPT, "mask"), (ADDED, "added by the repair"), (REMOVED, "removed by the repair"))),
    ]
    for outcome in outcomes:
        before, after, right_counts = (counts(mask) for mask in (outcome.before, outcome.after, outcome.truth))
        slices = len(outcome.truth)
        what = f"A volume of {slices} slices, repaired slice by slice. In all slices together" if slices > 1 else "Here"
        name = escape(outcome.name)
        parts += [
            f"<h2>{name}</h2>",
            f"<p>{what} the broken mask has {told(before)}, the repaired one {told(after)}, and right are"
            f" {told(right_counts)}. Dice {outcome.dice(outcome.before):.3f} → {outcome.dice(outcome.after):.3f}, in"
            f" {outcome.seconds:.1f} seconds.</p>",
            f'<figure><img src="{name}_before_after.png" alt="image, broken, repaired and right mask"></figure>',
            f'<figure><img src="{name}.gif" alt="the repair, step by step"><figcaption>The repair, step by step'
            f"{' (the slice that changes most)' if slices > 1 else ''}.</figcaption></figure>",
        ]
    parts += [
        "<h2>Try it yourself</h2>",
        f"<pre>{escape(command)}</pre>",
        f'<p class="soft">Model {escape(meta.name)} {escape(meta.version)}. The repaired masks are in masks/.</p>',
    ]
    return page("Broken masks that repair themselves", *parts)
