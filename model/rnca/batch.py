"""Repair a folder of masks: in this process or in several, resumable, with a summary of all cases (`rnca batch`).

A case is done if its report exists and still fits: the same inputs, model and options, by their SHA-256, and the mask
that it says was written. Everything else is run, so an interrupted run goes on where it was.

Processes: each worker loads the model once and takes its share of the cores. The parent hands out one case a worker,
so that if a worker dies (out of memory, say) only as many cases are suspects; each of those is tried again in a
process of its own. Ctrl-C reaches the parent only; workers look at an event at each step, leave their case, and
write nothing. A worker whose parent is gone ends itself.
"""

import _thread
import contextlib
import functools
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from . import DEFAULT_MODEL
from .bars import progress_bar
from .errors import InputError
from .files import WRITABLE, list_images, read_image, read_mask, sha256, suffix_of, write_text
from .geometry import as_array, bounding_box, grow_box, parse_roi
from .jobs import Options, foreground, refine_file, shown_slice, write_csv
from .pictures import data_url, enlarge, overlay
from .rollout import Step, pick_device
from .summary import Result, as_row, printable, summary_page
from .zoo import Model, load_model, named

if TYPE_CHECKING:
    from rich.console import Console

THUMBNAIL = 240  # pixels, the longer side


@dataclass(frozen=True)
class Case:
    """A mask to repair, its image, and where mask and report go."""

    name: str
    image: Path
    mask: Path
    out: Path
    report: Path


def run_batch(images: Path, masks: Path, output: Path, options: Options, jobs: int, out: "Console") -> int:
    """Repair every mask of a folder; returns how many cases failed.

    Args:
        images, masks: folders whose files are matched by name. A mask without image is a failed case; an image
            without mask is only told.
        output: gets masks/NAME, reports/NAME.json, summary.csv and summary.html.
        options: as for `refine_file`; the file options are not used.
        jobs: processes; 1 works in this one.

    Raises:
        InputError: wrong options or folders, before any work. What is wrong with a case is in the summary.
        KeyboardInterrupt: Ctrl-C; finished cases are kept, and the same call goes on from there.
    """
    models = check_options(options, jobs)
    cases, lonely, unused = match(images, masks, output)
    try:
        for folder in (output / "masks", output / "reports"):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {output}: {(error.strerror or str(error)).lower()}.") from error

    results = {result.name: result for result in lonely}
    for result in lonely:
        tell_failure(result, out)
    jobs = min(jobs, len(cases))
    run = in_processes(cases, options, jobs) if jobs > 1 else in_this_process(cases, options, models)
    try:
        with progress_bar(out, "repairing", len(cases)) as advance, contextlib.closing(run):
            for done, result in enumerate(run, start=1):
                results[result.name] = result
                advance(done, len(cases), printable(result.name))
                tell_failure(result, out)
    except KeyboardInterrupt:
        out.print(
            f"{len(results) - len(lonely)} of {len(cases)} cases are finished; the same command goes on from there."
        )
        raise
    in_order = [results[name] for name in sorted(results)]
    write_csv(output / "summary.csv", [as_row(result) for result in in_order])
    write_text(output / "summary.html", summary_page(in_order, unused, options))
    tell(in_order, unused, out)
    return sum(not result.record for result in in_order)


class Models:
    """The model for each mask, loaded once."""

    def __init__(self, options: Options) -> None:
        self._name = options.model
        self._load = functools.cache(lambda name: load_model(name, pick_device(options.device)))
        self._load(named(self._name, ()))  # what cannot be loaded is refused before any work

    def of(self, mask: Path) -> Model:
        """The one that the name stands for."""
        shape = as_array(read_mask(mask)).shape if self._name == DEFAULT_MODEL else ()
        return self._load(named(self._name, shape))


def check_options(options: Options, jobs: int) -> Models:
    """Refuse what would fail every case; returns the models."""
    if jobs < 1:
        raise InputError(f"jobs is {jobs}: give 1 or more.")
    if options.steps is not None and options.steps < 0:
        raise InputError(f"steps is {options.steps}: give 0 or more.")
    if options.soft and options.label is not None:
        raise InputError("a soft mask has no labels: leave out either soft or label.")
    if options.roi is not None:
        parse_roi(options.roi)
    return Models(options)


def match(images: Path, masks: Path, output: Path) -> tuple[list[Case], list[Result], list[str]]:
    """The cases, what failed already because a mask has no image, and the names of images without mask."""
    for folder in (images, masks):
        if folder.resolve() in ((output / "masks").resolve(), (output / "reports").resolve()):
            raise InputError(f"{output} would write into {folder}, which is an input: choose another output folder.")
    with_image, with_mask = list_images(images), list_images(masks)
    if not with_mask:
        raise InputError(f"{masks} holds no masks: expected files such as NAME.png or NAME.nii.gz.")
    cases, lonely = [], []
    for name, mask in with_mask.items():
        if name not in with_image:
            lonely.append(Result(name, error=f"{images} has no image named {name}, which {mask} needs."))
            continue
        file = mask.name if mask.is_file() and suffix_of(mask) in WRITABLE else f"{name}.nrrd"
        cases.append(Case(name, with_image[name], mask, output / "masks" / file, output / "reports" / f"{name}.json"))
    return cases, lonely, [name for name in with_image if name not in with_mask]


# --- one case -------------------------------------------------------------------------------------------------------


