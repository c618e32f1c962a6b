"""A progress bar on stderr."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

Advance = Callable[[int, int | None, str], None]


@contextmanager
def progress_bar(out: "Console", description: str, total: int | None = None) -> Iterator[Advance]:
    """A bar on a terminal, nothing elsewhere; yields `advance(done, total, description)`.

    It is drawn when it is told something, at most ten times a second, and not by a thread: `files.py` keeps the
    libraries quiet that complain on stderr only where there is a single thread.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    drawn = 0.0
    with Progress(*columns, console=out, transient=True, auto_refresh=False, disable=not out.is_terminal) as bar:
        task = bar.add_task(description, total=total)
        bar.refresh()

        def advance(done: int, total: int | None, description: str) -> None:
            nonlocal drawn
            now = time.monotonic()
            refresh = now - drawn > 0.1
            drawn = now if refresh else drawn
            bar.update(task, completed=done, total=total, description=description, refresh=refresh)

        yield advance
