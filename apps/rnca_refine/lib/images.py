"""Decoded images, kept for those who refine the same one again: bounded in bytes, oldest out first.

Also where sizes are looked at before anything is decoded: a small file can announce a huge volume.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from rnca import InputError
from rnca.files import read_image, read_mask, suffix_of
from rnca.geometry import Grid, image_channels
from rnca.zoo import Metadata

from .refusals import Refusal
from .slabs import SlabbedInput

Key = tuple[str, int, int]


@dataclass
class Picture:
    """An image in memory, and what was found out about it for models: the statistics of their normalisations."""

    image: sitk.Image
    grid: Grid
    known: dict[str, SlabbedInput] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def as_input(self, meta: Metadata, slice_axis: int | None) -> SlabbedInput:
        """The image as this model takes it."""
        how = f"{meta.image_channels} {meta.colour} {sorted(meta.intensity.items())} {slice_axis}"
        with self.lock:
            if how not in self.known:
                channels = image_channels(self.image, self.grid.shape)
                self.known[how] = SlabbedInput(channels, meta.image_channels, meta.intensity, meta.colour, slice_axis)
            return self.known[how]

    @property
    def bytes(self) -> int:
        """Memory it takes."""
        return int(sitk.GetArrayViewFromImage(self.image).nbytes)


class Images:
    """A cache of pictures by file: path, size and time of change, so that a replaced file is read again."""

    def __init__(self, most_bytes: int, most_voxels: int) -> None:
        self._most, self._voxels = most_bytes, most_voxels
        self._kept: OrderedDict[Key, Picture] = OrderedDict()
        self._lock = threading.Lock()
        self._reading: dict[Key, threading.Lock] = {}

    def get(self, path: Path, keep: bool) -> Picture:
        """The picture of a file or DICOM folder; with `keep` also for the next one who asks."""
        if not keep:
            return self._read(path)
        try:
            found = path.stat()
        except OSError:
            raise Refusal(404, "the image is no longer there: reload the list of images.") from None
        key = (str(path), found.st_size, found.st_mtime_ns)
        with self._lock:
            reading = self._reading.setdefault(key, threading.Lock())
        with reading:  # two requests for one image decode it once
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
            picture = self._read(path)
            with self._lock:
                self._kept[key] = picture
                self._reading.pop(key, None)
        return picture

    def trim(self) -> None:
        """Let go of the oldest until the rest fits; called after a refinement, when their size is known."""
        with self._lock:
            while len(self._kept) > 1 and sum(p.bytes for p in self._kept.values()) > self._most:
                self._kept.popitem(last=False)

    def forget(self, under: Path) -> None:
        """Drop what was read from a folder that is going away."""
        with self._lock:
            for key in [k for k in self._kept if Path(k[0]).is_relative_to(under)]:
                del self._kept[key]

    def _read(self, path: Path) -> Picture:
        image = read_safely(read_image, path, self._voxels, "image")
        return Picture(image, Grid.of(image))


def read_safely(read: Callable[[Path], sitk.Image], path: Path, most_voxels: int, what: str) -> sitk.Image:
    """Read an upload or a file of the datastore; sentences name the part of the request and not the server's path."""
    try:
        _check_size(path, most_voxels, what)
        return read(path)
    except InputError as error:
        sentence = str(error).replace(str(path), f"the {what}").replace(path.name, f"the {what}")
        raise Refusal(400, sentence.rstrip(".") + ".") from None


def read_uploaded_mask(path: Path, most_voxels: int) -> sitk.Image:
    """A mask that came with a request."""
    return read_safely(read_mask, path, most_voxels, "mask")


def _check_size(path: Path, most_voxels: int, what: str) -> None:
    """Refuse a file whose header announces more than may be decoded."""
    if path.is_dir() or not suffix_of(path):
        return
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return  # reading it will tell why
    voxels = int(np.prod([float(n) for n in reader.GetSize()])) * reader.GetNumberOfComponents()
    if voxels > most_voxels:
        raise Refusal(
            413, f"the {what} announces {voxels} voxels and the server takes {most_voxels}: send a part of it."
        )


def same_type(values: np.ndarray, dtype: str | None) -> Any:
    """Values in the type that was asked for; refused where one of them does not fit."""
    if dtype is None or values.dtype == dtype:
        return values
    if np.dtype(dtype).kind in "iu":
        bounds = np.iinfo(dtype)
        if values.min(initial=0) < bounds.min or values.max(initial=0) > bounds.max:
            raise Refusal(400, f"the mask holds values that {dtype} does not: ask for a larger result_dtype.")
    return values.astype(dtype)