def repair(case: Case, options: Options, models: Models, on_step: Callable[[Step], None] = lambda _: None) -> Result:
    """Run a case unless it is done. What is wrong with it, whatever it is, ends up in the result."""
    try:
        model = models.of(case.mask)
        record = finished(case, options, model)
        earlier = record is not None
        if record is None:
            options = replace(options, confidence=None, animate=None, report=case.report)
            record = refine_file(case.image, case.mask, case.out, options, model=model, on_step=on_step)
        return Result(case.name, record, earlier=earlier, pictures=thumbnails(case, options, model))
    except InputError as error:
        return Result(case.name, error=str(error))
    except Exception as error:
        first_line = (str(error).splitlines() or [""])[0]
        return Result(case.name, error=f"unexpected {type(error).__name__}: {first_line}")


def finished(case: Case, options: Options, model: Model) -> dict[str, Any] | None:
    """The record of an earlier run of this case, if it would be the same again and its mask is there."""
    try:
        record: dict[str, Any] = json.loads(case.report.read_text(encoding="utf-8"))
        same = (
            record["model"]["sha256"] == model.sha256
            and record["options"] == options.recorded()
            and record["inputs"]["image"]["sha256"] == sha256(case.image)
            and record["inputs"]["mask"]["sha256"] == sha256(case.mask)
            and record["output"]["sha256"] == sha256(case.out)
        )
    except (OSError, ValueError, LookupError, TypeError):  # InputError, an input that cannot be read, is a ValueError
        return None
    return record if same else None


def thumbnails(case: Case, options: Options, model: Model) -> list[str]:
    """Small pictures of the mask before and after, around where it is."""
    image, mask = read_image(case.image), read_mask(case.mask)
    before = foreground(as_array(mask), options.label, options.soft)
    after = foreground(as_array(read_mask(case.out)), options.label)
    picture, flat = shown_slice(image, mask, before, after, model.metadata.slice_axis)
    before, after = flat(before), flat(after)
    box = bounding_box(before | after)
    if box is not None:
        box = grow_box(box, 8 + max(side.stop - side.start for side in box) // 8, before.shape)
        picture, before, after = picture[box], before[box], after[box]
    overlays = overlay(picture, before, before), overlay(picture, before, after)
    return [data_url(enlarge(shown, THUMBNAIL), colours=96) for shown in overlays]


# --- many cases -----------------------------------------------------------------------------------------------------


def in_this_process(cases: list[Case], options: Options, models: Models) -> Generator[Result, None, None]:
    """One case after the other."""
    for case in cases:
        yield repair(case, options, models)


def in_processes(cases: list[Case], options: Options, jobs: int) -> Generator[Result, None, None]:
    """Cases as they are done by `jobs` processes. Close the generator to stop them."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    setup = (options, max(1, cores() // jobs), stop)

    def pool(size: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(size, context, start_worker, setup)

    waiting = deque(cases)
    running: dict[Future[Result], Case] = {}
    workers = pool(jobs)
    try:
        while waiting or running:
            broken = False
            while waiting and len(running) < jobs and not broken:
                try:
                    running[submit(workers, waiting[0])] = waiting[0]
                    waiting.popleft()
                except BrokenProcessPool:
                    broken = True
            wait(running, return_when=FIRST_COMPLETED)
            if broken or any(was_killed(future) for future in running if future.done()):
                broken = True
                wait(running)  # the other workers are ended with it
            suspects = []
            for future in [future for future in running if future.done()]:
                case = running.pop(future)
                if was_killed(future):
                    suspects.append(case)
                else:
                    yield future.result()
            if broken:
                workers.shutdown()
                for case in suspects:
                    workers = pool(1)
                    yield by_itself(workers, case)
                    workers.shutdown()
                workers = pool(jobs)
    finally:
        stop.set()
        workers.shutdown(cancel_futures=True)


def submit(workers: ProcessPoolExecutor, case: Case) -> Future[Result]:
    """Give a case to a worker, which is started for it if there are still fewer than wanted."""
    with interrupts_held():
        return workers.submit(work, case)


def was_killed(future: Future[Result]) -> bool:
    """Whether a worker died, this case's or another one's; of a future that is done."""
    return isinstance(future.exception(), BrokenProcessPool)


def by_itself(workers: ProcessPoolExecutor, case: Case) -> Result:
    """The result of a case that may have killed its process before."""
    future = submit(workers, case)
    if was_killed(future):
        why = "its process was killed, for lack of memory perhaps: try it alone, or with a region (--roi)."
        return Result(case.name, error=why)
    return future.result()


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Ctrl-C, which a terminal sends to all processes: those started in the block never see it, this one after it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows: workers ignore it from when they are ready
        yield
        return
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


_worker: tuple[Options, Models, Event]


def start_worker(options: Options, threads: int, stop: Event) -> None:
    """Make a new process ready for cases."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(min(threads, torch.get_num_threads()))
    _thread.start_new_thread(end_with_parent, ())  # no `threading.Thread`: files.py counts those
    _worker = options, Models(options), stop


def end_with_parent() -> None:
    """Wait for the parent process to end, and follow."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def work(case: Case) -> Result:
    """A case in a worker."""
    options, models, stop = _worker

    def leave_if_stopped(_: Step | None = None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt

    leave_if_stopped()
    return repair(case, options, models, leave_if_stopped)


# --- what is told ---------------------------------------------------------------------------------------------------


def tell_failure(result: Result, out: "Console") -> None:
    """What is wrong with a case, as soon as it is known."""
    if not result.record:
        out.print(f"{printable(result.name)} failed: {printable(result.error)}")


def tell(results: list[Result], unused: list[str], out: "Console") -> None:
    """The outcome in a few lines."""
    for name in unused:
        out.print(f"{printable(name)}: an image without a mask, left out.")
    earlier = sum(result.earlier for result in results)
    failed = sum(not result.record for result in results)
    now = len(results) - earlier - failed
    out.print(f"{now} repaired, {earlier} already done by an earlier run, {failed} failed.")
