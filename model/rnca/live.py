"""A server of one's own and its live stream, from Python: what `rnca demo` does with them.

`Server.start()` runs `rnca serve` on a free port of this computer; `stream` there yields the same steps as
`rnca.stream`, made by the server and sent as lines of JSON (docs/reference/server-api.md).
"""

import base64
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .files import read_mask
from .geometry import Box, Grid, as_array
from .labels import pick_labels
from .rollout import Step

START_SECONDS = 120.0  # that a server may take to answer
SAVE_SECONDS = 20.0  # that it may take to keep the masks of a correction
TAGS = ("before", "refined", "final")
RUN = "from rnca.cli import main; main()"


def is_installed() -> bool:
    """Whether this environment can start a server: the extra `server` and MONAI Label are there."""
    return all(find_spec(name) is not None for name in ("monailabel", "httpx"))


class Server:
    """A server of this computer, as its client sees it."""

    def __init__(self, address: str) -> None:
        import httpx

        self.address = address
        self._http = httpx.Client(base_url=address, timeout=600, trust_env=False)  # no proxy on the way to ourselves

    @classmethod
    @contextmanager
    def start(cls, studies: Path, model: str) -> "Iterator[Server]":
        """Run `rnca serve` for a folder of images until the block ends.

        Raises:
            InputError: it does not start; the sentence holds the last line that it wrote.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        home = str(Path(__file__).parents[1])
        settings = {k: v for k, v in os.environ.items() if not k.startswith(("MONAI_LABEL", "RNCA_"))}
        settings["PYTHONPATH"] = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH", "")]))
        words = [sys.executable, "-c", RUN, "serve", "--studies", str(studies), "--port", str(port), "--model", model]
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=settings)
            try:
                server = cls(f"http://127.0.0.1:{port}")
                with server._http:
                    if not server._answers(process):
                        log.seek(0)
                        last = log.read().decode("utf-8", "replace").strip().splitlines()[-1:]
                        raise InputError(f"the server did not start: {' '.join(last) or 'it wrote nothing'}")
                    yield server
            finally:
                process.terminate()
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def _answers(self, process: "subprocess.Popen[bytes]") -> bool:
        """Wait until it answers; False if it ends, or is silent for too long."""
        import httpx

        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                return self._http.get("/info/").status_code == 200
            time.sleep(0.1)
        return False

    def stream(self, image: str, mask: Path) -> Iterator[Step]:
        """Repair a mask file of one label on an image of the server's folder, by its model; the steps as they come.

        Steps that the server left out because they were read too slowly are missing; a step's mask is right all the
        same. The last step is held back until the server says how the refinement ended.
        """
        files = {"label": (mask.name, mask.read_bytes())}
        answer = self._http.stream("POST", "/rnca/refine", params={"image": image}, files=files)
        with _reached(), answer as lines:
            yield from read_steps(read_mask(mask), lines.iter_lines())

    def submit(self, image: str, mask: Path) -> list[str]:
        """Save a mask as the final one of an image; the tags that the server keeps of this correction."""
        files = {"label": (mask.name, mask.read_bytes())}
        kept: list[str] = []
        with _reached():
            answer = self._http.put("/datastore/label", params={"image": image}, files=files)
            if answer.status_code != 200:
                raise InputError(f"the server says: {answer.json()['detail']}")
            deadline = time.monotonic() + SAVE_SECONDS
            while len(kept) < len(TAGS) and time.monotonic() < deadline:  # the first two are kept in the background
                kept = [tag for tag in TAGS if self._has(image, tag)]
                time.sleep(0.05)
        return kept

    def _has(self, image: str, tag: str) -> bool:
        return self._http.head("/datastore/label", params={"label": image, "tag": tag}).status_code == 200


@contextmanager
def _reached() -> Iterator[None]:
    """A connection that breaks is told in a sentence."""
    import httpx

    try:
        yield
    except httpx.HTTPError as error:
        raise InputError(f"the server does not answer any more ({error}): try again.") from None


def read_steps(mask: Any, lines: Iterable[str]) -> Iterator[Step]:
    """The steps that a live stream tells, its changes added up.

    Args:
        mask: what was sent, as `rnca.files.read_mask` reads it; of one label.
        lines: of the answer, an event in JSON each.

    Raises:
        InputError: the server refused, or what came does not add up to what it says the result is.
    """
    started = time.perf_counter()
    grid, values = Grid.of(mask), np.asarray(as_array(mask))
    (value,) = pick_labels(values, None, False)
    box: Box = ()
    now, steps = values == value, 0
    last: Step | None = None

    def step(index: int, changed: int, where: Box, after: NDArray[np.bool_]) -> Step:
        write = partial(_written, grid, values, value, after)
        return Step(index, steps, value, changed, where or None, time.perf_counter() - started, None, write)

    for line in lines:
        event = json.loads(line)
        kind = event.get("event", "error")  # what is refused at the door is a sentence without more
        if kind == "error":
            raise InputError(f"the server says: {event.get('message') or event.get('detail')}")
        if kind == "start":
            box, steps = _box(event["bbox"]), event["steps"]
        elif kind == "step":
            if last is not None:
                yield last
            where = _box(event["bbox"])
            if where:
                now = now.copy()  # earlier steps keep theirs
                now[where] ^= unpack(event["delta"], where)
            last = step(event["step"], event["changed"], where, now)
        elif kind == "done":
            whole = now.copy()
            if box:
                whole[box] = unpack(event["mask"], box)
                wrong = hashlib.sha256(np.packbits(whole[box].ravel()).tobytes()).hexdigest() != event["sha256"]
                complete = last is not None and last.index == event["step"]
                if wrong or (complete and (whole != now).any()):
                    raise InputError("what the server sent does not add up to its result: try again.")
            if last is None or last.index < event["step"]:
                if last is not None:
                    yield last
                last = step(event["step"], int(np.count_nonzero(whole != now)), (), whole)
            last.reason, last.seconds = "steps" if box else "empty", event["seconds"]
            yield last
            return
    raise InputError("the server ended the refinement without a result: try again.")


def unpack(text: str, box: Box) -> NDArray[np.bool_]:
    """A `delta` or `mask` of the stream: bool, of the box's shape."""
    shape = [part.stop - part.start for part in box]
    bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)


def _box(pairs: list[list[int]] | None) -> Box:
    return tuple(slice(start, stop) for start, stop in pairs or ())


def _written(grid: Grid, values: NDArray[Any], value: float, now: NDArray[np.bool_]) -> Any:
    """The whole mask with its label as it now is, in the form it was given."""
    out = values.copy()
    out[(values == value) & ~now] = 0
    out[now] = value
    return grid.wrap(out)
