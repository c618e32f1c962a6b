"""The part of a volume that a rollout works on, laid out for the engine."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from .geometry import Box, resample, transfer_change

Mask: TypeAlias = NDArray[np.bool_]


class Window:
    """The part of a volume that a rollout works on, laid out for the engine."""

    def __init__(
        self,
        box: Box,
        pixels: NDArray[np.float32],
        start: NDArray[Any],
        writable: Mask,
        axis: int | None,
        spacing: Sequence[float],
        resampled: Sequence[float] | None,
        device: str,
        low_precision: bool,
    ) -> None:
        self.box, self.writable, self.axis, self.low_precision = box, writable, axis, low_precision
        self.before: Mask = start > 0.5 if start.dtype != bool else start
        self.now = self.before.copy()
        self.low_before: Mask | None = None
        if resampled is not None:
            pixels = np.stack([resample(channel, spacing, resampled)[0] for channel in pixels])
            start = resample(start.astype(np.float32), spacing, resampled)[0]
            start = (start > 0.5) if self.before is start else start
            self.low_before = start > 0.5
        self.image = torch.from_numpy(np.ascontiguousarray(self._batch(pixels))).to(device)
        self.start = torch.from_numpy(np.ascontiguousarray(self._batch(start[None]))).to(device)

    def _batch(self, channels: NDArray[Any]) -> NDArray[Any]:
        """(C, *S) -> (B, C, *S): slices are the batch of a 2-D model on a volume."""
        return channels[None] if self.axis is None else np.moveaxis(channels, self.axis + 1, 0)

    def unroll(self, module: Any, steps: int, stochastic: bool = False) -> Iterator[tuple[int, Box | None]]:
        """Update `now`; yields how many voxels each step changed, and the box around them in the whole mask."""
        low_now = None if self.low_before is None else self.low_before.copy()
        module.low_precision = self.low_precision  # only `start` reads it: rollouts that share a module keep their own
        with torch.inference_mode():
            cells = module.start(self.image, self.start)
        for _ in range(steps):
            with torch.inference_mode():
                cells = module.step(cells, stochastic)
            flips = cells.changed.cpu().numpy()
            if low_now is None:
                places = self._flip(self.now, flips, self.writable)
            else:
                self._flip(low_now, flips, None)
                assert self.low_before is not None
                result = transfer_change(self.before, self.low_before, low_now)
                result = np.where(self.writable, result, self.before)
                places = np.nonzero(result != self.now)
                self.now = result
            box = None
            if len(places[0]):
                box = tuple(
                    slice(b.start + int(p.min()), b.start + int(p.max()) + 1)
                    for b, p in zip(self.box, places, strict=True)
                )
            yield len(places[0]), box

    def _flip(self, mask: Mask, flips: NDArray[np.int64], writable: Mask | None) -> tuple[NDArray[np.int64], ...]:
        """Flip the engine's flat indices in a mask (array order), where writable; returns their places."""
        shape = mask.shape if self.axis is None else (mask.shape[self.axis], *np.delete(mask.shape, self.axis))
        places = list(np.unravel_index(flips, shape))
        if self.axis is not None:
            places.insert(self.axis, places.pop(0))
        if writable is not None:
            kept = writable[tuple(places)]
            places = [p[kept] for p in places]
        mask[tuple(places)] ^= True
        return tuple(places)

    def final(self, module: Any, steps: int, stochastic: bool = False) -> Mask:
        """The window's mask after a whole rollout that starts anew."""
        self.now = self.before.copy()
        for _ in self.unroll(module, steps, stochastic):
            pass
        return self.now
