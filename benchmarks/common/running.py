"""Running refiners over cases: each measurement is looked up, and made and kept if it is not there."""

import argparse
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from common.refiners import Refiner
from common.tables import RESULTS, Row, Rows
from rnca.errors import InputError

Mask = NDArray[np.bool_]
Score = Callable[[Mask, Mask, Mask], Mapping[str, float]]
"""(repaired mask, truth, mask before) -> metrics."""


def options(doc: str | None, model: str, steps: Sequence[int]) -> argparse.ArgumentParser:
    """The options that all tables share."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=model, help=f"the automaton: name or path (default {model})")
    parser.add_argument("--steps", type=int, nargs="+", default=list(steps), help="updates, one row each")
    parser.add_argument(
        "--split", default="test", choices=["train", "val", "test"], help="val to choose, test to report"
    )
    parser.add_argument("--limit", type=int, help="this many cases only, for a trial")
    parser.add_argument("--seed", type=int, default=0, help="of the damage")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="folder of the tables")
    return parser


def measure(
    rows: Rows,
    parts: Mapping[str, Any],
    refiner: Refiner,
    image: Any,
    start: NDArray[np.float32],
    truth: Mask,
    score: Score,
) -> list[Row]:
    """The rows of one refiner on one start, one for each number of steps; made if one of them is missing."""
    keys = {
        step: {**parts, "refiner": refiner.label(step), "identity": dict(refiner.identity)} for step in refiner.steps
    }
    found = [rows.get(key) for key in keys.values()]
    if all(row is not None for row in found):
        return [row for row in found if row is not None]
    masks = refiner.repair(image, start)
    return [rows.add(key, score(masks[step], truth, start > 0.5)) for step, key in keys.items()]


def choose(
    rows: Rows,
    task: str,
    candidates: Sequence[Refiner],
    cases: Iterable[tuple[str, Any, NDArray[np.float32], Mask]],
    score: Score,
    metric: str = "dice",
) -> Refiner:
    """The candidate with the best mean of a metric on validation cases (name, image, start, truth)."""
    held = list(cases)
    if not held:
        return candidates[0]
    means = []
    for candidate in candidates:
        parts = {"task": task, "split": "val", "purpose": "choice"}
        scored = [
            measure(rows, parts | {"case": name}, candidate, image, start, truth, score)
            for name, image, start, truth in held
        ]
        means.append(float(np.mean([row[0][metric] for row in scored])))
    return candidates[int(np.argmax(means))]


def case_seed(seed: int, name: str, *more: int) -> tuple[int, ...]:
    """A seed for the damage of one case: the same whatever other cases there are."""
    return (seed, zlib.crc32(name.encode()), *more)


def say(text: str) -> None:
    """A line on stderr."""
    Console(stderr=True, soft_wrap=True).print(text, markup=False, highlight=False)


def guarded(main: Callable[[], None]) -> None:
    """Run a benchmark; wrong input is one sentence and exit code 2, as on the command line of the package."""
    try:
        main()
    except InputError as error:
        say(str(error))
        sys.exit(2)
