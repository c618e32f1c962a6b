"""What the clinician made of a refinement: the mask before, the refined one and the final one, kept for training.

`before` and `refined` are tags of the datastore, written when a refinement of one of its images has ended. When `final`
is saved, all three are copied to a folder that is never changed again: RUNS/corrections/WHEN-ID/, with their SHA-256.
"""

import json
import queue
import shutil
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from rnca.files import sha256, write_json
from rnca.registry import now

from .datastore import Keeps
from .refusals import Refusal
from .state import State
from .stream import report

TAGS = ("before", "refined", "final")
WAITING = 4


class Corrections:
    """Keeps masks in the background, one at a time; a few may wait, and more are left out rather than piled up."""

    def __init__(self, state: State, store: Callable[[], Keeps]) -> None:
        self.folder = state.runs / "corrections"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._state, self._store = state, store
        self._tasks: queue.Queue[Callable[[], None]] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._work, name="corrections", daemon=True)
        self._thread.start()

    def keep(self, image: str, before: sitk.Image, refined: sitk.Image, info: dict[str, Any]) -> None:
        """Save the masks of a refinement under their tags, in a while."""
        with suppress(queue.Full):
            self._tasks.put_nowait(lambda: self._save(image, before, refined, info))

    def wait(self) -> None:
        """Return when what was to be kept is kept."""
        self._tasks.join()

    def _work(self) -> None:
        while True:
            task = self._tasks.get()
            try:
                task()
            except Exception as error:
                if not isinstance(error, Refusal):
                    report(error)
            finally:
                self._tasks.task_done()

    def _save(self, image: str, before: sitk.Image, refined: sitk.Image, info: dict[str, Any]) -> None:
        for tag, mask in (("before", before), ("refined", refined)):
            path = self._state.tmp / f"{uuid.uuid4().hex}.nrrd"
            try:
                sitk.WriteImage(mask, str(path), useCompression=True)
                self._store().save_label(image, str(path), tag, dict(info))
            finally:
                path.unlink(missing_ok=True)

    def seal(self, image: str, user: str) -> Path | None:
        """Copy the three masks of an image, as they are now, to an immutable folder; None where `final` is missing."""
        self.wait()  # a refinement that ended just before belongs to this correction
        store = self._store()
        tags = store.get_labels_by_image_id(image)
        if "final" not in tags:
            return None
        place = self.folder / f"{now().replace(':', '').replace('+0000', 'Z')}-{uuid.uuid4().hex[:8]}"
        staged = self._state.tmp / uuid.uuid4().hex
        staged.mkdir()
        record: dict[str, Any] = {"image": image, "when": now(), "user": user, "masks": {}}
        record["image_sha256"] = sha256(store.get_image_uri(image))
        for tag in TAGS:
            path = Path(store.get_label_uri(image, tag)) if tag in tags else None
            info = store.get_label_info(image, tag)
            if path is None or not path.is_file() or (tag != "final" and info.get("sealed")):
                continue
            name = tag + path.name[len(image) :]
            shutil.copyfile(path, staged / name)
            record["masks"][tag] = {"file": name, "sha256": sha256(staged / name), "info": info}
        record["accepted"] = _same(staged, record["masks"].get("refined"), record["masks"].get("final"))
        write_json(staged / "record.json", record)
        for file in staged.iterdir():
            file.chmod(0o400)
        shutil.move(staged, place)
        for tag in ("before", "refined"):  # of this correction; the next refinement writes new ones
            if tag in record["masks"]:
                change = {"sealed": place.name, "accepted": record["accepted"]}
                with suppress(Refusal):
                    store.update_label_info(image, tag, change)
        return place

    def newest(self) -> dict[str, Path]:
        """The latest sealed folder of each image that has one."""
        out: dict[str, Path] = {}
        for place in sorted(p for p in self.folder.iterdir() if (p / "record.json").is_file()):
            with suppress(OSError, ValueError, KeyError):
                out[json.loads((place / "record.json").read_text(encoding="utf-8"))["image"]] = place
        return out


def _same(folder: Path, one: dict[str, Any] | None, other: dict[str, Any] | None) -> bool | None:
    """Whether the refined mask was taken as it was; None where there is none."""
    if one is None or other is None:
        return None
    a, b = (sitk.GetArrayFromImage(sitk.ReadImage(str(folder / m["file"]))) != 0 for m in (one, other))
    return bool(a.shape == b.shape and (a == b).all())
