"""What the panel, the Segment Editor effect and the browser application do when a user clicks: one logic for all.

Refine -> a preview over the untouched original -> stop, look back, accept (one undo state) or discard. Nothing of the
scene but the preview node changes before Accept. No Qt in here: whoever shows it connects to `changed` and `told`,
and calls `tick` some 60 times a second in the main thread.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import nodes
from .boxes import Box, size
from .editable import editable_area
from .errors import RefineError
from .preview import Preview
from .request import Backend, Request, Within
from .runs import Figures, Refinement, Run
from .segments import read_segment, write_changes
from .signals import Signal
from .undo import SegmentationUndo, Undo

COUNTED_AT_ONCE = 2_000_000
"""Voxels of a box in which pieces and holes are counted while the user moves the slider."""

IDLE, RUNNING, REVIEW = "idle", "running", "review"


@dataclass(frozen=True)
class Progress:
    """What there is to show of the segment that is, or was last, refined."""

    segment: str
    step: int
    steps: int
    added: int
    removed: int
    before: Figures | None
    now: Figures | None
    done: int  # segments that are finished
    total: int

    @property
    def fraction(self) -> float:
        """Of all steps of all segments, 0..1."""
        return min(1.0, (self.done + self.step / max(self.steps, 1) * (self.done < self.total)) / max(self.total, 1))


@dataclass(frozen=True)
class Kept:
    """An accepted refinement, for a correction that is submitted later."""

    segment: str
    before: NDArray[np.bool_]
    refined: NDArray[np.bool_]
    box: Box
    model: str
    version: str
    step: int
    seconds: float


class RefineLogic:
    """One refinement at a time, of one or several segments of one segmentation.

    Args:
        scene: the vtkMRMLScene.
        undo: where undo states go; Slicer's own history of the segmentation if none is given.

    Attributes:
        state: `IDLE`, `RUNNING`, or `REVIEW` (ended; to be accepted or discarded).
        changed: Signal(), anything that is shown may be different now.
        told: Signal(text, is_error), a sentence for the user.
        noted: Signal(Noted), what is waited for.
        kept: of each segment id, the last refinement that was accepted.
    """

    def __init__(self, scene: Any, undo: Undo | None = None) -> None:
        self._scene = scene
        self._undo: Undo = undo if undo is not None else SegmentationUndo()
        self.changed, self.told, self.noted = Signal(), Signal(), Signal()
        self.kept: dict[str, Kept] = {}
        self.show_changes = True
        self._refinement: Refinement | None = None
        self._preview: Preview | None = None
        self._volume: Any = None
        self._segmentation: Any = None
        self._segments: list[str] = []
        self._settings: Any = None
        self._shown: int | None = None  # None: the newest
        self._review = False
        self._observers: list[int] = []
        self._observe()

    # ---- what is

    @property
    def state(self) -> str:
        """See the class."""
        if self._refinement is None:
            return IDLE
        return REVIEW if self._review else RUNNING

    @property
    def runs(self) -> list[Run]:
        """Of the refinement under way or under review."""
        return self._refinement.runs if self._refinement else []

    @property
    def last_step(self) -> int:
        """The newest step of any run: the slider's right end."""
        return max((run.last for run in self.runs), default=0)

    @property
    def shown_step(self) -> int:
        """The step that the preview shows."""
        return self.last_step if self._shown is None else min(self._shown, self.last_step)

    @property
    def preview_node(self) -> Any:
        """The preview's segmentation node; None when there is no preview."""
        return self._preview.node if self._preview else None

    def progress(self) -> Progress | None:
        """What there is to show; None when idle."""
        if self._refinement is None:
            return None
        run = self._refinement.current
        step, added, removed = self._preview.counts(self.runs.index(run)) if self._preview else (0, 0, 0)
        if self._review and np.prod(size(run.box)) <= COUNTED_AT_ONCE:
            run.count(step)
        counted = [s for s in run.figures if s <= step]
        return Progress(
            segment=run.request.label,
            step=step,
            steps=run.started.steps if run.started else 0,
            added=added,
            removed=removed,
            before=run.figures.get(0),
            now=run.figures[max(counted)] if counted else None,
            done=sum(r.finished is not None for r in self.runs),
            total=len(self.runs),
        )

    # ---- what the user does

    def refine(
        self,
        backend: Backend,
        volume: Any,
        segmentation: Any,
        segments: Sequence[str],
        *,
        model: str = "",
        steps: int | None = None,
        roi: Box | None = None,
        within: Within | None = None,
        settings: Any = None,
    ) -> None:
        """Begin; returns as soon as the masks are read.

        Args:
            backend: whoever computes.
            volume, segmentation: nodes; `segments` are ids of segments in it, refined in this order.
            model: NAME or NAME@VERSION; '' is the default. `steps` None is the model's own.
            roi: box of the volume's grid outside of which nothing changes.
            within: mask, and its box, that restricts what is shown and accepted.
            settings: the Segment Editor's parameter node, whose editable area `accept` honours.

        Raises:
            RefineError: nothing to refine; the scene is as it was.
        """
        if self.state != IDLE:
            raise RefineError("A refinement is open: accept or discard it first.")
        if not segments:
            raise RefineError("There is no segment to refine: choose one.")
        image = nodes.image_of(volume)
        requests = []
        for segment in segments:
            mask, box = read_segment(segmentation, segment, volume)
            name = segmentation.GetSegmentation().GetSegment(segment).GetName()
            requests.append(Request(image, mask, box, model, steps, roi, name, within))
        colours = [segmentation.GetSegmentation().GetSegment(s).GetColor() for s in segments]
        self._volume, self._segmentation, self._segments = volume, segmentation, list(segments)
        self._settings, self._shown, self._review = settings, None, False
        self._preview = Preview(self._scene, volume, [_lighter(c) for c in colours])
        self._preview.show_changes(self.show_changes)
        self._refinement = Refinement(backend, requests)
        self._refinement.noted.connect(self.noted.emit)
        self._refinement.moved.connect(self._on_moved)
        self._refinement.ended.connect(self._on_ended)
        self._refinement.failed.connect(self._on_failed)
        self._refinement.start()
        self.changed.emit()

    def tick(self) -> None:
        """Show what is new; call it from a timer in the main thread."""
        if self._refinement is not None:
            self._refinement.tick()

    def stop(self) -> None:
        """End with the mask as it is; it can be accepted."""
        if self._refinement is not None and self.state == RUNNING:
            if self._refinement.current.last:
                self._refinement.stop()
            else:
                self.discard()  # nothing came yet: there is nothing to look at
                self.told.emit("Stopped before the first step; the segment is as it was.", False)

    def show_step(self, step: int | None) -> None:
        """Show the mask after a step that was seen; None follows the newest."""
        if self._preview is None:
            return
        self._shown = None if step is None or (step >= self.last_step and self.state == RUNNING) else max(0, step)
        self._draw()
        self.changed.emit()

    def set_show_changes(self, shown: bool) -> None:
        """Whether the preview marks what was added and removed."""
        self.show_changes = shown
        if self._preview is not None:
            self._preview.show_changes(shown)
            self._draw()

    def show_unsure(self, unsure: NDArray[np.bool_] | None, box: Box) -> None:
        """Mark voxels of a box that the model is unsure of; None takes the marks away."""
        if self._preview is not None:
            self._preview.show_unsure(unsure, box)

    def accept(self) -> None:
        """Write the shown masks into the segments: one undo state, inside the editable area."""
        if self._refinement is None or self._preview is None or self.state != REVIEW:
            return
        self._undo.save(self._segmentation)
        left = 0
        for number, (segment, run) in enumerate(zip(self._segments, self.runs, strict=True)):
            if run.history is None:
                continue
            box = run.box
            step, _, _ = self._preview.counts(number)  # what the user sees, also if one more came in with a Stop
            before, after = run.before(box), run.mask_at(step, box)
            allowed = editable_area(self._settings, self._segmentation, segment, self._volume, box)
            left += write_changes(self._segmentation, segment, self._volume, before, after, box, allowed)
            self._keep(segment, run, step, after, box)
        self._close()
        if left:
            self.told.emit(f"Accepted; {left} voxels outside of the editable area were left as they were.", False)
        self.changed.emit()

    def discard(self) -> None:
        """Take the preview away; the segments are as they were."""
        self._close()
        self.changed.emit()

    def undo(self) -> bool:
        """Back to before the last accept."""
        return self._changed_by(self._undo.undo)

    def redo(self) -> bool:
        """Forward again."""
        return self._changed_by(self._undo.redo)

    def close(self) -> None:
        """The scene or the program is closing: end what runs, remove what is ours."""
        refinement = self._refinement
        self._close()
        if refinement is not None:
            refinement.join(1.0)
        for tag in self._observers:
            self._scene.RemoveObserver(tag)
        self._observers = []

    # ---- inside

    def _keep(self, segment: str, run: Run, step: int, after: NDArray[np.bool_], box: Box) -> None:
        started, finished = run.started, run.finished
        if started is not None and finished is not None:
            before, version = run.before(box), started.version
            self.kept[segment] = Kept(segment, before, after, box, started.model, version, step, finished.seconds)

    def _changed_by(self, action: Callable[[], bool]) -> bool:
        if self.state != IDLE:
            self.discard()
        found = action()
        self.changed.emit()
        return found

    def _on_moved(self) -> None:
        if self._shown is None:
            self._draw()
        self.changed.emit()

    def _on_ended(self) -> None:
        nothing = [run.started.message for run in self.runs if run.started and run.started.message]
        if not any(run.history is not None for run in self.runs):
            self._close()
            self.told.emit(nothing[0] if nothing else "There was nothing to refine; the segment is as it was.", True)
            self.changed.emit()
            return
        self._review = True
        self._draw()
        if self._segmentation.GetSegmentation().ContainsRepresentation(nodes.SURFACE) and self._preview:
            self._preview.show_surface()
        self.changed.emit()

    def _on_failed(self, error: RefineError) -> None:
        self._close()
        self.told.emit(str(error), True)
        self.changed.emit()

    def _draw(self) -> None:
        if self._preview is not None:
            self._preview.update(self.runs, self._shown)

    def _close(self) -> None:
        if self._refinement is not None:
            self._refinement.abandon()
        preview, self._preview, self._refinement, self._review = self._preview, None, None, False
        if preview is not None:
            preview.remove()

    def _observe(self) -> None:
        import slicer
        import vtk

        def removed(caller: Any, event: str, node: Any) -> None:
            mine = (self._volume, self._segmentation, self.preview_node)
            if self.state != IDLE and node is not None and node in mine:
                self._close()
                self.told.emit(f"{node.GetName()} was removed from the scene, so the refinement was ended.", True)
                self.changed.emit()

        def closing(caller: Any, event: str) -> None:
            self.kept.clear()
            if self.state != IDLE:
                self._close()
                self.changed.emit()

        removed.CallDataType = vtk.VTK_OBJECT  # type: ignore[attr-defined]
        add = self._scene.AddObserver
        self._observers = [
            add(slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, removed),
            add(slicer.vtkMRMLScene.StartCloseEvent, closing),
        ]


def _lighter(colour: Sequence[float]) -> tuple[float, float, float]:
    """Of a segment's colour, for its preview."""
    r, g, b = (0.5 + 0.5 * float(c) for c in colour)
    return r, g, b
