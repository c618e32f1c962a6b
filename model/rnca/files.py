"""Everything that touches the disk: images and masks in, results out whole or not at all.

Formats: PNG and TIFF (pictures), NIfTI, NRRD, MetaImage (medical, 2-D or 3-D), and a folder that holds one DICOM
series (read only). Images are `SimpleITK.Image`; colour channels are the components of a vector image. Everything wrong
with an input, and every failed write, is an `InputError` of one sentence that names the path.
"""

import gzip
import hashlib
import json
import math
import os
import struct
import threading
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from .errors import InputError

SUFFIXES = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".mha", ".mhd", ".png", ".tif", ".tiff")
"""Suffixes that can be read, in any case; a suffix of two parts comes before its last part."""

WRITABLE = tuple(suffix for suffix in SUFFIXES if suffix != ".mhd")
"""Suffixes that can be written: `.mhd` is two files, which cannot be replaced in one step."""

_NIFTI = (".nii.gz", ".nii")
_PICTURES = (".png", ".tif", ".tiff")
_VOLUMES = (".nii.gz", ".nrrd", ".mha")
_PICTURE_TYPES = {
    ".png": ("uint8", "uint16"),
    ".tif": ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32"),
}
_PICTURE_TYPES[".tiff"] = _PICTURE_TYPES[".tif"]


def suffix_of(path: str | Path) -> str:
    """The suffix of a file name in lower case, both parts of `.nii.gz` and `.seg.nrrd`; '' where there is none."""
    name = Path(path).name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), Path(name).suffix)


def stem_of(path: str | Path) -> str:
    """The file name without `suffix_of(path)`: the name of the case, by which images and masks are matched."""
    name = Path(path).name
    return name[: len(name) - len(suffix_of(path))]


