"""Cases of the benchmarks from the project's data folders, and from a user's own copies in their published layouts.

Published layouts (none of these data sets comes with the project, each is had from its owners):

    DRIVE       FOLDER/{training,test}/{images/NN_*.tif, 1st_manual/NN_manual1.gif, mask/NN_*_mask.gif}
    CHAOS CT    FOLDER/CT/PATIENT/{DICOM_anon/*.dcm, Ground/*.png}    (FOLDER may be CT itself)
    ACDC        FOLDER/**/patientNNN/patientNNN_frameNN.nii.gz and patientNNN_frameNN_gt.nii.gz
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rnca.errors import InputError
from rnca.files import list_images, read_image, read_mask
from rnca.geometry import Grid, as_array

Mask = NDArray[np.bool_]


@dataclass
class Picture:
    """An image, or a volume, with its right mask and the masks that something else made of it."""

    name: str
    group: str  # patient
    image: NDArray[Any]  # (*S) or (*S, 3), as stored
    labels: NDArray[Any]  # (*S), 0 is background
    spacing: tuple[float, ...] = ()  # array order
    starts: dict[str, NDArray[np.uint8]] = field(default_factory=dict)  # by model: soft (value / 255) or label maps

    @property
    def truth(self) -> Mask:
        """All labels as one mask."""
        return self.labels != 0


def read_cases(folder: Path, limit: int | None = None) -> Iterator[Picture]:
    """A folder of cases: images/NAME, labels/NAME and predictions/MODEL/NAME of the same size where there are any."""
    images, labels = list_images(folder / "images"), list_images(folder / "labels")
    given = {p.name: list_images(p) for p in sorted((folder / "predictions").glob("*")) if p.is_dir()}
    for name in sorted(images.keys() & labels.keys())[:limit]:
        image, mask = read_image(images[name]), read_mask(labels[name])
        grid = Grid.of(mask)
        starts = {model: np.array(as_array(read_mask(found[name]))) for model, found in given.items() if name in found}
        yield Picture(name, name, np.array(as_array(image)), np.array(as_array(mask)), grid.spacing, starts)


def read_stack(folder: Path, name: str, volume: NDArray[Any]) -> dict[int, NDArray[np.uint8]]:
    """The predicted slices of a volume, by slice: files NAME_zNN.png in a folder."""
    found = {}
    for path in sorted(folder.glob(f"{name}_z*.png")):
        number = int(path.stem.rsplit("_z", 1)[1])
        values = np.array(Image.open(path))
        if values.shape != volume.shape[1:]:
            raise InputError(f"{path} has {values.shape} pixels and its volume's slices {volume.shape[1:]}.")
        found[number] = values
    return found


def read_drive(folder: Path, split: str = "training") -> list[Picture]:
    """The photographs of a DRIVE folder whose first manual segmentation is there."""
    root = folder / split
    cases = []
    for path in sorted((root / "images").glob("*.tif")):
        number = path.name.split("_")[0]
        manual = sorted((root / "1st_manual").glob(f"{number}_manual1.*"))
        if manual:  # the test split is also handed out without
            truth = np.array(Image.open(manual[0]).convert("L")) > 127
            image = np.array(Image.open(path).convert("RGB"))
            _same_size(path, image.shape[:2], manual[0], truth.shape)
            cases.append(Picture(path.stem, f"drive/{number}", image, truth.astype(np.uint8), (1.0, 1.0)))
    if not cases:
        raise InputError(f"{root} holds no images/NN_*.tif with 1st_manual/NN_manual1.gif: give DRIVE's own folder.")
    return cases


def read_chaos_ct(folder: Path) -> list[Picture]:
    """The liver slices of a CHAOS CT folder.

    The files of DICOM_anon and Ground belong together in the order of their names: the pictures carry no position.
    """
    root = folder / "CT" if (folder / "CT").is_dir() else folder
    cases = []
    for patient in sorted((p for p in root.iterdir() if p.is_dir()), key=lambda p: _numbers(p.name)):
        slices = sorted((patient / "DICOM_anon").glob("*.dcm"), key=lambda p: _numbers(p.name))
        masks = sorted((patient / "Ground").glob("*.png"), key=lambda p: _numbers(p.name))
        if not slices and not masks:
            continue
        if len(slices) != len(masks):
            raise InputError(
                f"{patient} has {len(slices)} slices in DICOM_anon and {len(masks)} in Ground: get it whole."
            )
        for number, (path, mask) in enumerate(zip(slices, masks, strict=True)):
            truth = np.array(Image.open(mask).convert("L")) > 0
            if truth.any():
                pixels, spacing = _dicom_slice(path)
                _same_size(path, pixels.shape, mask, truth.shape)
                name = f"{patient.name}_{number:03d}"
                cases.append(Picture(name, patient.name, pixels, truth.astype(np.uint8), spacing))
    if not cases:
        raise InputError(f"{folder} holds no CT/PATIENT/DICOM_anon with CT/PATIENT/Ground: give CHAOS' own folder.")
    return cases


def _dicom_slice(path: Path) -> tuple[NDArray[Any], tuple[float, ...]]:
    """One slice in Hounsfield units, and its pixel spacing (rows, columns) in mm."""
    import SimpleITK as sitk

    image = sitk.ReadImage(str(path))
    pixels = sitk.GetArrayFromImage(image)
    return pixels.reshape(pixels.shape[-2:]), image.GetSpacing()[1::-1]


def read_acdc(folder: Path) -> list[Picture]:
    """The annotated frames of an ACDC folder; the millimetres of its headers are kept."""
    cases = []
    for truth in sorted(folder.rglob("patient*_frame*_gt.nii.gz")):
        path = truth.with_name(truth.name.replace("_gt", ""))
        if not path.exists():
            raise InputError(f"{truth} lies without {path.name}: get the folder whole.")
        image, mask = read_image(path), read_mask(truth)
        name = path.name.removesuffix(".nii.gz")
        grid = Grid.of(mask)
        labels = np.array(as_array(mask))
        cases.append(Picture(name, name.split("_")[0], np.array(as_array(image)), labels, grid.spacing))
    if not cases:
        raise InputError(f"{folder} holds no patientNNN_frameNN_gt.nii.gz: give ACDC's own folder.")
    return cases


def _numbers(name: str) -> list[int | str]:
    """A key that sorts "10" after "9"."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _same_size(path: Path, size: tuple[int, ...], other: Path, size_other: tuple[int, ...]) -> None:
    if size != size_other:
        raise InputError(f"{path} and {other} differ in size ({size} against {size_other} pixels).")
