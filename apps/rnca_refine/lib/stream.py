"""The live stream: a worker's steps as lines of JSON, each sent as soon as it is made.

Who does what. A worker thread (jobs.py) computes and never waits for the network: it offers a step to a small buffer,
and where that is full, because the client reads slowly, the step is left out; the next one that fits tells the change
since the last one *sent*, so nothing is lost but smoothness, and memory stays what it was. The event loop takes lines
out of the buffer and sends them. It sets `left` when the client closes the connection and `stop` when somebody asks for
that; the worker looks at both after each step.
"""

import asyncio
import base64
import hashlib
import json
import threading
import time
import uuid
import zlib
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnca.geometry import Box, bounding_box, box_around

from .refusals import Left, Refusal, told

BUFFERED = 16  # lines that may wait for a slow client
PATIENCE = 120.0  # seconds that one line may take to be accepted by the client's side


class Lines:
    """A bounded buffer from one worker thread to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.id = uuid.uuid4().hex
        self.left, self.stop = threading.Event(), threading.Event()
        self._loop, self._ready = loop, asyncio.Event()
        self._waiting: deque[bytes] = deque()
        self._lock = threading.Lock()
        self._ended = False

    @property
    def full(self) -> bool:
        """Whether a step would have to wait."""
        return len(self._waiting) >= BUFFERED

    def put(self, event: dict[str, Any]) -> None:
        """Add a line (thread-safe); Left if nobody will read it."""
        if self.left.is_set():
            raise Left
        line = (json.dumps(event, separators=(",", ":")) + "\n").encode()
        with self._lock:
            self._waiting.append(line)
        self._wake()

    def end(self) -> None:
        """No more lines come."""
        self._ended = True
        self._wake()

    async def get(self) -> bytes | None:
        """The next line, None at the end."""
        while True:
            with self._lock:
                if self._waiting:
                    return self._waiting.popleft()
                if self._ended:
                    return None
            self._ready.clear()
            if not self._waiting and not self._ended:
                await self._ready.wait()

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._ready.set)
        except RuntimeError:  # the server is shutting down
            self.left.set()


class Running:
    """The refinements under way, by id, so that they can be stopped."""

    def __init__(self) -> None:
        self._lines: dict[str, tuple[Lines, str]] = {}

    def add(self, lines: Lines, user: str) -> None:
        self._lines[lines.id] = (lines, user)

    def remove(self, lines: Lines) -> None:
        self._lines.pop(lines.id, None)

    def stop(self, name: str, user: str) -> None:
        """Ask a refinement to end with the mask it has; only its own user may."""
        found = self._lines.get(name)
        if found is None or found[1] != user:
            raise Refusal(404, "there is no such refinement under way: it has ended, or never began.")
        found[0].stop.set()

    def leave_all(self) -> None:
        """The server is shutting down."""
        for lines, _ in list(self._lines.values()):
            lines.left.set()


def run(
    lines: Lines, prepare: Callable[[], tuple[Any, Any, dict[str, Any]]], every: int, done: Callable[..., None]
) -> None:
    """What a worker does for one stream.

    Args:
        prepare: reads and checks; gives the Repair, the model's record and what the start event tells besides.
        every: send one step out of so many.
        done: told (repair, record, last mask, steps done, seconds, reason) when it has ended well.
    """
    try:
        if lines.left.is_set():
            return
        _steps(lines, prepare, every, done)
    except Left:
        pass
    except BaseException as error:
        status, sentence = told(error)
        event: dict[str, Any] = {"event": "error", "status": status, "message": sentence, "detail": sentence}
        if status == 500:
            report(error)
        if not lines.left.is_set():
            lines.put(event)
    finally:
        lines.end()


def _steps(lines: Lines, prepare: Callable[[], Any], every: int, done: Callable[..., None]) -> None:
    repair, record, more = prepare()
    started = time.perf_counter()
    box = repair.box
    before = repair.topology(repair.start) if box is not None else {"voxels": 0}
    lines.put(
        {
            "event": "start",
            "id": lines.id,
            "model": record.name,
            "version": record.version,
            "shape": list(repair.values.shape),
            "bbox": pairs(box),
            "steps": repair.steps,
            "label": repair.label,
            "topology": before,
            **more,
        }
    )
    sent, now, index, reason = repair.start.copy(), repair.now, 0, "steps"
    unsent: Box | None = None
    if lines.stop.is_set():
        reason = "stopped"
    else:
        for index, changed in enumerate(repair.run(), start=1):
            unsent = box_around(unsent, changed)
            if lines.left.is_set():
                raise Left
            if lines.stop.is_set():
                reason = "stopped"
                break
            if (index % every == 0 or index == repair.steps) and not lines.full:
                lines.put({"event": "step", "step": index, **delta(sent, now, unsent, box)})
                unsent = None
    seconds = round(time.perf_counter() - started, 4)
    bits = np.packbits(now.ravel()).tobytes()
    lines.put(
        {
            "event": "done",
            "reason": reason,
            "step": index,
            "seconds": seconds,
            "topology": repair.topology(now) if box is not None else before,
            "changed": int(np.count_nonzero(now != repair.start)),
            "mask": packed(bits),
            "sha256": hashlib.sha256(bits).hexdigest(),
        }
    )
    done(repair, record, now, index, seconds, reason)


def delta(sent: NDArray[np.bool_], now: NDArray[np.bool_], where: Box | None, box: Box) -> dict[str, Any]:
    """What changed since the last step that was sent: voxels, their box in the whole mask, and their bits in it.

    Args:
        sent: the mask that the client has; becomes what it will have.
        now: the mask as it is; both fill `box` of the whole mask.
        where: a box of them outside of which nothing changed; None if nothing did.
    """
    flips = sent[where] ^ now[where] if where is not None else sent[:0]
    inner = bounding_box(flips)
    if where is None or inner is None:
        return {"changed": 0, "bbox": None, "delta": ""}
    sent[where] = now[where]
    part = flips[inner]
    place = tuple(
        slice(b.start + w.start + i.start, b.start + w.start + i.stop)
        for b, w, i in zip(box, where, inner, strict=True)
    )
    bits = np.packbits(part.ravel()).tobytes()
    return {"changed": int(np.count_nonzero(part)), "bbox": pairs(place), "delta": packed(bits)}


def packed(bits: bytes) -> str:
    """base64(zlib(bits))"""
    return base64.b64encode(zlib.compress(bits, 1)).decode()


def pairs(box: Box | None) -> list[list[int]] | None:
    """A box as half-open ranges [[start, stop], …] in array order (k, j, i)."""
    return None if box is None else [[int(part.start), int(part.stop)] for part in box]


def report(error: BaseException) -> None:
    """Log where something failed: kinds of errors and lines of code, no values, which might be a patient's."""
    import logging
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in reversed(frames[-6:]))
    logging.getLogger("rnca").error("%s at %s", type(error).__name__, where)


class Stream:
    """An ASGI response: the lines, each flushed; gone when the client is."""

    def __init__(self, lines: Lines, ended: Callable[[], None]) -> None:
        self.lines, self._ended = lines, ended

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        watch = asyncio.ensure_future(self._watch(receive))
        try:
            first = asyncio.ensure_future(self.lines.get())
            await asyncio.wait({first, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not first.done():
                first.cancel()
                return
            line = first.result() or b""
            status, kind = 200, b"application/x-ndjson"
            if line.startswith(b'{"event":"error"'):  # refused before it began: the status tells, too
                status, kind = json.loads(line)["status"], b"application/json"
            headers = [(b"content-type", kind), (b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            while line is not None and not watch.done():
                body = {"type": "http.response.body", "body": line, "more_body": True}
                await asyncio.wait_for(send(body), PATIENCE)
                following = asyncio.ensure_future(self.lines.get())
                await asyncio.wait({following, watch}, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    following.cancel()
                    return
                line = following.result()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (TimeoutError, asyncio.TimeoutError, OSError):
            pass  # the client does not read, or has gone
        finally:
            self.lines.left.set()
            watch.cancel()
            self._ended()

    async def _watch(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.lines.left.set()
