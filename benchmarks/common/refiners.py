"""The refiners that are compared: image and starting mask in, mask out.

A start is soft, float32 in 0..1, or binary, which is the same with two values. Refiners get the image as it was stored;
the automaton takes SimpleITK images too, for models that care about the spacing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

import rnca
from rnca.geometry import Grid, Image, as_array, image_channels
from rnca.intensity import NetworkInput, match_channels, normalise
from rnca.rollout import slices_across
from rnca.tidy import tidy
from rnca.zoo import Model, load_model

Mask = NDArray[np.bool_]
Soft = NDArray[np.float32]
Repair = Callable[[Any, Soft], dict[int, Mask]]


@dataclass
class Refiner:
    """One row of a table.

    Attributes:
        name: as the table shows it; with several numbers of steps, one row each.
        identity: what its result depends on besides image and start: settings, versions, digests.
        repair: (image, start) -> mask by number of steps (0 for those without steps).
        parameters: weights, None where there are none.
    """

    name: str
    identity: Mapping[str, Any]
    repair: Repair
    parameters: int | None = None
    steps: Sequence[int] = field(default_factory=lambda: (0,))

    def label(self, steps: int) -> str:
        """The name of the row."""
        return f"{self.name}, {steps} steps" if steps else self.name


def none() -> Refiner:
    """The start, thresholded at 0.5."""
    return Refiner("none", {}, lambda image, start: {0: start > 0.5})


def closing(radius: int) -> Refiner:
    """Morphological closing with a disk or ball."""

    def repair(image: Any, start: Soft) -> dict[int, Mask]:
        return {0: close_mask(start > 0.5, radius)}

    return Refiner(f"closing, radius {radius}", {"radius": radius}, repair)


def close_mask(mask: Mask, radius: int) -> Mask:
    """Closing as if the image went on: no border effects."""
    from skimage.morphology import ball, closing, disk

    if radius == 0:
        return mask
    shape = (disk if mask.ndim == 2 else ball)(radius)
    padded: Mask = closing(np.pad(mask, radius + 1), shape)
    return padded[(slice(radius + 1, -radius - 1),) * mask.ndim]


def reconstruction(radius: int) -> Refiner:
    """Closing, then all holes filled by reconstruction by erosion from the border (Soille 1999, 6.3.7)."""
    from skimage.morphology import reconstruction as reconstruct

    def repair(image: Any, start: Soft) -> dict[int, Mask]:
        closed = np.pad(close_mask(start > 0.5, radius), 1).astype(np.uint8)
        seed = np.ones_like(closed)
        inner = (slice(1, -1),) * closed.ndim
        border = np.ones(closed.shape, bool)
        border[inner] = False
        seed[border] = 0
        return {0: reconstruct(seed, closed, method="erosion")[inner] > 0}

    return Refiner(f"morphological reconstruction, radius {radius}", {"radius": radius, "fill": True}, repair)


def grey_reconstruction(low: float) -> Refiner:
    """Reconstruction by dilation: what exceeds 0.5 grows into what is connected with it and exceeds `low`.

    The form for branching trees, whose holes are right: it bridges gaps where the network hesitated. A binary start
    leaves it nothing to grow into.
    """
    from skimage.morphology import reconstruction as reconstruct

    def repair(image: Any, start: Soft) -> dict[int, Mask]:
        strong, weak = start > 0.5, start > low
        return {0: reconstruct(strong.astype(np.uint8), weak.astype(np.uint8), method="dilation") > 0}

    return Refiner(f"morphological reconstruction above {low}", {"low": low}, repair)


def dense_crf(weight: float = 4.0, colour: float = 10.0, reach: float = 30.0) -> Refiner:
    """Krähenbühl and Koltun's fully connected CRF through pydensecrf; ImportError where it is not installed.

    Unary terms from the start, clipped to 0.05–0.95; a Gaussian kernel (3 pixels, weight 3) and a bilateral one.

    Args:
        weight: of the bilateral kernel.
        colour: its bandwidth in grey values of 0–255.
        reach: its bandwidth in pixels.
    """
    import pydensecrf.densecrf as crf

    def repair(image: Any, start: Soft) -> dict[int, Mask]:
        height, width = start.shape
        share = np.clip(start, 0.05, 0.95)
        model = crf.DenseCRF2D(width, height, 2)
        energy = -np.log(np.stack([1 - share, share])).reshape(2, -1)
        model.setUnaryEnergy(np.ascontiguousarray(energy, np.float32))
        model.addPairwiseGaussian(sxy=3, compat=3)
        model.addPairwiseBilateral(sxy=reach, srgb=colour, rgbim=_rgb(image), compat=weight)
        found = np.array(model.inference(5)).reshape(2, height, width)
        return {0: found[1] > found[0]}

    settings = {"weight": weight, "colour": colour, "reach": reach}
    return Refiner(f"DenseCRF (weight {weight:g}, colour {colour:g}, {reach:g} pixels)", settings, repair)


def _rgb(image: NDArray[Any]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8, whatever the intensities were."""
    shape = image.shape[:2] if image.ndim == 3 else image.shape
    channels = normalise(match_channels(image_channels(image, shape), 3), {"kind": "percentile"})
    return np.ascontiguousarray(np.rint(255 * np.moveaxis(channels, 0, -1)).astype(np.uint8))


