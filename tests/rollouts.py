"""What tests of repairs are made of: models, images and masks."""

from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from rnca import compile
from rnca.automaton import RNCA
from rnca.zoo import Model, describe

Array = NDArray[Any]


def model_of(net: RNCA, **known: Any) -> Model:
    """A model that takes intensities as they are."""
    return Model(describe(net, "test", **{"intensity": {"kind": "none"}, "steps": 5, **known}), compile(net), "")


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random(shape, np.float32)


def spots(shape: tuple[int, ...], seed: int = 0, share: float = 0.03) -> Array:
    return noise(*shape, seed=seed) < share


def itk(array: Array, spacing: tuple[float, ...] | None = None) -> sitk.Image:
    """On an oblique grid, with a header."""
    image = sitk.GetImageFromArray(array)
    dims = image.GetDimension()
    image.SetSpacing(spacing or (0.7, 0.9, 1.3)[:dims])
    image.SetOrigin((-12.5, 3.25, 100.0)[:dims])
    image.SetDirection((0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, -1.0) if dims == 3 else (0.8, -0.6, 0.6, 0.8))
    image.SetMetaData("Segment0_Name", "vessel")
    return image


def voxels(image: sitk.Image) -> Array:
    return sitk.GetArrayFromImage(image)


def sleeper(dims: int) -> RNCA:
    """A network that does nothing."""
    return RNCA(dims, state_channels=2, hidden=4).eval()
