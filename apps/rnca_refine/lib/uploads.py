"""Files that come with a request: put into a folder of the request's own, which goes away with it."""

import shutil
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from fastapi import UploadFile

from rnca.files import SUFFIXES, suffix_of

from .refusals import Refusal

MOST_FILES = 20_000


@contextmanager
def request_folder(tmp: Path) -> Iterator[Path]:
    """A new folder that is removed at the end, however the request ends."""
    folder = tmp / uuid.uuid4().hex
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def store(upload: UploadFile, folder: Path, stem: str, most_bytes: int) -> Path:
    """Write one upload as `stem` with the suffix of its name, the only part of a client's name that is used.

    A DICOM file, or a ZIP of them, becomes a folder. Stock clients send whole paths as names.
    """
    name = (upload.filename or "").replace("\\", "/").rsplit("/", 1)[-1]
    suffix = suffix_of(name) or ".nii.gz"
    if suffix == ".zip":
        return unpack(upload, folder / stem, most_bytes)
    if suffix not in SUFFIXES and not _is_dicom(upload):
        raise Refusal(415, f"the {stem} is of a kind that is not read: send {' '.join(SUFFIXES)}, or a ZIP of DICOM.")
    path = folder / f"{stem}{suffix}"
    if suffix not in SUFFIXES:
        (folder / stem).mkdir()
        path = folder / stem / "00000.dcm"
    with path.open("wb") as file:
        shutil.copyfileobj(upload.file, file, 1 << 20)
    if path.stat().st_size == 0:
        raise Refusal(400, f"the {stem} is an empty file: send one with an image in it.")
    return path.parent if path.name == "00000.dcm" else path


def store_series(uploads: list[UploadFile], folder: Path, stem: str) -> Path:
    """Write the files of a DICOM series into one folder."""
    place = folder / stem
    place.mkdir()
    for number, upload in enumerate(uploads):
        with (place / f"{number:05d}.dcm").open("wb") as file:
            shutil.copyfileobj(upload.file, file, 1 << 20)
    return place


def unpack(upload: UploadFile, place: Path, most_bytes: int) -> Path:
    """The files of a ZIP, numbered, in a new folder; one image file in it is that file."""
    try:
        with zipfile.ZipFile(upload.file) as archive:
            members = [m for m in archive.infolist() if not m.is_dir() and not _hidden(m.filename)]
            if not members or len(members) > MOST_FILES:
                raise Refusal(400, f"the ZIP holds {len(members)} files: send one with 1 to {MOST_FILES} slices.")
            if sum(m.file_size for m in members) > most_bytes:
                raise Refusal(413, f"the ZIP unpacks to more than {most_bytes >> 20} MiB: send a part of it.")
            place.mkdir()
            left = most_bytes
            for number, member in enumerate(members):
                suffix = suffix_of(PurePosixPath(member.filename).name)
                path = place / f"{number:05d}{suffix if suffix in SUFFIXES else '.dcm'}"
                with archive.open(member) as source, path.open("wb") as target:
                    while block := source.read(1 << 20):
                        left -= len(block)
                        if left < 0:
                            raise Refusal(
                                413, f"the ZIP unpacks to more than {most_bytes >> 20} MiB: send a part of it."
                            )
                        target.write(block)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError):
        raise Refusal(400, "the ZIP cannot be read: it is damaged, encrypted or of an unusual kind.") from None
    files = sorted(place.iterdir())
    return files[0] if len(files) == 1 and files[0].suffix != ".dcm" else place


def _hidden(name: str) -> bool:
    return PurePosixPath(name).name.startswith((".", "__MACOSX"))


def _is_dicom(upload: UploadFile) -> bool:
    head = upload.file.read(132)
    upload.file.seek(0)
    return head[128:] == b"DICM"
