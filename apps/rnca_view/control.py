"""What happens when somebody clicks: between the page's state and the logic that the Slicer module shares."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rnca.errors import InputError
from RNCARefineLib.boxes import Box
from RNCARefineLib.errors import RefineError
from RNCARefineLib.logic import IDLE, REVIEW, RUNNING, RefineLogic
from RNCARefineLib.nodes import ijk_to_ras
from RNCARefineLib.parameters import LOCAL, Consent
from RNCARefineLib.request import Noted
from RNCARefineLib.segments import read_segment
from RNCARefineLib.server import ServerLogic

from . import case as cases
from . import shown
from .case import Case
from .replay import Replay
from .samples import Sample, sample_cases
from .undo import CountedUndo
from .views import Views

TICKS, PUSHES = 60, 20
"""A second: how often the logics are asked, and how often the page is told at most."""

TOO_FAST = 2.0
"""Seconds: a refinement that took less is played again, as nobody could watch it."""

log = logging.getLogger("rnca.view")


class Memory(dict[str, Any]):
    """Settings for as long as the program runs."""

    def value(self, key: str, default: Any = None) -> Any:
        """What is kept under a key."""
        return self.get(key, default)

    def setValue(self, key: str, value: Any) -> None:
        """Keep it."""
        self[key] = value


class Control:
    """The application behind the page.

    Args:
        server: the trame server; its state gets the names of `shown.START`.
        scene: the vtkMRMLScene.
        views: which show it.
    """

    def __init__(self, server: Any, scene: Any, views: Views) -> None:
        self.server, self.state, self.scene, self.views = server, server.state, scene, views
        self.case: Case | None = None
        self.history = CountedUndo()
        self.refinement = RefineLogic(scene, self.history)
        self.place = ServerLogic(Consent(Memory()))
        self.replay = Replay(self.refinement.show_step)
        self.samples = sample_cases()
        self._dirty, self._pushed = True, 0.0
        self._phase, self._first, self._stopped = IDLE, 0.0, False  # of the last tick; when the first step came
        self.state.update(shown.START | {"samples": [sample.name for sample in self.samples]})
        for signal in (self.refinement.changed, self.place.changed):
            signal.connect(self._changed)
        self.refinement.told.connect(self.tell)
        self.refinement.noted.connect(self._noted)
        self.place.told.connect(self._told_by_place)
        self.place.login_needed.connect(self._login_needed)

    # ---- the clock

    async def run(self) -> None:
        """Ask the logics what is new, for as long as the program runs."""
        while True:
            self._safely(self.tick)
            await asyncio.sleep(1 / TICKS)

    def tick(self) -> None:
        """Once."""
        self.place.tick()
        self.refinement.tick()
        self._watch_end()
        self.replay.tick()
        if self._dirty and time.monotonic() - self._pushed > 1 / PUSHES:
            self.push()

    def push(self) -> None:
        """Tell the page how things stand."""
        self._dirty, self._pushed = False, time.monotonic()
        flat = self.case.flat if self.case else True
        with self.state:
            self.state.update(shown.of_place(self.place, self.state.model))
            self.state.update(shown.of_refinement(self.refinement, flat))
            self.state.update(
                {
                    "can_undo": self.history.can_undo,
                    "can_redo": self.history.can_redo,
                    "playing": self.replay.playing,
                }
            )
            if self.refinement.state != RUNNING or self.refinement.last_step:
                self.state.waiting = ""

    # ---- the case

    def open_sample(self, name: str | None) -> None:
        """Open one of the cases that come with the package."""
        sample = next((s for s in self.samples if s.name == name), None)
        if sample is not None:
            self._open(lambda: self._open_sample(sample))

    def open_files(self, image: Path | None, mask: Path | None) -> None:
        """Open an image, a mask on the image that is open, or both."""
        self._open(lambda: self._open_paths(image, mask))

    def _open(self, what: Callable[[], None]) -> None:
        if self.refinement.state != IDLE:
            self.refinement.discard()
        self._safely(what)
        self._show_case()

    def _open_sample(self, sample: Sample) -> None:
        self._open_paths(sample.image, sample.mask)
        self.state.sample = sample.name
        if sample.model in {model.name for model in self.place.models} or not self.place.models:
            self.state.model = sample.model  # kept until the models are known

    def _open_paths(self, image: Path | None, mask: Path | None) -> None:
        if image is not None:
            opened = cases.open_image(self.scene, image)
            before, self.case = self.case, opened
            self.state.sample = None
            if before is not None:
                cases.close(self.scene, before)
            self.views.show(opened.volume, opened.flat)  # before the mask: what comes first is drawn below
        if mask is not None:
            if self.case is None:
                raise InputError("there is no image yet: open the image first, then its mask")
            cases.open_mask(self.scene, self.case, mask)

    def _show_case(self) -> None:
        with self.state:
            self.state.update(shown.of_case(self.case))
            known = [item["value"] for item in self.state.segments]
            if self.state.segment not in known:
                self.state.segment = known[0] if known else None
        self._go_to_mask()
        self._changed()

    def _go_to_mask(self) -> None:
        """Slices through the middle of what the first segment fills."""
        for segment in self.case.values if self.case else ():
            _, box = read_segment(self.case.segmentation, segment, self.case.volume)
            self.views.go_to(middle(box, self.case.volume))
            return

    def saved(self) -> bytes | None:
        """A file with the mask as it is now."""
        if self.case is None or self.case.mask is None:
            return None
        try:
            return self.case.saved()
        except InputError as error:
            self.tell(sentence(error), True)
            return None

    # ---- who refines

    def choose_place(self) -> None:
        """This computer, or a server that is to be connected to."""
        if self.state.place == LOCAL:
            self.place.use_this_computer()
        else:
            self.place.disconnect()

    def connect(self) -> None:
        """Connect to the server whose address is given."""
        with self.state:
            login = (self.state.login_token, self.state.login_user, self.state.login_password)
            self.state.update({"connecting": True, "ask_login": "", "login_password": "", "login_token": ""})
        self.place.connect(str(self.state.address or ""), *map(str, login))

    def _login_needed(self, text: str) -> None:
        with self.state:
            self.state.update({"ask_login": text, "connecting": False})

    def _told_by_place(self, text: str, is_error: bool) -> None:
        with self.state:
            self.state.connecting = False
        self.tell(text, is_error)

    # ---- refine

    def refine_or_stop(self) -> None:
        """The one button."""
        if self.refinement.state == RUNNING:
            self._stopped = True
            self.refinement.stop()
        elif self.refinement.state == IDLE:
            self._safely(self._refine)

    def send_allowed(self, yes: bool) -> None:
        """The answer to whether images may leave this computer."""
        with self.state:
            self.state.ask_send = ""
        if yes:
            self.place.consent.give(self.place.address, "send")
            self._safely(self._refine)

    def _refine(self) -> None:
        if self.case is None or self.case.segmentation is None:
            raise RefineError("There is no mask to refine: open an image and its mask.")
        if self.place.backend is None:
            raise RefineError("Nobody is there to refine: connect to a server, or choose this computer.")
        if self.place.leaves_computer and not self.place.consent.given(self.place.address, "send"):
            with self.state:
                self.state.ask_send = self.place.address
            return
        chosen = self.state.segment
        segments = list(self.case.values) if chosen == shown.ALL else [chosen] if chosen else []
        self.refinement.set_show_changes(bool(self.state.show_changes))
        self._first, self._stopped = 0.0, False
        self.refinement.refine(
            self.place.backend,
            self.case.volume,
            self.case.segmentation,
            segments,
            model=self.state.model or "",
            steps=int(self.state.steps) if self.state.steps else None,
        )

    def _watch_end(self) -> None:
        """Play a refinement again that was over before anybody saw it."""
        phase, before = self.refinement.state, self._phase
        self._phase = phase
        if self.refinement.last_step and not self._first:
            self._first = time.monotonic()
        if phase != before:
            self._show_preview()
        if phase != REVIEW:
            self.replay.cancel()
        elif before == RUNNING and not self._stopped and time.monotonic() - self._first < TOO_FAST:
            self.play()

    def play(self) -> None:
        """Show the steps again, from the first; or end that."""
        if self.refinement.state != REVIEW:
            return
        if self.replay.playing:
            self.replay.cancel()
        else:
            self.replay.start(self.refinement.last_step)
        self._changed()

    def scrub(self, step: float) -> None:
        """Show the mask after a step."""
        self.replay.cancel()
        self.refinement.show_step(int(step))

    def accept(self) -> None:
        """Take what is shown; of a replay that is under way, its end."""
        if self.refinement.state != REVIEW:
            return
        if self.replay.playing:
            self.replay.cancel()
            self.refinement.show_step(None)
        self._safely(self.refinement.accept)

    def discard(self) -> None:
        """Take nothing."""
        if self.refinement.state != IDLE:
            self.refinement.discard()

    def undo(self) -> None:
        """Take the last Accept back."""
        self._safely(self.refinement.undo)
        self.views.render()

    def redo(self) -> None:
        """Bring it back."""
        self._safely(self.refinement.redo)
        self.views.render()

    def mark_changes(self) -> None:
        """Show what was added and removed in colours, or not."""
        self.refinement.set_show_changes(bool(self.state.show_changes))
        self._show_preview()
        self.views.render()

    def _show_preview(self) -> None:
        preview = self.refinement.preview_node if self.refinement.state == REVIEW else None
        segmentation = self.case.segmentation if self.case else None
        self.views.show_preview(preview, segmentation, self.refinement.show_changes)

    def key(self, name: str) -> None:
        """A shortcut was pressed."""
        {"r": self.refine_or_stop, "a": self.accept, "escape": self.discard, "z": self.undo, "y": self.redo}[name]()

    # ---- telling

    def tell(self, text: str, is_error: bool) -> None:
        """A sentence for the user."""
        with self.state:
            self.state.update({"message": text, "message_error": is_error, "message_shown": True})
        self._changed()

    def _noted(self, noted: Noted) -> None:
        with self.state:
            self.state.waiting = noted.text

    def _changed(self) -> None:
        self._dirty = True

    def _safely(self, action: Callable[[], Any]) -> None:
        """Whatever goes wrong is told, and nothing else stops for it."""
        try:
            action()
        except (InputError, RefineError) as error:
            self.tell(sentence(error), True)
        except Exception as error:
            log.exception("unexpected")
            self.tell(f"This did not work ({type(error).__name__}: {error}).", True)


def sentence(error: Exception) -> str:
    """An error as a sentence that begins with a capital and ends with a full stop."""
    text = str(error)
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def middle(box: Box, volume: Any) -> tuple[float, float, float]:
    """The centre of a box of a volume's grid, in RAS."""
    index = [np.floor((start + stop - 1) / 2) for start, stop in reversed(box)]
    x, y, z = (ijk_to_ras(volume) @ [*index, 1.0])[:3]
    return float(x), float(y), float(z)
