"""Everything with a server that is not a refinement: connecting, models, corrections, the next case, training.

Each method returns at once; the outcome comes through a signal in the main thread, by `tick`.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np

from . import cases, nodes
from .boxes import on_box, union
from .client import Client, is_local
from .errors import LoginNeeded, RefineError
from .local import Local
from .logic import Kept
from .nrrd import encode
from .parameters import Consent
from .remote import Remote
from .request import Backend, Request, Within
from .signals import Signal
from .tasks import Tasks

RESEARCH = "For research use, not a medical device."
SURE = 191
"""Of 255: a voxel about which fewer rollouts agree with the repair (under three quarters) is an unsure one."""


ANY_SHAPE = "For any shape: general-3d for volumes, general-2d for images and for stacks of fewer than 16 slices."


@dataclass(frozen=True)
class ModelChoice:
    """A model as a user chooses it."""

    name: str
    version: str
    description: str = ""
    licence: str = ""
    steps: int = 64
    figures: str = ""
    versions: tuple[dict[str, Any], ...] = field(default=(), compare=False)


class ServerLogic:
    """The server that is connected, or this computer.

    Signals: `changed()`; `told(text, is_error)`; `login_needed(text)`; `loaded(volume, segmentation or None)`.

    Attributes:
        backend: for `RefineLogic.refine`; None before a connection.
        models: what can be chosen.
        training: the last status of a training run, {} if there was none.
    """

    def __init__(self, consent: Consent, tasks: Tasks | None = None) -> None:
        self.tasks = tasks or Tasks()
        self.consent = consent
        self.changed, self.told, self.login_needed, self.loaded = Signal(), Signal(), Signal(), Signal()
        self.client: Client | None = None
        self.backend: Backend | None = None
        self.models: list[ModelChoice] = []
        self.default_model = ""
        self.info: dict[str, Any] = {}
        self.training: dict[str, Any] = {}
        self._questions = itertools.count()
        self._answered = -1

    def tick(self) -> None:
        """Hand over what came in."""
        self.tasks.tick()

    # ---- connecting

    @property
    def connected(self) -> bool:
        """Whether there is somebody who refines."""
        return self.backend is not None

    @property
    def address(self) -> str:
        """Of the server; '' on this computer."""
        return self.client.address if self.client else ""

    @property
    def leaves_computer(self) -> bool:
        """Whether what is sent to the server leaves this computer."""
        return self.client is not None and not is_local(self.client.address)

    def connect(
        self, address: str, token: str = "", user: str = "", password: str = "", certificates: str = ""
    ) -> None:
        """Connect to a server, checking that it is one of ours; with a token, or a user and password, if it asks."""
        self.disconnect()
        try:
            client = Client(address, token, certificates)
        except RefineError as error:
            self.told.emit(str(error), True)
            return

        def work() -> tuple[Client, dict[str, Any], dict[str, Any], str]:
            if user and password:
                client.log_in(user, password)
            info = client.info()
            status = client.status()
            return client, info, client.models(), str(status.get("models") or "")

        self.tasks.run(work, self._connected, self._refused)

    def use_this_computer(self) -> None:
        """Refine with the package `rnca` in this Python; no server."""
        self.disconnect()
        local = Local()

        def done(found: dict[str, list[dict[str, Any]]]) -> None:
            self.backend, self.default_model = local, local.default_model()
            self.models = _choices(found, self.default_model)
            self.told.emit("Refining on this computer; no image leaves it.", False)
            self.changed.emit()

        self.tasks.run(local.models, done, self._refused)

    def disconnect(self) -> None:
        """Leave the server; this user's images are removed from it."""
        self.tasks.forget()
        backend, self.backend, self.client = self.backend, None, None
        self.models, self.info, self.training = [], {}, {}
        if isinstance(backend, Remote):
            self.tasks.run(backend.close, lambda _: None, lambda _: None)
        self.changed.emit()

    def _connected(self, found: tuple[Client, dict[str, Any], dict[str, Any], str]) -> None:
        self.client, self.info, models, self.default_model = found
        self.backend = Remote(self.client)
        self.models = _choices(models, self.default_model)
        self.told.emit(f"Connected to {self.client.address}, version {self.info.get('version')}. {RESEARCH}", False)
        self.changed.emit()

    def _refused(self, error: RefineError) -> None:
        if isinstance(error, LoginNeeded):
            self.login_needed.emit(str(error))
        else:
            self.told.emit(str(error), True)
        self.changed.emit()

    def _ask(self, work: Callable[[Client], Any], then: Callable[[Any], None]) -> None:
        """Run something that needs a server."""
        client = self.client
        if client is None:
            self.told.emit("This needs a server: connect to one first.", True)
            return
        self.tasks.run(lambda: work(client), then, self._refused)

    # ---- models

    def refresh_models(self) -> None:
        """Ask for the models again."""

        def done(found: dict[str, list[dict[str, Any]]]) -> None:
            self.models = _choices(found, self.default_model)
            self.changed.emit()

        self._ask(lambda client: client.models(), done)

    def activate(self, name: str, version: str) -> None:
        """Use this version of a model from now on, for everybody on the server: roll back, or forward."""

        def done(_: Any) -> None:
            self.told.emit(f"{name} {version} is in use now.", False)
            self.refresh_models()

        self._ask(lambda client: client.activate(name, version), done)

    # ---- how sure a model is

    def unsure(self, requests: Sequence[Request], then: Callable[[Within], None]) -> None:
        """Where stochastic rollouts of these requests do not agree: `then` gets (mask, box) of all of them."""
        backend = self.backend
        if backend is None or not requests:
            return

        def work() -> Within:
            found = [backend.confidence(request) for request in requests]  # type: ignore[attr-defined]
            box = reduce(union, (place for _, place in found))
            return reduce(np.logical_or, (on_box(share < SURE, place, box) for share, place in found)), box

        self.tasks.run(work, then, self._refused)

    # ---- corrections

    def submit(self, volume: Any, segmentation: Any, segment: str, kept: Kept | None) -> None:
        """Save a correction: the segmentation as it is now, and where there was a refinement, what it began with.

        Args:
            volume, segmentation: nodes; `segment` is the id of the one that was corrected.
            kept: what `RefineLogic.kept` has of it; None for a mask that was never refined.
        """
        client = self.client
        if client is None:
            self.told.emit("Corrections are saved on a server: connect to one first.", True)
            return
        try:
            image = nodes.image_of(volume)
            final = cases.label_map(segmentation, volume, segment)
        except RefineError as error:
            self.told.emit(str(error), True)
            return
        values = cases.values_of(segmentation)
        inside = segmentation.GetSegmentation()
        info: dict[str, Any] = {
            "label": values[segment],
            "label_info": [{"name": inside.GetSegment(s).GetName(), "idx": v} for s, v in values.items()],
        }
        masks = {"final": final}
        if kept is not None:
            info |= {"model": kept.model, "version": kept.version, "steps": kept.step, "seconds": kept.seconds}
            masks["before"] = cases.with_mask(final, values[segment], kept, kept.before)
            masks["refined"] = cases.with_mask(final, values[segment], kept, kept.refined)
        known = volume.GetAttribute(cases.IMAGE_ID) if volume.GetAttribute(cases.SERVER) == client.address else None

        def work() -> str:
            name = str(known or cases.image_id(volume=volume, image=image, address=client.address))
            if not client.has_image(name):
                client.add_image(name, encode(image.voxels, image.ijk_to_ras))
            for tag in ("before", "refined", "final"):  # final seals the three, so it comes last
                if tag in masks:
                    accepted = bool((masks["refined"] == final).all()) if "refined" in masks else None
                    client.save_label(name, tag, encode(masks[tag], image.ijk_to_ras), {**info, "accepted": accepted})
            return name

        def done(name: str) -> None:
            cases.mark(volume, client.address, name)
            self.told.emit(f"The correction of {name} is saved on the server.", False)
            self.changed.emit()

        self.tasks.run(work, done, self._refused)

    def next_case(self) -> None:
        """Load the image whose mask needs work most, with its mask; `loaded` tells when it is there."""
        client = self.client

        def work(client: Client) -> Any:
            found = client.next_case()
            if not found.get("id"):
                return None
            mask = client.download("label", label=found["id"], tag=found["tag"]) if found.get("tag") else None
            return found, client.download("image", image=found["id"]), mask

        def done(found: Any) -> None:
            if found is None:
                self.told.emit("Every case has its final mask: there is no next one.", False)
                return
            case, (name, content), mask = found
            volume = cases.load(name, content, str(case["id"]), client.address if client else "")
            segmentation = cases.load_mask(mask[0], mask[1], volume) if mask else None
            self.loaded.emit(volume, segmentation)
            self.told.emit(f"{case['id']}: {_broken(case)}", False)

        self._ask(work, done)

    # ---- training

    def train(self, model: str = "") -> None:
        """Fine-tune a model on the corrections; the gate decides whether it is published."""

        def done(found: dict[str, Any]) -> None:
            self.training = found
            self.changed.emit()

        self._ask(lambda client: client.train({"from": model} if model else {}), done)

    def stop_training(self) -> None:
        """End the training; the server keeps what it has learned, and can resume."""
        self._ask(lambda client: client.stop_training(), lambda _: self.refresh_training())

    def refresh_training(self) -> None:
        """Ask how the training goes; call it every second or so while one runs."""

        number = next(self._questions)

        def work(client: Client) -> dict[str, Any]:
            status = client.training()
            if status.get("status") == "RUNNING":
                status["progress"] = (client.info().get("train_stats") or {}).get("rnca_refine") or {}
            return status

        def done(found: dict[str, Any]) -> None:
            if number < self._answered:  # overtaken: it was asked before a stop, say, and says that a training runs
                self.changed.emit()
                return
            self._answered = number
            ended = self.training.get("status") == "RUNNING" and found.get("status") != "RUNNING"
            self.training = found
            if ended:
                self.told.emit(gate_in_words(found), False)
                self.refresh_models()
            self.changed.emit()

        self._ask(work, done)

    @property
    def training_fraction(self) -> float | None:
        """How far the training is, 0..1; None if none runs."""
        if self.training.get("status") != "RUNNING":
            return None
        progress = self.training.get("progress") or {}
        return float(progress.get("epoch") or 0) / max(float(progress.get("total_epochs") or 1), 1.0)


