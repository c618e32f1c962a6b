"""Every version of every label, kept beside the datastore: HISTORY/TAG/ID/NNNNNN.json and the file it describes.

A version is written before the label itself is replaced, and copied, not linked: a program that changes a label in
place does not reach its past.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from rnca.files import atomic_path, sha256, write_json

from .refusals import Refusal

_NUMBER = re.compile(r"\d{6}")


class History:
    """Versions of the labels of one datastore; callers hold the datastore's lock when they add one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def versions(self, image: str, tag: str) -> list[dict[str, Any]]:
        """What is known of each version, oldest first."""
        found = sorted(p for p in self._place(image, tag).glob("*.json") if _NUMBER.fullmatch(p.stem))
        return [json.loads(p.read_text(encoding="utf-8")) for p in found]

    def add(self, image: str, tag: str, file: Path, ext: str, info: dict[str, Any]) -> dict[str, Any]:
        """Keep a copy of a label file; returns its record: version, sha256, ext, info."""
        place = self._place(image, tag)
        place.mkdir(parents=True, exist_ok=True)
        last = max((int(p.stem) for p in place.glob("*.json") if _NUMBER.fullmatch(p.stem)), default=0)
        record = {"version": last + 1, "sha256": sha256(file), "ext": ext, "info": info}
        with atomic_path(place / f"{last + 1:06d}{ext}") as temporary:
            shutil.copyfile(file, temporary)
        write_json(place / f"{last + 1:06d}.json", record)
        return record

    def file(self, image: str, tag: str, version: int) -> tuple[Path, dict[str, Any]]:
        """The file and record of a version; Refusal 404 where there is none."""
        for record in self.versions(image, tag):
            if record["version"] == version:
                return self._place(image, tag) / f"{version:06d}{record['ext']}", record
        raise Refusal(404, f"there is no version {version} of this label: see its history.")

    def _place(self, image: str, tag: str) -> Path:
        return self.folder / tag / image
