"""Ids, tags and extensions as they may be part of a file name in the datastore."""

import re
from typing import Any

from monailabel.interfaces.datastore import DefaultLabelTag

from .refusals import Refusal

EXTENSIONS = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".mha", ".png", ".tif", ".tiff")
_ID = re.compile(r"[^\x00-\x1f\x7f/\\:*?\"<>|]{1,200}")
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def check_id(image: Any) -> str:
    """An image's id as it may be used in a file name; Refusal 400 otherwise."""
    if not isinstance(image, str) or not _ID.fullmatch(image) or image[0] == "." or image != image.strip():
        raise Refusal(400, "the image id is empty or holds characters that file names do not: choose another id.")
    if len(image.encode("utf-8", "replace")) > 200:
        raise Refusal(400, "the image id is too long: at most 200 bytes.")
    try:
        image.encode()
    except UnicodeEncodeError:
        raise Refusal(400, "the image id is not valid text: choose another id.") from None
    return image


def check_tag(tag: Any) -> str:
    """A label's tag as it may be used as a folder name; Refusal 400 otherwise."""
    if not isinstance(tag, str) or not TAG.fullmatch(tag):
        raise Refusal(400, "a label's tag is of letters, digits, - and _ and at most 64 long: final, before, refined.")
    return str(tag.value) if isinstance(tag, DefaultLabelTag) else tag


def extension_of(name: str) -> str:
    """The extension of a file name, if it is one that is stored; '' otherwise."""
    lower = name.lower()
    return next((e for e in EXTENSIONS if lower.endswith(e)), "")
