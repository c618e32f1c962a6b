"""What a refinement tells while it runs, and the lines of JSON that carry it from a server."""

import base64
import binascii
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .boxes import Box, size
from .errors import RefineError

LARGEST = 1 << 34
"""Most voxels of a box that is believed: a line that claims more is not a mask."""


@dataclass(frozen=True)
class Started:
    """The first event. `box`: everything that can change; None where there is nothing to repair, as `message` says.

    `figures`: Betti numbers of the mask in the box, if they were counted.
    """

    id: str
    model: str
    version: str
    shape: tuple[int, ...]
    box: Box | None
    steps: int
    message: str = ""
    notice: str = ""
    figures: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Stepped:
    """After `step` updates `flips` (bool, of `box`'s shape) is what changed since the last event; None if nothing."""

    step: int
    box: Box | None
    flips: NDArray[np.bool_] | None


@dataclass(frozen=True)
class Finished:
    """The last event. `mask` (bool, of the start's box) is the result; None where there was nothing to repair.

    `reason` is 'steps', 'converged' or 'stopped'; `sha256` that of the mask's packed bits, '' if nobody counted;
    `figures` as of the start.
    """

    reason: str
    step: int
    seconds: float
    mask: NDArray[np.bool_] | None
    sha256: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    figures: tuple[int, ...] | None = None


Event = Started | Stepped | Finished


def pack(mask: NDArray[np.bool_]) -> str:
    """base64 of zlib of the packed bits, C order."""
    return base64.b64encode(zlib.compress(np.packbits(mask.ravel()).tobytes(), 1)).decode()


def unpack(packed: str, box: Box) -> tuple[NDArray[np.bool_], str]:
    """The mask (bool, of the box's shape) that `pack` made, and the SHA-256 of its packed bits.

    Raises:
        RefineError: not base64 of zlib, or not as many bits as the box has voxels.
    """
    bits = inflated(packed, box)
    return unpacked(bits, box), hashlib.sha256(bits).hexdigest()


def unpacked(bits: bytes, box: Box) -> NDArray[np.bool_]:
    """The mask (bool, of the box's shape) of packed bits."""
    shape = size(box)
    count = int(np.prod(shape, dtype=np.int64))
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=count).reshape(shape).view(np.bool_)


def inflated(packed: str, box: Box) -> bytes:
    """The packed bits of a mask of the box's shape; RefineError as for `unpack`."""
    count = int(np.prod(size(box), dtype=np.int64))
    try:
        inflate = zlib.decompressobj()
        raw = inflate.decompress(base64.b64decode(packed, validate=True), (count + 7) // 8 + 1)
    except (binascii.Error, zlib.error, ValueError, OverflowError) as error:
        raise RefineError(malformed("a mask that cannot be unpacked")) from error
    if len(raw) != (count + 7) // 8:
        raise RefineError(malformed("a mask of the wrong size"))
    return raw


def malformed(what: str) -> str:
    """The sentence for an answer that is not one of an rNCA server."""
    return f"The server sent {what}; the refinement was ended and the segment is as it was. Check the server's version."


class Reader:
    """Turns the lines of one answer into events; knows what the start said, so that it can check the rest."""

    def __init__(self) -> None:
        self._start: Started | None = None

    def read(self, line: bytes) -> Event:
        """The event of a line.

        Raises:
            RefineError: the server's own error (its sentence), or a line that is no event.
        """
        try:
            said = json.loads(line)
            kind = said["event"]
            if kind == "start":
                return self._started(said)
            if kind == "step":
                return self._stepped(said)
            if kind == "done":
                return self._finished(said)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RefineError(malformed("a line that is no event of a refinement")) from error
        if kind == "error":
            raise RefineError(str(said.get("message") or "The server gave up without saying why; look at its log."))
        raise RefineError(malformed(f"an unknown event '{str(kind)[:40]}'"))

    def _started(self, said: Mapping[str, Any]) -> Started:
        shape = tuple(int(n) for n in said["shape"])
        box = _box(said["bbox"], tuple((0, n) for n in shape))
        self._start = Started(
            str(said["id"]),
            str(said["model"]),
            str(said["version"]),
            shape,
            box,
            int(said["steps"]),
            str(said.get("message") or ""),
            str(said.get("notice") or ""),
            _figures(said),
        )
        return self._start

    def _stepped(self, said: Mapping[str, Any]) -> Stepped:
        within = self._start.box if self._start else None
        box = _box(said["bbox"], within)
        flips = None if box is None else unpacked(inflated(said["delta"], box), box)
        return Stepped(int(said["step"]), box, flips)

    def _finished(self, said: Mapping[str, Any]) -> Finished:
        if self._start is None:
            raise RefineError(malformed("an end without a beginning"))
        mask, digest = None, ""
        if self._start.box is not None:
            mask, digest = unpack(said["mask"], self._start.box)
            if said.get("sha256") and said["sha256"] != digest:
                raise RefineError(malformed("a result that was damaged on the way"))
        more = {k: v for k, v in said.items() if k not in ("event", "mask", "sha256")}
        return Finished(
            str(said["reason"]), int(said["step"]), float(said["seconds"]), mask, digest, more, _figures(said)
        )


def _figures(said: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The Betti numbers that the server counted, of a volume; None if it did not."""
    found = (said.get("topology") or {}).get("betti") or ()
    return tuple(int(n) for n in found) if len(found) == 3 else None


def _box(pairs: Sequence[Sequence[int]] | None, within: Box | None) -> Box | None:
    """A box of JSON, which must lie inside `within`."""
    if pairs is None:
        return None
    box = tuple((int(start), int(stop)) for start, stop in pairs)
    if within is None or len(box) != len(within) or np.prod([float(n) for n in size(box)]) > LARGEST:
        raise RefineError(malformed("a box that does not fit the image"))
    if any(not low <= start < stop <= high for (start, stop), (low, high) in zip(box, within, strict=True)):
        raise RefineError(malformed("a box that does not fit the image"))
    return box