def gate_in_words(status: dict[str, Any]) -> str:
    """What came of a training run, in a sentence or two."""
    if status.get("status") == "STOPPED":
        return "The training was stopped; the model in use is the one it was."
    result = status.get("result") or {}
    gate = result.get("gate")
    if not gate:
        return f"The training ended without a new model: {result.get('message') or 'see the log of the server'}"
    old, new = gate.get("old") or {}, gate.get("new") or {}
    change = (
        f"On held-out corrections Dice went from {old.get('dice', 0):.3f} to {new.get('dice', 0):.3f}, the Betti error"
        f" from {old.get('betti', 0):.2f} to {new.get('betti', 0):.2f}."
    )
    if gate.get("passed"):
        return f"The new version {result.get('published') or ''} is in use. {change}".replace("  ", " ")
    why = "; ".join(gate.get("reasons") or []) or "it is not better"
    return f"The new model was not taken, and the old one stays: {why}. {change}"


def _broken(case: dict[str, Any]) -> str:
    """What is known of a case, in words."""
    topology = case.get("topology") or {}
    parts = [f"{topology[k]} {k}" for k in ("pieces", "holes", "tunnels", "cavities") if topology.get(k)]
    return ", ".join(parts) if parts else "loaded"


def _choices(found: dict[str, list[dict[str, Any]]], default: str) -> list[ModelChoice]:
    """The models of a server's list: of each, the active version; first a default that is one or another by size."""
    choices = []
    if default and default not in found:
        choices.append(ModelChoice(default, "", ANY_SHAPE))
    for name, versions in sorted(found.items()):
        active = next((v for v in versions if v.get("active")), None)
        if active is None:
            continue
        choices.append(
            ModelChoice(
                name,
                str(active["version"]),
                str(active.get("description") or ""),
                str(active.get("licence") or ""),
                int(active.get("steps") or 64),
                str(active.get("figures") or ""),
                tuple(versions),
            )
        )
    return choices
