"""What a click does, for the module's panel and the Segment Editor effect alike: ask, connect, refine, remember.

A session owns a `RefineLogic` and a `ServerLogic` and what both need: the user's choices and the user's consent. No Qt:
whoever shows it gives a function that asks the user, a place for settings, and a timer that calls `tick`.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from . import local
from .boxes import Box
from .errors import RefineError
from .logic import IDLE, REVIEW, RUNNING, RefineLogic
from .parameters import LOCAL, Consent, Parameters, Settings
from .request import Within
from .server import ServerLogic
from .signals import Signal
from .translate import _
from .undo import Undo

QUICK, SLOW = 15, 1000
"""Milliseconds between two ticks: while masks or answers are awaited, and while a training runs on the server."""

Ask = Callable[[str], bool]


class Session:
    """One panel's, or one effect's, work.

    Args:
        scene: the vtkMRMLScene.
        settings: where choices and consent are remembered.
        ask: shows a question and gives the answer; called only before something leaves this computer or is installed.
        undo: where undo states go; see `RefineLogic`.

    Attributes:
        parameters: the user's choices; `remember` keeps them.
        changed: Signal(), anything that is shown may be different now.
        told: Signal(text, is_error).
    """

    def __init__(self, scene: Any, settings: Settings, ask: Ask, undo: Undo | None = None) -> None:
        self._settings, self._ask = settings, ask
        self.parameters = Parameters.load(settings)
        self.server = ServerLogic(Consent(settings))
        self.logic = RefineLogic(scene, undo)
        self.logic.show_changes = self.parameters.show_changes
        self.changed, self.told = Signal(), Signal()
        self.closed = False
        self.token: Callable[[], str] = str  # for a connection that a click on Refine makes
        self._waiting: Callable[[], None] | None = None  # what to do as soon as there is a connection
        self._known: Any = None  # the client of the last connection
        self._asked = 0.0
        for part in (self.server, self.logic):
            part.changed.connect(self._on_changed)
            part.told.connect(self._on_told)
        self.server.login_needed.connect(self._on_refused)

    def remember(self) -> None:
        """Keep the choices for the next start."""
        self.parameters.save(self._settings)

    def reload(self) -> None:
        """Take the choices that were remembered elsewhere since; another server means a new connection."""
        before, self.parameters = self.parameters, Parameters.load(self._settings)
        if before.server != self.parameters.server and self.logic.state == IDLE:
            self.server.disconnect()

    # ---- time

    @property
    def interval(self) -> int | None:
        """Milliseconds until `tick` should be called; None: not before something is begun."""
        if self.logic.state == RUNNING or self.server.tasks.busy:
            return QUICK
        return SLOW if self.server.training.get("status") == "RUNNING" else None

    def tick(self) -> None:
        """Show what is new; called by a timer in the main thread."""
        self.server.tick()
        if self._waiting is not None and not self.server.tasks.busy and not self.server.connected:
            self._waiting = None
        self.logic.tick()
        if self.logic.state == RUNNING:
            time.sleep(0.001)  # Slicer's main thread may hold Python's lock while Qt idles: the worker needs it
        if (
            self.server.training.get("status") == "RUNNING"
            and not self.server.tasks.busy
            and time.monotonic() - self._asked > 0.9 * SLOW / 1000
        ):
            self._asked = time.monotonic()
            self.server.refresh_training()

    # ---- connecting

    def connect(self, token: str = "", user: str = "", password: str = "") -> None:
        """Connect to the chosen server, or use this computer; token and password are not kept."""
        chosen, self._waiting = self.parameters, None
        if self.logic.state != IDLE:
            self.logic.discard()
        if chosen.server != LOCAL:
            self.server.connect(chosen.server, token, user, password, chosen.certificates)
        elif local.installed():
            self.server.use_this_computer()
        else:
            self.server.disconnect()
            self.told.emit(_("The package rnca is not installed in Slicer: install it under Server."), True)
        self.changed.emit()

    def install(self, wheel: str) -> None:
        """Install what refining on this computer needs from the package's wheel, after the user has read what it is."""
        if not wheel:
            return
        try:
            local.check_wheel(wheel)
        except RefineError as error:
            self.told.emit(str(error), True)
            return
        if not self._ask(_(local.WHAT_IT_INSTALLS) + "\n\n" + _("Install it?")):
            return
        self.told.emit(_("Installing; this takes some minutes."), False)
        self.server.tasks.run(lambda: local.install(wheel), lambda _found: self.connect(), self._on_failed)
        self.changed.emit()

    def allowed(self, what: str) -> bool:
        """Whether an image may go to the server: always on this computer, else asked once a server.

        `what` is 'send' or 'store', see `Consent`.
        """
        server, address = self.server, self.server.address
        if not server.leaves_computer or server.consent.given(address, what):
            return True
        question = {
            "send": _(
                "To refine, the image and the segment are sent to {address}, which is another computer. They are"
                " removed there when you disconnect. Send them?"
            ),
            "store": _(
                "The image and the correction are stored on {address}, which is another computer, and models are"
                " trained on them. Store them?"
            ),
        }[what].format(address=address)
        if not self._ask(question + "\n\n" + _("The answer is remembered for this server.")):
            self.told.emit(_("Nothing was sent."), False)
            return False
        server.consent.give(address, what)
        return True

    # ---- refining

    def refine(
        self,
        volume: Any,
        segmentation: Any,
        segments: Sequence[str],
        *,
        roi: Box | None = None,
        within: Within | None = None,
        settings: Any = None,
    ) -> None:
        """Refine segments with the chosen model; connects first if need be. See `RefineLogic.refine`."""

        def begin() -> None:
            backend = self.server.backend
            if backend is None or not self.allowed("send"):
                return
            chosen = self.parameters
            known = {choice.name for choice in self.server.models}
            model = chosen.model if chosen.model.partition("@")[0] in known else ""
            try:
                self.logic.refine(
                    backend,
                    volume,
                    segmentation,
                    segments,
                    model=model,
                    steps=chosen.steps or None,
                    roi=roi,
                    within=within,
                    settings=settings,
                )
            except RefineError as error:
                self.told.emit(str(error), True)
            self.changed.emit()

        if self.server.connected:
            begin()
        else:
            self.connect(self.token())
            self._waiting = begin if self.server.tasks.busy else None
        self.changed.emit()

    def show_unsure(self, shown: bool) -> None:
        """Mark, in a refinement that has ended, where the model is unsure; or take the marks away."""
        runs = self.logic.runs
        if not shown or self.logic.state != REVIEW or not runs or not self.allowed("send"):
            self.logic.show_unsure(None, ())
            return
        asked = self.logic.preview_node

        def done(found: Within) -> None:
            if asked is not None and self.logic.preview_node is asked:
                self.logic.show_unsure(*found)
                if not found[0].any():
                    self.told.emit(_("The model is sure of every voxel."), False)
                self.changed.emit()

        self.server.unsure([run.request for run in runs if run.history is not None], done)
        self.changed.emit()

    def submit(self, volume: Any, segmentation: Any, segment: str) -> None:
        """Save a segment's correction on the server."""
        if self.server.client is None or self.allowed("store"):
            self.server.submit(volume, segmentation, segment, self.logic.kept.get(segment))
        self.changed.emit()

    def close(self) -> None:
        """The program, or the panel, ends: nothing runs on, nothing of ours stays in the scene or on the server."""
        if self.closed:
            return
        self.closed = True
        self._waiting = None
        with suppress(Exception):  # settings may be gone when the program ends
            self.remember()
        self.logic.close()
        self.server.disconnect()

    # ---- inside

    def _on_changed(self) -> None:
        client = self.server.client
        if client is not None and client is not self._known:
            self.server.refresh_training()  # one may be under way, begun by somebody else
        self._known = client
        if self._waiting is not None and self.server.connected:
            begin, self._waiting = self._waiting, None
            begin()
        self.changed.emit()

    def _on_told(self, text: str, is_error: bool) -> None:
        self.told.emit(text, is_error)

    def _on_refused(self, text: str) -> None:
        self._waiting = None
        self.told.emit(text, True)

    def _on_failed(self, error: RefineError) -> None:
        self.told.emit(str(error), True)
        self.changed.emit()