def automaton(model: str | Model, steps: Sequence[int] = (64,), *, soft: bool = False, **options: Any) -> Refiner:
    """The automaton through `rnca.stream`, which `rnca.refine` is the last item of: all `steps` from one roll-out.

    `refine` undoes specks after its last step, so that is done here with the masks of the steps before it.
    """
    loaded = model if isinstance(model, Model) else load_model(model)
    meta = loaded.metadata
    moments = sorted(steps)

    def repair(image: Any, start: Soft) -> dict[int, Mask]:
        mask: Image = np.rint(255 * start).astype(np.uint8) if soft else (start > 0.5).astype(np.uint8)
        if not isinstance(image, np.ndarray):
            mask = Grid.of(image).wrap(mask)
        if meta.object_size:  # the masks on the way are not what the rules look at: those are on a coarser grid
            ends = {moment: rnca.refine(image, mask, loaded, moment, soft=soft, **options) for moment in moments}
            return {moment: as_array(end.mask) > 0 for moment, end in ends.items()}
        found: dict[int, Mask] = {}
        axis, channels = slices_across(Grid.of(mask), meta), image_channels(image, start.shape)
        seen = NetworkInput(channels, meta.image_channels, meta.intensity, meta.colour, axis).channels
        for step in rnca.stream(image, mask, loaded, moments[-1], soft=soft, **options):
            if step.reason is not None:
                found[step.index] = as_array(step.mask) > 0
            elif step.index in moments:
                found[step.index] = tidy(start > 0.5, as_array(step.mask) > 0, meta.tidying, axis, seen)
        last = found[max(found)]
        return {moment: found.get(moment, last) for moment in moments}

    seen = {"intensity": meta.intensity, "colour": meta.colour, "spacing": meta.spacing if meta.resample else None}
    identity = {"weights": meta.weights_sha256[:16], **seen, "soft": soft, **options}
    if meta.object_size:
        identity["object_size"] = meta.object_size
    if meta.tidying:
        identity["tidying"] = asdict(meta.tidying)
    name = f"rNCA {meta.name}" + (" (soft start)" if soft else "")
    count = sum(weight.numel() for weight in loaded.definition.parameters())
    return Refiner(name, identity, repair, count, moments)


def try_refiners(makers: Iterable[tuple[str, Callable[[], Refiner]]]) -> tuple[list[Refiner], list[str]]:
    """The refiners that can be made here, and a sentence about each that cannot."""
    made, missing = [], []
    for name, maker in makers:
        try:
            made.append(maker())
        except ImportError as error:
            missing.append(f"{name} left out: {error.name or error} is not installed.")
    return made, missing