def list_images(folder: str | Path) -> dict[str, Path]:
    """The images of a folder by case name, sorted: files with one of `SUFFIXES` and sub-folders that hold DICOM.

    Hidden files are left out. The dictionary is empty where there is none.

    Raises:
        InputError: `folder` is not a folder, or two of its files have the same name and differ in suffix only.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give the folder that holds the images")
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        is_folder = path.is_dir()
        if path.name.startswith(".") or not (_holds_dicom(path) if is_folder else suffix_of(path) in SUFFIXES):
            continue
        name = path.name if is_folder else stem_of(path)
        if name in images:
            raise InputError(f"{folder} holds both {images[name].name} and {path.name}: keep one file a case")
        images[name] = path
    return dict(sorted(images.items()))


def sha256(path: str | Path) -> str:
    """SHA-256 (hexadecimal) of the bytes of a file; of a folder: of the names, sizes and bytes of its files, by name.

    An `.mhd` header is hashed together with the data file it names. Hidden files and sub-folders are left out.
    """
    path = Path(path)
    digest = hashlib.sha256()
    try:
        if path.is_dir():
            for file in _files_in(path):
                digest.update(f"{file.name}\0{file.stat().st_size}\0".encode(errors="surrogateescape"))
                _hash_file(file, digest)
        else:
            _hash_file(path, digest)
            if suffix_of(path) == ".mhd" and (data := _mhd_data_file(path)):
                _hash_file(data, digest)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {_reason(error)}") from error
    return digest.hexdigest()


def _hash_file(path: Path, digest: Any) -> None:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)


def _mhd_data_file(header: Path) -> Path | None:
    for line in header.read_text(errors="replace").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "ElementDataFile" and (header.parent / value.strip()).is_file():
            return header.parent / value.strip()
    return None


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


# Reading


def read_image(path: str | Path) -> sitk.Image:
    """Read a 2-D or 3-D image, pixel type and geometry as stored.

    Colour pictures come back as vector images of 3 components: palettes are expanded, alpha is dropped. A folder is
    read as one DICOM series, slices in the order of their positions, intensities rescaled (Hounsfield units for CT).

    Raises:
        InputError: nothing there, not one of `SUFFIXES`, unreadable or cut off, complex, or not 2-D or 3-D; a folder
            without DICOM, with several series, with unreadable slices or with slices at uneven distances.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist: check the path")
    if path.is_dir():
        return _read_dicom(path)
    suffix = suffix_of(path)
    if suffix not in SUFFIXES:
        hint = "give the folder of the DICOM series instead" if _is_dicom(path) else f"use one of {' '.join(SUFFIXES)}"
        raise InputError(f"{path} is in a format that is not supported: {hint}")
    if suffix in _NIFTI:
        _check_nifti(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    if suffix in (".mha", ".mhd"):
        reader.SetImageIO("MetaImageIO")  # ITK itself does not know the suffix in upper case
    with _itk_reads(path):
        reader.ReadImageInformation()
        dims = reader.GetDimension()
        if dims in (2, 3) and "complex" not in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
            image = reader.Execute()
            return _drop_alpha(image) if suffix in _PICTURES else image
    size = "×".join(str(n) for n in reader.GetSize())
    if dims in (2, 3):
        raise InputError(f"{path} has complex pixels: store the magnitude")
    raise InputError(f"{path} has {dims} dimensions ({size}): store one 2-D or 3-D image of it in a file of its own")


def read_mask(path: str | Path) -> sitk.Image:
    """Read a 2-D or 3-D mask: like `read_image`, but with one value a pixel, whose type is kept exactly.

    A colour or palette picture whose red, green and blue are equal everywhere is read as grey.

    Raises:
        InputError: as for `read_image`, or the pixels hold colours or several values.
    """
    image = read_image(path)
    components = image.GetNumberOfComponentsPerPixel()
    if components == 1:
        return image
    if suffix_of(path) not in _PICTURES:
        raise InputError(f"{path} has {components} values a voxel, a mask has one: export it as a single label map")
    colours = sitk.GetArrayViewFromImage(image)
    if (colours != colours[..., :1]).any():
        raise InputError(f"{path} is a colour picture, a mask has one value a pixel: save its labels as grey values")
    return sitk.VectorIndexSelectionCast(image, 0)


def _drop_alpha(image: sitk.Image) -> sitk.Image:
    if image.GetNumberOfComponentsPerPixel() != 4:
        return image
    return sitk.Compose([sitk.VectorIndexSelectionCast(image, channel) for channel in range(3)])


@contextmanager
def _itk_reads(path: Path) -> Iterator[None]:
    """Turn what ITK throws into one sentence."""
    try:
        with _quiet():
            yield
    except RuntimeError as error:
        if "orthonormal" in str(error):
            raise InputError(f"{path} has a sheared orientation matrix: resample it to a right-angled grid") from error
        if not os.access(path, os.R_OK):
            raise InputError(f"{path} cannot be read: permission denied") from error
        raise InputError(f"{path} cannot be read: it is damaged, cut off or of a kind that is not supported") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what ITK and the libraries under it print on stderr off the terminal.

    They write to file descriptor 2, which belongs to the whole process: where other threads run (a server), nothing is
    redirected, so that none of their lines is lost.
    """
    if threading.active_count() > 1:
        yield
        return
    try:
        saved = os.dup(2)
    except OSError:  # closed: nothing to keep quiet
        yield
        return
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


def _check_nifti(path: Path) -> None:
    """Refuse what ITK's NIfTI reader takes in silence: a file cut off (read as zeros), and NAME.nii beside NAME.nii.gz.

    The second: asked for NAME.nii.gz, the library looks for NAME.nii first and takes the voxels from there.
    """
    twin = path.with_name(path.name[:-3])
    if path.name.lower().endswith(".gz") and twin.exists():
        raise InputError(
            f"{path} lies beside {twin.name}, which the NIfTI library would read instead: move one of them"
        )
    try:
        whole = _nifti_is_whole(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {_reason(error)}") from error
    if not whole:
        raise InputError(f"{path} cannot be read: it is cut off or damaged, get a fresh copy")


def _nifti_is_whole(path: Path) -> bool:
    """Whether a NIfTI file holds all the bytes that its header announces and, compressed, passes its checksum."""
    with path.open("rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            file = gzip.GzipFile(fileobj=raw) if compressed else raw
            header = file.read(540)
            size = len(header)
            if compressed:
                while block := file.read(1 << 20):
                    size += len(block)
            else:
                size = path.stat().st_size
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return False
    return size >= _nifti_size(header)


def _nifti_size(header: bytes) -> float:
    """Bytes of the file that a NIfTI-1 or NIfTI-2 header announces; infinite where the header itself is not whole."""
    if len(header) < 348:
        return math.inf
    for order in "<>":
        kind = struct.unpack_from(order + "i", header)[0]
        if kind == 348:
            dim, bits, offset = struct.unpack_from(order + "8h", header, 40), (order + "h", 72), (order + "f", 108)
        elif kind == 540 and len(header) == 540:
            dim, bits, offset = struct.unpack_from(order + "8q", header, 16), (order + "h", 14), (order + "q", 168)
        else:
            continue
        voxels = math.prod(max(1, n) for n in dim[1 : 1 + dim[0]])
        bits_per_voxel, data_starts = (struct.unpack_from(form, header, at)[0] for form, at in (bits, offset))
        return data_starts + voxels * bits_per_voxel / 8
    return 0  # not a header we know: ITK decides


def _is_dicom(path: Path) -> bool:
    """Whether a file says it is DICOM: by the magic word behind its preamble, or by its name if it has lost that."""
    if path.name.upper() == "DICOMDIR":
        return False
    with suppress(OSError), path.open("rb") as file:
        if file.read(132)[128:] == b"DICM":
            return True
    return path.suffix.lower() == ".dcm"


def _holds_dicom(folder: Path) -> bool:
    return any(_is_dicom(path) for path in _files_in(folder))


def _read_dicom(folder: Path) -> sitk.Image:
    with _itk_reads(folder):
        series = {
            uid: sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)
            for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        }
    used = {Path(name).name for names in series.values() for name in names}
    lost = [path.name for path in _files_in(folder) if path.name not in used and _is_dicom(path)]
    if lost:  # GDCM leaves out what it cannot read: the volume would lack slices
        raise InputError(f"{folder} has slices that cannot be read ({_some(lost)}): get fresh copies of them")
    if not series:
        raise InputError(f"{folder} holds no DICOM slices: give an image file or the folder of a DICOM series")
    if len(series) > 1:
        found = _some([f"{uid} ({len(names)} files)" for uid, names in series.items()])
        raise InputError(f"{folder} holds {len(series)} DICOM series ({found}): copy the one to use to its own folder")
    (names,) = series.values()
    with _itk_reads(folder):
        image = sitk.ReadImage(names if len(names) > 1 else names[0])  # one file may hold all slices
        if image.HasMetaDataKey("ITK_non_uniform_sampling_deviation"):
            _check_slice_distances(folder, names)
    if image.GetDimension() != 3:
        raise InputError(f"{folder} is a DICOM series of {image.GetDimension()} dimensions: give a 3-D series")
    return image


def _check_slice_distances(folder: Path, names: tuple[str, ...]) -> None:
    """Refuse missing, doubled and unevenly spaced slices; a tenth of the usual distance is taken as rounding."""
    positions = []
    for name in names:
        reader = sitk.ImageFileReader()
        reader.SetFileName(name)
        reader.ReadImageInformation()
        positions.append(reader.GetOrigin())
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    usual = np.median(steps)
    if (abs(steps - usual) > 0.1 * usual).any():
        raise InputError(
            f"{folder} has slices {steps.min():.4g} to {steps.max():.4g} mm apart (some missing, doubled or of another"
            " series?): resample it to even slices first"
        )


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# Writing


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, with its suffix, that takes the place of `path` when the block ends well.

    Whatever ends the block otherwise, Ctrl-C included, leaves `path` as it was and no temporary file. Use:

        with atomic_path("out.gif") as temporary:
            picture.save(temporary)

    Raises:
        InputError: the folder does not exist, `path` is not a plain file, or an OSError in the block (disk full, no
            permission).
    """
    path = Path(path)
    _check_place(path)
    temporary = path.with_name(f".rnca-{uuid.uuid4().hex[:12]}{suffix_of(path)}")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {_reason(error)}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file whole or not at all (`atomic_path`)."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file (UTF-8, line ends as given) whole or not at all (`atomic_path`)."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, obj: Any) -> None:
    """Write an indented JSON file whole or not at all (`atomic_path`).

    NumPy numbers and arrays and paths are accepted; NaN and infinities, which JSON cannot hold, become null.
    """
    write_text(path, json.dumps(_plain(obj), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _plain(obj: Any) -> Any:
    if isinstance(obj, np.ndarray | np.generic):
        obj = obj.tolist()
    if isinstance(obj, float) and not math.isfinite(obj):
        return None
    if isinstance(obj, dict):
        return {key if isinstance(key, str) else str(key): _plain(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_plain(value) for value in obj]
    return str(obj) if isinstance(obj, Path) else obj


def check_output(path: str | Path) -> None:
    """Raise `InputError` if `write_image` could not write an image under this name: ask before computing for long."""
    path = Path(path)
    suffix = suffix_of(path)
    if path.is_dir() or not suffix:
        raise InputError(f"cannot write {path}: no DICOM folders are written, end the name in {' or '.join(_VOLUMES)}")
    if suffix not in WRITABLE:
        raise InputError(f"cannot write {path}: the suffix must be one of {' '.join(WRITABLE)}")
    _check_place(path)


def _check_place(path: Path) -> None:
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: the folder {path.parent} does not exist, create it first")
    if path.exists() and not path.is_file():
        raise InputError(f"cannot write {path}: it is a folder or a device, give the name of a file")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"cannot write {path}: no permission to write in {path.parent}")


def write_image(image: sitk.Image, path: str | Path) -> None:
    """Write an image whole or not at all (`atomic_path`), compressed where the format can.

    The pixel type is kept, and the geometry as the format stores it: NIfTI in float32 and in mm whatever the unit was,
    TIFF with a rounded and PNG without a pixel size. Header fields go along, except NIfTI's into other formats.

    Raises:
        InputError: the suffix is not one of `WRITABLE`; the format cannot hold this pixel type, number of dimensions
            or geometry; the folder does not exist; no space or no permission.
    """
    path = Path(path)
    check_output(path)
    suffix = suffix_of(path)
    if suffix in _PICTURES:
        _check_picture(image, path, suffix)
    elif suffix not in _NIFTI and image.HasMetaDataKey("nifti_type"):
        image = sitk.Image(image)  # SimpleITK copies on write: the caller's image keeps its fields
        for key in image.GetMetaDataKeys():
            image.EraseMetaData(key)
    with atomic_path(path) as temporary:
        try:
            with _quiet():
                sitk.WriteImage(image, str(temporary), useCompression=True)
            whole = suffix not in _NIFTI or _nifti_is_whole(temporary)  # the NIfTI library is silent on a full disk
        except RuntimeError as error:
            raise InputError(f"cannot write {path}: no space left, or the format does not allow it") from error
        if not whole:
            raise InputError(f"cannot write {path}: no space left on the disk")


def _check_picture(image: sitk.Image, path: Path, suffix: str) -> None:
    dims = image.GetDimension()
    dtype = sitk.GetArrayViewFromImage(image).dtype.name
    if dims == 3 and suffix == ".png":
        raise InputError(f"cannot write {path}: PNG holds no volumes, use {' or '.join(_VOLUMES)}")
    if dtype not in _PICTURE_TYPES[suffix]:
        better = ".tif" if dims == 2 and dtype in _PICTURE_TYPES[".tif"] else ".nrrd"
        raise InputError(f"cannot write {path}: {suffix} holds no {dtype} pixels, use {better}")
    identity = np.eye(dims).ravel()
    if any(image.GetOrigin()) or (image.GetDirection() != identity).any() or (dims == 3 and image.GetSpacing()[2] != 1):
        raise InputError(f"cannot write {path}: {suffix} holds no position in space, use {' or '.join(_VOLUMES)}")
