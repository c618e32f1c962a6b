"""Model cards: metadata as a page a person reads. Written beside an archive by `rnca export`."""

from collections.abc import Mapping
from typing import Any

from .errors import InputError
from .zoo import Metadata


def card(meta: Metadata, command: str = "") -> str:
    """The card of a model, Markdown: what it is for, data and licence, figures, limits."""
    weights = f"K = {meta.state_channels} channels, {meta.filters} filters, hidden width {meta.hidden}"
    spacing = "any" if meta.spacing is None else f"{meta.spacing} {meta.spacing_unit}"
    sections = [
        f"# {meta.name} {meta.version}",
        meta.description,
        f"**Intended use.** {meta.intended_use}",
        "**Limits.** It repairs what looks like its training data; try it on cases of yours that you know the right"
        " mask of before relying on it. It grows from what is there, at most one pixel a step: an empty mask stays"
        " empty, and a gap wider than twice the steps stays open.",
        "## Model",
        "\n".join(
            [
                f"- {meta.dims}-D, {meta.image_channels} image channel(s); {weights};"
                f" alive above {meta.alive_threshold}",
                f"- intensities: {_words(meta.intensity)}; spacing: {spacing};"
                f" slices of a volume: {meta.slice_axis.replace('_', ' ')}",
                f"- {meta.steps} steps; {_tidying(meta)}weights SHA-256 `{meta.weights_sha256}`",
                f"- parent: {meta.parent or 'none, trained from scratch'}",
            ]
        ),
        "## Data and licence",
        "\n".join(f"- {data['name']}: {data['licence']}. {data['citation']}".rstrip() for data in meta.trained_on)
        or "Not stated.",
        f"Licence of the weights: {meta.licence or 'not stated'}.",
    ]
    if command:
        sections += ["## How it was trained", f"```\n{command}\n```"]
    if meta.figures:
        sections += ["## Figures", _table(meta.figures)]
    return "\n\n".join(part for part in sections if part) + "\n"


def parse_source(text: str) -> dict[str, str]:
    """A data set as given on the command line, "NAME; LICENCE; CITATION"."""
    parts = [part.strip() for part in text.split(";", 2)]
    if len(parts) < 2 or not all(parts[:2]):
        raise InputError(f"training data are given as 'NAME; LICENCE; CITATION', not as {text!r}.")
    return dict(zip(("name", "licence", "citation"), [*parts, ""][:3], strict=True))


def _tidying(meta: Metadata) -> str:
    """What the card says about the end of a repair."""
    kinds = (
        ("dots, pinholes and cuts", meta.speck_size),
        ("changes at the border", meta.nibble_size),
        ("bites", meta.bite_size),
    )
    told = [f"{name} of up to {size} voxels" for name, size in kinds if size]
    kept = ", and so are fillings of holes" if meta.keep_holes else ""
    steps = (
        [f"objects with more than {meta.object_size} voxels on their longer side on a coarser grid"]
        if meta.object_size
        else []
    )
    steps += [f"then {' and '.join(told)} are undone{kept}"] if told else []
    if meta.look_size:
        steps.append(f"growth of {meta.look_size} voxels or more that looks like background is undone")
    if meta.bulge_ratio:
        steps.append(f"bulges that take less than {meta.bulge_ratio:g} of the outline away that they make are undone")
    if meta.tolerance:
        steps.append(f"an outline that would move by {meta.tolerance:.1%} of the mask or less is left alone")
    if meta.bay_width:
        steps.append(f"bays up to {meta.bay_width} voxels wide that were left half filled are filled")
    if meta.gap_size:
        steps.append(f"pieces with up to {meta.gap_size} voxels between them are joined")
    if meta.object_betti:
        numbers = ", ".join(map(str, meta.object_betti))
        steps.append(f"of a whole object (Betti numbers {numbers}) other pieces are taken away")
    return "".join(f"{step}; " for step in steps)


def _words(spec: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" if key != "kind" else str(value) for key, value in spec.items())


def _table(figures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Figures of a run: {title: {start: {metric: value}}}."""
    names = list(dict.fromkeys(n for kinds in figures.values() for row in kinds.values() for n in row))
    lines = [f"| | start | {' | '.join(names)} |", "| --- " * (len(names) + 2) + "|"]
    for title, kinds in figures.items():
        for kind, row in kinds.items():
            values = " | ".join(f"{row[n]:.4f}" if n in row else "–" for n in names)
            lines.append(f"| {title} | {kind} | {values} |")
    return "\n".join(lines)
