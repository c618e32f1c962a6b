"""The cases that come with the package, and the model for each."""

from dataclasses import dataclass
from pathlib import Path

from rnca.errors import InputError
from rnca.files import list_images
from rnca.samples import sample_folder

FIRST = "ring-3"
"""Opened where no image is given: three thin rings with gaps and loose islands."""


@dataclass(frozen=True)
class Sample:
    """One of them."""

    name: str
    image: Path
    mask: Path
    model: str


def sample_cases() -> list[Sample]:
    """All of them; none where the sample data is missing."""
    try:
        folder = sample_folder()
        images, masks = list_images(folder / "images"), list_images(folder / "masks")
    except InputError:
        return []
    return [
        Sample(name, path, masks[name], "vessel-2d" if name.startswith("vessel") else "ring-2d")
        for name, path in images.items()
        if name in masks
    ]
