"""What `rnca batch` tells of its cases: summary.csv and summary.html."""

from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .jobs import NOTICE, Options
from .pages import legend, page, table, totals
from .pictures import ADDED, KEPT, REMOVED

COUNTS = ("pieces", "holes", "tunnels", "cavities")


@dataclass
class Result:
    """What became of a case: its run record or, if it failed, a sentence."""

    name: str
    record: dict[str, Any] | None = None
    error: str = ""
    earlier: bool = False  # done by an earlier run
    pictures: list[str] = field(default_factory=list)  # before and after, as URLs


def printable(text: str) -> str:
    """File names may hold bytes that are not text; a summary must not fail on them."""
    return text.encode(errors="replace").decode()


def as_row(result: Result) -> dict[str, Any]:
    """A line of summary.csv. Of a mask with several labels, each figure has a part a label: "1; 2"."""
    record = result.record
    labels = record["labels"] if record else []

    def joined(values: Any) -> str:
        return "; ".join(str(value) for value in values)

    row: dict[str, Any] = {
        "name": printable(result.name),
        "status": "ok" if record else "failed",
        "error": printable(result.error),
        "run": ("earlier" if result.earlier else "now") if record else "",
        "label": joined(f"{row['label']:g}" for row in labels),
        "model": record["model"]["name"] if record else "",
        "version": record["model"]["version"] if record else "",
        "steps": joined(row["steps"] for row in labels),
        "reason": joined(row["reason"] for row in labels),
    }
    for when in ("before", "after"):
        row[f"betti_{when}"] = joined(",".join(map(str, label["topology"][when]["betti"])) for label in labels)
    for name in COUNTS:
        for when in ("before", "after"):
            row[f"{name}_{when}"] = joined(
                label["topology"][when][name] for label in labels if name in label["topology"][when]
            )
    for name in ("added", "removed"):
        row[name] = joined(label[name] for label in labels)
    row["seconds"] = record["seconds"]["total"] if record else ""
    return row


def summary_page(results: list[Result], unused: list[str], options: Options) -> str:
    """summary.html: figures on top, then a row a case, failed ones first."""
    failed = [result for result in results if not result.record]
    labels = [label for result in results if result.record for label in result.record["labels"]]
    figures = [
        (str(len(results)), "masks"),
        (str(len(results) - len(failed)), "done"),
        (str(len(failed)), "failed"),
    ]
    for name in COUNTS:
        counted = [label["topology"] for label in labels if name in label["topology"]["before"]]
        if counted:
            before, after = (sum(topology[when][name] for topology in counted) for when in ("before", "after"))
            figures.append((f"{before} → {after}", f"{name} in all"))
    figures.append((f"{sum(label['added'] for label in labels)}", "voxels added"))
    figures.append((f"{sum(label['removed'] for label in labels)}", "voxels removed"))
    used = sorted({f"{r.record['model']['name']} {r.record['model']['version']}" for r in results if r.record})
    asked = ", ".join(f"{name} {value}" for name, value in options.recorded().items() if value not in (None, False, 0))
    notes = [f"<p>Model {escape(', '.join(used) or options.model)}; {escape(asked)}.</p>"]
    if unused:
        names = ", ".join(escape(printable(name)) for name in unused)
        notes.append(f"<p>Images without a mask, left out: {names}.</p>")
    in_order = failed + [result for result in results if result.record]
    return page(
        "Repaired masks",
        f'<p class="notice">{escape(NOTICE)}</p>',
        totals(figures),
        *notes,
        legend(((KEPT, "mask, unchanged"), (ADDED, "added by the repair"), (REMOVED, "removed by the repair"))),
        '<p class="soft">Pictures are cut to where the mask is and, of a volume, show the slice that changed most.</p>',
        table(("case", "before", "after", "what changed"), map(_cells, in_order)),
    )


def _cells(result: Result) -> list[str]:
    name = escape(printable(result.name))
    record = result.record
    if record is None:
        sentence = escape(printable(result.error))
        return [f'<td class="name">{name}</td>', f'<td colspan="3"><b class="bad">failed</b><br>{sentence}</td>']
    written = Path(record["output"]["path"]).name
    links = [
        f'<a href="{quote(path, errors="replace")}">{text}</a>'
        for path, text in ((f"masks/{written}", "mask"), (f"reports/{result.name}.json", "report"))
    ]
    pictures = [
        f'<img src="{url}" alt="{when}">' for url, when in zip(result.pictures, ("before", "after"), strict=True)
    ]
    topology = [
        "<br>".join(_topology(label, when, len(record["labels"]) > 1) for label in record["labels"])
        for when in ("before", "after")
    ]
    changes = "<br>".join(_change(label, len(record["labels"]) > 1) for label in record["labels"])
    time = "done by an earlier run" if result.earlier else f"{record['seconds']['total']:.2f} s"
    return [
        f'<td class="name">{name}<br><span class="soft">{" · ".join(links)}</span></td>',
        f"{pictures[0]}{topology[0]}",
        f"{pictures[1]}{topology[1]}",
        f'{changes}<br><span class="soft">{time}</span>',
    ]


def _topology(label: dict[str, Any], when: str, several: bool) -> str:
    counts = [f"{name} {label['topology'][when][name]}" for name in COUNTS if name in label["topology"][when]]
    return (f"label {label['label']:g}: " if several else "") + ", ".join(counts)


def _change(label: dict[str, Any], several: bool) -> str:
    start = f"label {label['label']:g}: " if several else ""
    if label["reason"] == "empty":
        return f"{start}empty: nothing to repair"
    if not label["added"] and not label["removed"]:
        return f"{start}nothing, in {label['steps']} steps"
    return f"{start}{label['added']} voxels added, {label['removed']} removed, in {label['steps']} steps"
