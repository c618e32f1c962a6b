"""Tables that survive an interruption: rows are kept as they are made, and become Markdown and CSV at the end."""

import csv
import io
import json
import math
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import rnca
from rnca.files import write_text
from rnca.metrics import summarise

RESULTS = Path(__file__).parents[1] / "results"

Row = dict[str, Any]


class Rows:
    """One measurement a line (JSON) in a file that only grows.

    A row is found again by its key: everything that it depends on, the model's digest and the seed included, so that a
    new model gets new rows beside the old ones. A line cut off by an interruption is dropped and measured again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, Row] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for line in text.splitlines():
            try:
                stored = json.loads(line)
            except ValueError:
                continue
            self.rows[stored["key"]] = stored["row"]
        if text and not text.endswith("\n"):
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")

    @staticmethod
    def key(parts: Mapping[str, Any]) -> str:
        """The parts as one string, whatever their order."""
        return json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)

    def get(self, parts: Mapping[str, Any]) -> Row | None:
        """The row of this key with the key's parts in it, None if it has not been measured."""
        found = self.rows.get(self.key(parts))
        return None if found is None else {**parts, **found}

    def add(self, parts: Mapping[str, Any], values: Mapping[str, Any]) -> Row:
        """Keep a row; returns it with the key's parts."""
        plain = {name: _number(value) for name, value in values.items()}
        self.rows[self.key(parts)] = plain
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": self.key(parts), "row": plain}, ensure_ascii=False) + "\n")
        return {**parts, **plain}


def _number(value: Any) -> Any:
    return float(value) if hasattr(value, "dtype") else value


def aggregate(rows: Iterable[Row], by: Sequence[str], metrics: Sequence[str]) -> list[Row]:
    """Mean, standard deviation and number of cases of each metric for each group.

    Groups are in order of first appearance, those with the same value of `by[0]` together.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in by), []).append(row)
    first = list(dict.fromkeys(group[0] for group in groups))
    table = []
    for group, members in sorted(groups.items(), key=lambda item: first.index(item[0][0])):
        numbers = [{name: float(row[name]) for name in metrics if row.get(name) is not None} for row in members]
        means = summarise(numbers)
        line: Row = dict(zip(by, group, strict=True)) | {"n": len(members)}
        for name in metrics:
            mean, deviation, count = means.get(name, (math.nan, math.nan, 0))
            line |= {name: mean, f"{name}_std": deviation, f"{name}_n": count}
        table.append(line)
    return table


def markdown(table: Sequence[Row], by: Sequence[str], metrics: Mapping[str, str]) -> str:
    """The aggregated table; `metrics` gives the headings, and one that ends in % is shown as a share with its n."""
    heads = [*by, "n", *(head.removesuffix("%").strip() for head in metrics.values())]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for row in table:
        cells = [str(row[name]) for name in by] + [str(row["n"])]
        cells += [_cell(row, name, head.endswith("%")) for name, head in metrics.items()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: Row, name: str, share: bool) -> str:
    mean, count = row[name], row[f"{name}_n"]
    if math.isnan(mean):
        return "–"
    if share:
        return f"{mean:.1%} ({round(mean * count)}/{count})"
    return f"{mean:.4f} ± {row[f'{name}_std']:.4f}" if abs(mean) < 1.5 else f"{mean:.2f} ± {row[f'{name}_std']:.2f}"


def as_csv(table: Sequence[Row]) -> str:
    """The aggregated table with unrounded numbers."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(name for row in table for name in row)), restval="")
    writer.writeheader()
    writer.writerows(table)
    return out.getvalue()


def versions(*more: str) -> str:
    """What the figures were made with."""
    names = ["torch", "monai", "numpy", "scipy", "scikit-image", *more]
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(
        [f"rnca {rnca.__version__}", *found, f"Python {platform.python_version()} on {platform.machine()}"]
    )


def write_table(folder: Path, name: str, parts: Sequence[tuple[str, Sequence[Row], str]], notes: Sequence[str]) -> str:
    """Write NAME.md and NAME.csv; `parts` are (heading, table, its Markdown). Returns the Markdown.

    Of absolute paths in the command only the last name is shown: tables are made to be passed on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    blocks = [f"{'#' * 2} {heading}\n\n{text}" for heading, _, text in parts]
    given = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv]
    command = "Command: `python benchmarks/" + shlex.join([Path(given[0]).name, *given[1:]]) + "`"
    text = "\n\n".join([*blocks, *notes, command]) + "\n"
    write_text(folder / f"{name}.md", text)
    rows = [{"table": heading, **row} for heading, table, _ in parts for row in table]
    write_text(folder / f"{name}.csv", as_csv(rows))
    return text
