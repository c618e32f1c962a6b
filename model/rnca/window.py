"""The part of a volume that a rollout works on, laid out for the engine."""

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from .coarse import complete_details
from .geometry import Box, centres_between, resample_part, transfer_change
from .tidy import NOTHING, Tidying, keep_outline, tidy

Mask: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Low:
    """The model's own grid, laid over the whole volume: what is sampled does not depend on the window.

    Attributes:
        shape, low_shape: of the whole volume, and of its grid at the model's spacing.
        box, low_box: the window in both.
    """

    shape: tuple[int, ...]
    low_shape: tuple[int, ...]
    box: Box
    low_box: Box

    def sample(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """The window's voxels on the model's grid, by linear interpolation."""
        return resample_part(array, self.box, self.shape, self.low_box, self.low_shape)

    @property
    def factors(self) -> list[float]:
        """How many voxels one of the model's has along each axis."""
        return [n / m for n, m in zip(self.shape, self.low_shape, strict=True)]

    @cached_property
    def centres(self) -> list[NDArray[np.float64]]:
        """Where, an axis each, the window's voxels lie in the indices of its part of the model's grid."""
        return centres_between(self.low_box, self.low_shape, self.box, self.shape)


class Window:
    """The part of a volume that a rollout works on, laid out for the engine.

    Args:
        box: where it lies in the whole mask.
        pixels: (C, *box) the image as the network sees it, on the model's grid.
        start: (*box) bool, or soft.
        free: (*box) bool, voxels that no other label holds.
        inside: (*box) bool, voxels of the region that may change; None for all.
        axis: from slice to slice for a 2-D model on a volume.
        low: the model's own grid, if it has one.
        rules: how the mask is tidied after the last step, on the model's grid.
        seen: (C, *box) the image as it came, on the model's grid, for rules that look at it.
    """

    def __init__(
        self,
        box: Box,
        pixels: NDArray[np.float32],
        start: NDArray[Any],
        free: Mask,
        inside: Mask | None,
        axis: int | None,
        low: Low | None,
        device: str,
        rules: Tidying = NOTHING,
        seen: NDArray[Any] | None = None,
    ) -> None:
        self.box, self.axis, self.low, self.rules, self.seen = box, axis, low, rules, seen
        self.free, self.writable = free, free if inside is None else free & inside
        self.before: Mask = start > 0.5 if start.dtype != bool else start
        self.now = self.before.copy()
        self._all = self.now
        if low is not None:
            start = low.sample(start) > 0.5 if start.dtype == bool else low.sample(start)
            self.low_before: Mask = start > 0.5
            self.low_free: Mask = low.sample(free) > 0.5
            self.low_now = self.low_before
        self.image: torch.Tensor | None = torch.from_numpy(np.ascontiguousarray(self._batch(pixels))).to(device)
        self.start = torch.from_numpy(np.ascontiguousarray(self._batch(start[None]))).to(device)

    def _batch(self, channels: NDArray[Any]) -> NDArray[Any]:
        """(C, *S) -> (B, C, *S): slices are the batch of a 2-D model on a volume."""
        return channels[None] if self.axis is None else np.moveaxis(channels, self.axis + 1, 0)

    def unroll(
        self, module: Any, steps: int, bfloat16: bool | None = None, *, stochastic: bool = False, once: bool = False
    ) -> Iterator[tuple[int, Box | None]]:
        """Update `now`; yields how many voxels each step changed, and the box around them in the whole mask.

        The last step tidies too. With `once` the window lets go of its image: the engine has its own, and there
        is no other rollout.
        """
        if self.low is not None:
            self.low_now = self.low_before.copy()
        # What a border of the region cuts through is judged whole: the region does not change how it is tidied.
        self._all = self.now if self.writable is self.free else self.now.copy()
        with torch.inference_mode():
            precision = () if bfloat16 is None else (bfloat16,)
            cells = module.start(self.image, self.start, *precision)
        if once:
            self.image = None
        for index in range(1, steps + 1):
            earlier = self.now.copy() if self.rules and index == steps else None
            with torch.inference_mode():
                cells = module.step(cells, stochastic)
            flips = cells.changed.cpu().numpy()
            if self.low is None:
                if self._all is not self.now:
                    self._flip(self._all, flips, self.free)
                places = self._flip(self.now, flips, self.writable)
            else:
                self._flip(self.low_now, flips, self.low_free)
                places = self._replace(transfer_change(self.before, self.low_before, self.low_now, self.low.centres))
            if earlier is None:
                yield len(places[0]), self._around(places)
            else:
                yield self._settle(earlier)

    def settle(self) -> tuple[int, Box | None]:
        """Tidy where a rollout is ended before its last step; returns what `unroll` yields."""
        return self._settle(self.now.copy())

    def _settle(self, earlier: Mask) -> tuple[int, Box | None]:
        """Tidy; returns how many voxels differ from an earlier mask, and the box around them."""
        if self.low is None:
            self._replace(tidy(self.before, self._all, self.rules, self.axis, self.seen))
        else:
            self._replace(self._tidy_low(self.low))
        places = np.nonzero(self.now != earlier)
        return len(places[0]), self._around(places)

    def _tidy_low(self, low: Low) -> Mask:
        """The mask after the last step, tidied on the model's grid; what that does not show is looked at in the end."""
        low_mask = tidy(self.low_before, self.low_now, self.rules, self.axis, self.seen)
        mask = transfer_change(self.before, self.low_before, low_mask, low.centres)
        rules = self.rules.for_shape(low_mask, self.axis)
        mask = complete_details(mask, low_mask, low.centres, low.factors, self.axis, rules.keep_holes)
        if (low_mask != self.low_before).any():
            return mask
        return keep_outline(self.before, mask, rules.tolerance, self.axis, rules.keep_holes)

    def _replace(self, mask: Mask) -> tuple[NDArray[np.int64], ...]:
        """Make this the mask, as far as the region goes and no other label is; returns where that changes it."""
        mask = np.where(self.free, mask, self.before)
        old, everywhere = self.now, self.writable is self.free
        self.now = mask if everywhere else np.where(self.writable, mask, self.before)
        self._all = self.now if everywhere else mask
        return np.nonzero(self.now != old)

    def _around(self, places: tuple[NDArray[np.int64], ...]) -> Box | None:
        """The box in the whole mask around voxels of the window; None if there are none."""
        if not len(places[0]):
            return None
        return tuple(
            slice(b.start + int(p.min()), b.start + int(p.max()) + 1) for b, p in zip(self.box, places, strict=True)
        )

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

    def halves(self) -> "list[Window]":
        """The window in two, between slices, about as much of the mask in each: no slice knows of another one.

        The window itself, alone, where there are no slices to part: without a slice axis, on a grid of the model's own
        (`low`), or with all of the mask in one slice.
        """
        if self.axis is None or self.low is not None:
            return [self]
        others = tuple(a for a in range(self.before.ndim) if a != self.axis)
        so_far = np.cumsum(self.before.sum(axis=others))
        cut = int(np.searchsorted(so_far, so_far[-1] / 2)) + 1
        if not 0 < so_far[cut - 1] < so_far[-1]:
            return [self]
        return [self._slices(slice(0, cut)), self._slices(slice(cut, len(so_far)))]

    def _slices(self, part: slice) -> "Window":
        """These slices, of a window that was not unrolled yet."""
        assert self.axis is not None
        assert self.image is not None
        place = (slice(None),) * self.axis + (part,)
        out = copy(self)
        side = self.box[self.axis]
        around = (slice(side.start + part.start, side.start + part.stop),)
        out.box = self.box[: self.axis] + around + self.box[self.axis + 1 :]
        out.before, out.now, out.free = (m[place].copy() for m in (self.before, self.now, self.free))
        out.writable = out.free if self.writable is self.free else self.writable[place].copy()
        out.image, out.start = self.image[part], self.start[part]
        out.seen = None if self.seen is None else self.seen[(slice(None), *place)]
        return out

    def final(self, module: Any, steps: int, stochastic: bool = False) -> Mask:
        """The window's mask after a whole rollout that starts anew."""
        self.now = self.before.copy()
        for _ in self.unroll(module, steps, stochastic=stochastic):
            pass
        return self.now
