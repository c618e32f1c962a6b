"""Refinement by a server: the image goes up once, each mask with its own request."""

import base64
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .boxes import Box, overlap, size, text, whole
from .client import Client, is_local
from .errors import RefineError, Unreachable
from .events import Event, Finished, Reader, malformed
from .nrrd import encode
from .request import Control, Image, Noted, Request


class Remote:
    """A `Backend` on a server; remembers which images it has there.

    Sessions end on the server after a while without use; then the image is sent again without a question.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self._sessions: dict[str, str] = {}  # key of the image -> session
        self._lock = threading.Lock()

    def known(self, image: Image) -> bool:
        """Whether the server has this image already."""
        return image.key in self._sessions

    def close(self) -> None:
        """Remove this user's images from the server."""
        with self._lock:
            sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            self.client.close_session(session)

    def refine(self, request: Request, control: Control) -> Iterator[Event | Noted]:
        """See `Backend`."""
        mask = encode(request.whole_mask(), request.image.ijk_to_ras)
        for again in (False, True):
            yield from self._upload(request.image, control)
            if control.abandoned.is_set():
                return
            try:
                stream = self.client.stream(mask, parameters(request), session_id=self._sessions[request.image.key])
                break
            except RefineError as error:
                if again or getattr(error, "status", 0) != 404:
                    raise
                self._sessions.pop(request.image.key, None)
        control.when_abandoned(stream.cut)
        yield from self._read(stream.lines(), control)

    def confidence(self, request: Request) -> tuple[NDArray[np.uint8], Box]:
        """How often stochastic rollouts agree with the refinement about a voxel, 0 to 255, in a box."""
        mask, control = encode(request.whole_mask(), request.image.ijk_to_ras), Control()
        for again in (False, True):
            for _ in self._upload(request.image, control):
                pass
            try:
                session = self._sessions[request.image.key]
                said = self.client.confidence(mask, parameters(request), session_id=session)
                return read_confidence(said, request.image.shape)
            except RefineError as error:
                if getattr(error, "status", 0) != 404:
                    raise
                if again:
                    raise RefineError("This server does not tell how sure its models are: update it.") from error
                self._sessions.pop(request.image.key, None)
        raise AssertionError

    def _read(self, lines: Iterator[bytes], control: Control) -> Iterator[Event]:
        reader, ended = Reader(), False
        for line in lines:
            event = reader.read(line)
            ended = isinstance(event, Finished)
            yield event
            if ended:
                return
        if not ended and not control.abandoned.is_set():
            raise RefineError(malformed("an answer that ends in the middle"))

    def _upload(self, image: Image, control: Control) -> Iterator[Noted]:
        """Send the image unless it is there; tells how far it is about every tenth of the way."""
        if self.known(image):
            return
        size = image.voxels.nbytes / 1e6
        yield Noted(f"Sending {image.name} ({size:.0f} MB) to the server, once", 0.0)
        content = encode(image.voxels, image.ijk_to_ras, compress=not is_local(self.client.address))
        told: list[float] = []
        found: list[Any] = []

        def send() -> None:
            try:
                found.append(self.client.open_session(content, told.append, control.abandoned))
            except Exception as error:  # handed to the thread that waits
                found.append(error)

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(0.2)
            yield Noted(f"Sending {image.name} ({size:.0f} MB) to the server, once", told[-1] if told else 0.0)
        if isinstance(found[0], Exception):
            if control.abandoned.is_set() and isinstance(found[0], Unreachable):
                return
            raise found[0]
        with self._lock:
            self._sessions[image.key] = found[0]


def read_confidence(said: dict[str, Any], shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], Box]:
    """The answer of POST /rnca/confidence for an image of this shape."""
    try:
        if said["bbox"] is None:  # all rollouts agree everywhere
            corner = tuple((0, 1) for _ in shape)
            return np.full(size(corner), 255, np.uint8), corner
        box = tuple((int(start), int(stop)) for start, stop in said["bbox"])
        if overlap(box, whole(shape)) != box:
            raise ValueError
        raw = zlib.decompress(base64.b64decode(said["confidence"], validate=True))
        return np.frombuffer(raw, np.uint8).reshape(size(box)), box
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise RefineError(malformed("a confidence that cannot be read")) from error


def parameters(request: Request) -> dict[str, Any]:
    """As the server's `params`."""
    found: dict[str, Any] = {"label": 1}
    if request.model:
        found["model"] = request.model
    if request.steps is not None:
        found["steps"] = request.steps
    if request.roi is not None:
        found["roi"] = text(request.roi)
    return found
