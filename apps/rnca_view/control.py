"""What happens when somebody clicks: between the page's state and the logic that the Slicer module shares."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rnca.errors import InputError
from RNCARefineLib.errors import RefineError
from RNCARefineLib.logic import IDLE, REVIEW, RUNNING, RefineLogic
from RNCARefineLib.parameters import LOCAL, Consent
from RNCARefineLib.request import Noted
from RNCARefineLib.server import ServerLogic

from . import shown
from .case import Case
from .memory import CountedUndo, Memory
from .opened import Opened
from .replay import Replay
from .views import Views

TICKS, PUSHES = 60, 20
"""A second: how often the logics are asked, and how often the page is told at most."""

TOO_FAST = 2.0
"""Seconds: a refinement that took less is played again, as nobody could watch it."""

log = logging.getLogger("rnca.view")


class Control:
    """The application behind the page.

    Args:
        server: the trame server; its state gets the names of `shown.START`.
        scene: the vtkMRMLScene.
        views: which show it.
    """

    def __init__(self, server: Any, scene: Any, views: Views) -> None:
        self.server, self.state, self.scene, self.views = server, server.state, scene, views
        self.opened = Opened(scene, views)
        self.history = CountedUndo()
        self.refinement = RefineLogic(scene, self.history)
        self.place = ServerLogic(Consent(Memory()))
        self.replay = Replay(self.refinement.show_step)
        self._dirty, self._pushed = True, 0.0
        self._phase, self._first, self._stopped = IDLE, 0.0, False  # of the last tick; when the first step came
        self.state.update(shown.START | {"samples": [sample.name for sample in self.opened.samples]})
        for signal in (self.refinement.changed, self.place.changed):
            signal.connect(self._changed)
        self.refinement.told.connect(self.tell)
        self.refinement.noted.connect(self._noted)
        self.place.told.connect(self._told_by_place)
        self.place.login_needed.connect(self._login_needed)

    @property
    def case(self) -> Case | None:
        """What is open."""
        return self.opened.case

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
        self._open(lambda: self.opened.sample(name))

    def open_files(self, image: Path | None, mask: Path | None) -> None:
        """Open an image, a mask on the image that is open, or both."""
        self._open(lambda: self.opened.files(image, mask))

    def _open(self, what: Callable[[], None]) -> None:
        if self.refinement.state != IDLE:
            self.refinement.discard()
        before = self.case.segmentation if self.case else None
        self._safely(what)
        if self.case is None or self.case.segmentation is not before:
            self.history.forget()
        with self.state:
            self.state.update(shown.of_case(self.opened.case))
            self.state.sample = self.opened.sample_name
            if not self.place.models or self.opened.model in {model.name for model in self.place.models}:
                self.state.model = self.opened.model or self.state.model  # kept until the models are known
            known = [item["value"] for item in self.state.segments]
            if self.state.segment not in known:
                self.state.segment = known[0] if known else None
        self._changed()

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

    def choose_place(self, place: str) -> None:
        """This computer, or a server that is to be connected to."""
        with self.state:
            self.state.place = place
        if place == LOCAL:
            self.place.use_this_computer()
        else:
            self.place.disconnect()

    def choose_model(self, name: str) -> None:
        """Refine with this one."""
        self.state.model = name
        self.push()

    def connect(self, address: str, token: str = "", user: str = "", password: str = "") -> None:
        """Connect to a server, with a login if it asks for one."""
        with self.state:
            self.state.update({"address": address, "connecting": True, "ask_login": ""})
            self.state.update({"login_password": "", "login_token": ""})
        self.place.connect(address or "", token or "", user or "", password or "")

    def _login_needed(self, text: str) -> None:
        with self.state:
            self.state.update({"ask_login": text, "connecting": False})

    def _told_by_place(self, text: str, is_error: bool) -> None:
        with self.state:
            self.state.connecting = False
        self.tell(text, is_error)

    # ---- refine

    def refine_or_stop(self, segment: str | None, steps: Any) -> None:
        """The one button.

        Args:
            segment: an id, or `shown.ALL`.
            steps: as typed; nothing is the model's own.
        """
        if self.refinement.state == RUNNING:
            self._stopped = True
            self.refinement.stop()
        elif self.refinement.state == IDLE:
            self.state.update({"segment": segment, "steps": steps})
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

    def mark_changes(self, shown: bool) -> None:
        """Show what was added and removed in colours, or not."""
        with self.state:
            self.state.show_changes = shown
        self.refinement.set_show_changes(shown)
        self._show_preview()
        self.views.render()

    def _show_preview(self) -> None:
        preview = self.refinement.preview_node if self.refinement.state == REVIEW else None
        segmentation = self.case.segmentation if self.case else None
        self.views.show_preview(preview, segmentation, self.refinement.show_changes)

    def key(self, name: str) -> None:
        """A shortcut was pressed that is not a button's."""
        {"escape": self.discard, "z": self.undo, "y": self.redo}[name]()

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
