"""Refinements under way: a worker thread computes, the main thread looks at the newest step when its timer ticks.

The worker reads from the network and uses numpy, and never touches MRML or Qt. What it finds out goes into the run's
history and into a queue of notices; `tick` empties the queue in the main thread and tells once, however many steps came
in between: a slow window skips steps, and never the last one.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .boxes import Box, on_box, overlap, slices, union
from .errors import RefineError
from .events import Finished, Started, Stepped
from .history import History
from .request import Backend, Control, Noted, Request
from .signals import Signal
from .topology import betti

FIGURES_EVERY = 0.5
"""Seconds between two counts of pieces and holes while steps come in, at least."""

COUNTING = 30
"""Seconds between two counts for each second that the last one took: large masks must not wait for figures."""

Figures = tuple[int, ...]


@dataclass(eq=False)
class Run:
    """One segment's refinement: what was asked, and what is known of it so far.

    `box` holds the mask and all that has changed so far; `mask_at` gives masks of its shape as it was at the call.
    `figures`: Betti numbers by step, where they were counted.
    """

    request: Request
    started: Started | None = None
    history: History | None = None
    finished: Finished | None = None
    figures: dict[int, Figures] = field(default_factory=dict)
    began: float = 0.0

    @property
    def box(self) -> Box:
        """Of the image's grid."""
        touched = self.history.touched if self.history else None
        return self.request.box if touched is None else union(self.request.box, touched)

    @property
    def changed(self) -> bool:
        """Whether any step changed the mask."""
        return self.history is not None and self.history.touched is not None

    @property
    def last(self) -> int:
        """The newest step."""
        return self.history.last if self.history else 0

    def before(self, box: Box | None = None) -> NDArray[np.bool_]:
        """The mask as it was sent, on `box`."""
        return on_box(self.request.mask, self.request.box, box or self.box)

    def mask_at(self, step: int, box: Box | None = None) -> NDArray[np.bool_]:
        """The mask after `step` updates, on `box`."""
        box = box or self.box
        found = self.before(box)
        common = overlap(box, self.history.box) if self.history else None
        if self.history is not None and common is not None:
            found[slices(common, box)] = self.history.at(step, common)
        if self.request.within is not None:
            found = np.where(on_box(*self.request.within, box), found, self.before(box))
        return found

    def count(self, step: int) -> Figures:
        """Pieces and holes after `step`; counted once."""
        if step not in self.figures:
            self.figures[step] = betti(self.mask_at(step))
        return self.figures[step]

    def take(self, event: Started | Stepped | Finished) -> None:
        """What the worker does with an event."""
        if isinstance(event, Started):
            if event.shape != self.request.image.shape:
                raise RefineError(
                    "The server sees another image than this one: send it again (Forget images, in settings)."
                )
            if event.box is not None:
                self.history = History(on_box(self.request.mask, self.request.box, event.box), event.box)
            self.started = event
            self._told(0, event.figures)
        elif self.started is None:
            raise RefineError("The server sent steps before a beginning: check its version.")
        elif isinstance(event, Stepped):
            if self.history is None or event.step <= self.history.last:
                raise RefineError("The server sent steps out of order: check its version.")
            self.history.add(event)
        else:
            if self.history is not None and event.mask is not None:
                self.history.finish(event.step, event.mask)
            self._told(event.step, event.figures)
            self.finished = event

    def _told(self, step: int, figures: Figures | None) -> None:
        """Take the server's count where it counted what is shown: the whole mask, and all that changed in it."""
        box = self.history.box if self.history else None
        whole = box is not None and overlap(self.request.box, box) == self.request.box
        if figures and whole and (step == 0 or self.request.within is None):
            self.figures[step] = figures


class Refinement:
    """One click: one or several segments refined, one after the other.

    Signals, all emitted by `tick` in the main thread: `noted` (Noted), `moved` (new steps), `ended` (every run is done,
    or was stopped), `failed` (RefineError; the runs that are done stay).
    """

    def __init__(
        self, backend: Backend, requests: Sequence[Request], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.runs = [Run(request) for request in requests]
        self.control = Control()
        self.noted, self.moved, self.ended, self.failed = Signal(), Signal(), Signal(), Signal()
        self._backend, self._clock = backend, clock
        self._notices: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="rNCA refinement", daemon=True)
        self._over = False

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """End at once with the masks that were seen, and tell so; who computes is cut off and ends within a step."""
        if self._over:
            return
        self._over = True
        self.control.abandon()
        run = self.current
        if run.history is not None and run.finished is None:
            run.finished = Finished("stopped", run.last, self._clock() - run.began, None)
        self.ended.emit()

    def abandon(self) -> None:
        """End; nothing is told any more."""
        self._over = True
        self.control.abandon()

    def join(self, seconds: float) -> bool:
        """Wait for the worker; whether it has ended."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def running(self) -> bool:
        """Whether anything is still to come."""
        return not self._over

    @property
    def current(self) -> Run:
        """The run that is under way, or was last."""
        begun = [run for run in self.runs if run.began]
        return begun[-1] if begun else self.runs[0]

    def tick(self) -> None:
        """Tell what is new; call it from a timer of the main thread."""
        moved, last = False, None
        while not self._over:
            try:
                notice = self._notices.get_nowait()
            except queue.Empty:
                break
            if isinstance(notice, Noted):
                self.noted.emit(notice)
            elif isinstance(notice, Run):
                moved = True
            else:
                last = notice
                break
        if moved and not self._over:
            self.moved.emit()
        if last is not None and not self._over:
            self._over = True
            if isinstance(last, RefineError):
                self.failed.emit(last)
            else:
                self.ended.emit()

    def _work(self) -> None:
        try:
            for run in self.runs:
                if self.control.abandoned.is_set():
                    break
                self._one(run)
            self._notices.put("ended")
        except RefineError as error:
            self._notices.put(error)
        except Exception as error:
            self._notices.put(
                RefineError(f"The refinement failed ({type(error).__name__}: {error}); nothing was changed.")
            )

    def _one(self, run: Run) -> None:
        run.began = self._clock()
        again = run.began  # when to count next
        for event in self._backend.refine(run.request, self.control):
            if self.control.abandoned.is_set():
                return
            if isinstance(event, Noted):
                self._notices.put(event)
                continue
            run.take(event)
            self._notices.put(run)
            if isinstance(event, Stepped) and run.changed and self._clock() >= again:
                started = self._clock()
                run.count(event.step if 0 in run.figures else 0)  # a step is shown before anything is counted
                ended = self._clock()
                again = ended + max(FIGURES_EVERY, COUNTING * (ended - started))
            if isinstance(event, Finished):
                run.count(0)
                run.count(run.last)
                self._notices.put(run)
