"""MONAI Label's datastores, made to lose nothing.

What is added to `LocalDatastore` (and through it to the DICOMweb datastore):

- Every change reads `datastore_v2.json` again, changes it and writes it whole, under a lock that other processes
  honour: nothing that another one wrote is lost, and a process that is killed leaves the old file or the new one.
- Label and image files are replaced in one step, and every version of a label stays (`history`).
- Ids and tags that could lead out of the folder are refused.
- Folders of DICOM slices are images too.
"""

import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore, LocalDatastoreModel

from rnca.files import sha256, write_text

from .history import History
from .names import EXTENSIONS, TAG, check_id, check_tag, extension_of
from .refusals import Refusal
from .state import State

TICK = 0.05  # seconds in which a file system may give two changes the same time


class Keeps(LocalDatastore):
    """The additions, to be mixed in front of a datastore of MONAI Label."""

    _state: State
    _studies_lock: threading.RLock
    _seen: Any = None
    _depth = 0

    def _begin(self, state: State) -> None:
        self._state, self._studies_lock = state, threading.RLock()
        self.history = History(state.history)

    # --- one change ---------------------------------------------------------------------------------------------

    @contextmanager
    def _change(self) -> Iterator[LocalDatastoreModel]:
        """The datastore as it is on disk, locked; written whole if the block ends well, read again if it does not."""
        with self._studies_lock, FileLock(self._lock_file, timeout=60):
            self._depth += 1
            try:
                self._load()
                yield self._datastore
                self._store()
            except BaseException:
                self._config_ts = 0
                self._load()
                raise
            finally:
                self._depth -= 1

    def _load(self) -> None:
        """Read the file if it is another one than was read last. A damaged one is put aside and its backup taken."""
        path = Path(self._datastore_config_path)
        try:
            found = path.stat()
        except FileNotFoundError:
            return
        stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
        if self._config_ts == stamp:
            return
        try:
            model = LocalDatastoreModel.model_validate_json(path.read_text(encoding="utf-8"))
        except ValueError:
            shutil.copyfile(path, path.with_name(f"{path.name}.damaged-{uuid.uuid4().hex[:8]}"))
            backup = self._state.folder / "datastore.bak"
            if not backup.exists():
                write_text(path, self._datastore.model_dump_json(exclude={"base_path"}))
            else:
                write_text(path, backup.read_text(encoding="utf-8"))
            model = LocalDatastoreModel.model_validate_json(path.read_text(encoding="utf-8"))
            found = path.stat()
            stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
        model.base_path = self._datastore_path
        self._datastore, self._config_ts = model, stamp

    def _store(self) -> None:
        path = Path(self._datastore_config_path)
        text = json.dumps(self._datastore.model_dump(exclude={"base_path"}), indent=1, default=str)
        if path.exists():
            if path.read_text(encoding="utf-8") == text:
                return
            with suppress(OSError):
                backup = self._state.folder / f"{uuid.uuid4().hex}.tmp"
                os.link(path, backup)
                backup.replace(self._state.folder / "datastore.bak")
        write_text(path, text)
        found = path.stat()
        self._config_ts = (found.st_ino, found.st_size, found.st_mtime_ns)

    # what LocalDatastore calls: it changes its copy first and then asks for the file to be written

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        with self._studies_lock, FileLock(self._lock_file, timeout=60):
            self._load()

    def _update_datastore_file(self, lock: bool = True) -> None:
        with self._studies_lock, FileLock(self._lock_file, timeout=60):
            self._store()

    # --- reading ------------------------------------------------------------------------------------------------

    def _fresh(self) -> None:
        """Take in what others did to the folder, if its folders or its file changed since the last look."""
        if not self._auto_reload_wanted:
            return
        with self._studies_lock:
            if self._depth:  # within a change of this thread; that of another one was waited for
                return
            looked = time.time()  # before the stamp: what comes later in the same tick leaves the same one
            stamp, newest = self._stamp()
            if stamp != self._seen:
                self._reconcile_datastore()
                # what comes while the folder is read, or within the same tick of its clock, is seen at the next look
                self._seen = stamp if looked - newest > TICK else None

    def _stamp(self) -> tuple[Any, float]:
        """What tells whether something has changed, and when the last change was (seconds)."""
        labels = Path(self._datastore.label_path(None))
        places = [Path(self._datastore.image_path()), Path(self._datastore_config_path), labels]
        places += [p for p in labels.iterdir() if p.is_dir()] if labels.is_dir() else []
        out = []
        for place in places:
            with suppress(OSError):
                found = place.stat()
                out.append((str(place), found.st_ino, found.st_mtime_ns))
        return out, max((when for _, _, when in out), default=0) / 1e9

    _auto_reload_wanted = True
    _folders_are_images = True

    def _to_id(self, file: str) -> tuple[str, str]:
        ext = extension_of(file)
        return file[: len(file) - len(ext)], file[len(file) - len(ext) :]

    def _reconcile_datastore(self) -> None:
        with self._change() as model:
            self._settle_pending(model)
            folder = Path(model.image_path())
            found: dict[str, str] = {}
            for path in sorted(folder.iterdir()):
                if path.name.startswith(".") or path.name == model.labels_dir:
                    continue
                if path.is_dir():
                    if self._folders_are_images and _holds_dicom(path):
                        found[path.name] = ""
                elif extension_of(path.name):
                    name, ext = self._to_id(path.name)
                    found.setdefault(name, ext)
            for name, ext in found.items():
                known = model.objects.get(name)
                if known is None:
                    info = {"ts": int(time.time()), "name": name + ext}
                    model.objects[name] = ImageLabelModel(image=DataModel(info=info, ext=ext))
            for name in [n for n, o in model.objects.items() if not (folder / (n + o.image.ext)).exists()]:
                del model.objects[name]
            for tag_folder in sorted(p for p in Path(model.label_path(None)).iterdir() if p.is_dir()):
                self._reconcile_tag(model, tag_folder)

    def _reconcile_tag(self, model: LocalDatastoreModel, folder: Path) -> None:
        tag, files = folder.name, {}
        if not TAG.fullmatch(tag):
            return
        for path in sorted(folder.iterdir()):
            if not path.name.startswith(".") and extension_of(path.name):
                name, ext = self._to_id(path.name)
                files.setdefault(name, []).append(ext)
        for name, obj in model.objects.items():
            known = obj.labels.get(tag)
            there = files.get(name, [])
            if known is not None and known.ext not in there:
                del obj.labels[tag]
                known = None
            if known is None and there:
                obj.labels[tag] = DataModel(info={"ts": int(time.time()), "name": name + there[0]}, ext=there[0])

    def list_images(self) -> list[str]:
        self._fresh()
        return super().list_images()

    def status(self) -> dict[str, Any]:
        self._fresh()
        return super().status()

    def json(self) -> Any:
        self._fresh()
        return super().json()

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        self._fresh()
        return super().get_labeled_images(label_tag, labels)

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        self._fresh()
        return super().get_unlabeled_images(label_tag, labels)

    def get_image_uri(self, image_id: str) -> str:
        self._fresh()
        return str(super().get_image_uri(image_id))

    def get_label_uri(self, label_id: str, label_tag: str, *more: Any) -> str:
        self._fresh()
        return str(super().get_label_uri(label_id, label_tag, *more))

    # --- writing ------------------------------------------------------------------------------------------------

    def _put(self, source: str | Path, target: Path) -> None:
        """Copy a file to its place in one step."""
        temporary = self._state.tmp / uuid.uuid4().hex
        try:
            shutil.copyfile(source, temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.replace(target)
            except OSError:  # the state folder is on another disk
                beside = target.with_name(f".{uuid.uuid4().hex}")
                shutil.copyfile(temporary, beside)
                beside.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        name, ext = self._to_id(Path(image_filename).name)
        image_id = check_id(image_id or name)
        if not ext:
            raise Refusal(400, f"images are stored as {', '.join(EXTENSIONS)}: convert it first.")
        with self._change() as model:
            known = model.objects.get(image_id)
            if known is not None and known.labels:
                raise Refusal(409, "there is an image of this id with labels already: choose another id.")
            self._put(image_filename, Path(model.image_path()) / (image_id + ext))
            if known is not None and known.image.ext != ext:
                self._set_aside(Path(model.image_path()) / (image_id + known.image.ext))
            info = {**(image_info or {}), "ts": int(time.time()), "name": image_id + ext}
            model.objects[image_id] = ImageLabelModel(image=DataModel(info=info, ext=ext))
        return image_id

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], *more: Any
    ) -> str:
        image_id, tag = check_id(image_id), check_tag(label_tag)
        _, ext = self._to_id(Path(label_filename).name)
        if not ext:
            raise Refusal(400, f"labels are stored as {', '.join(EXTENSIONS)}: convert it first.")
        with self._change() as model:
            obj = self._object(model, image_id)
            folder = Path(model.label_path(tag))
            old = obj.labels.get(tag)
            if old is not None and not self.history.versions(image_id, tag):  # from before this server
                with suppress(OSError):
                    self.history.add(image_id, tag, folder / (image_id + old.ext), old.ext, old.info)
            info = {**(label_info or {}), "ts": int(time.time()), "name": image_id + ext}
            record = self.history.add(image_id, tag, Path(label_filename), ext, info)
            info |= {"label_version": record["version"], "sha256": record["sha256"]}
            pending = self._announce(image_id, tag, ext, info)
            self._put(label_filename, folder / (image_id + ext))
            obj.labels[tag] = DataModel(info=info, ext=ext)
            self._store()
            if old is not None and old.ext != ext:
                (folder / (image_id + old.ext)).unlink(missing_ok=True)
            pending.unlink(missing_ok=True)
        return image_id

    def _announce(self, image_id: str, tag: str, ext: str, info: dict[str, Any]) -> Path:
        """Note what is about to be replaced, for whoever finds that it was not finished."""
        path = self._state.folder / f"pending-{uuid.uuid4().hex}.json"
        write_text(path, json.dumps({"image": image_id, "tag": tag, "ext": ext, "info": info}, default=str))
        return path

    def _settle_pending(self, model: LocalDatastoreModel) -> None:
        """A save that was killed half-way: the new label if its file is in place, else the old one."""
        for path in self._state.folder.glob("pending-*.json"):
            note = json.loads(path.read_text(encoding="utf-8"))
            file = Path(model.label_path(note["tag"])) / (note["image"] + note["ext"])
            obj = model.objects.get(note["image"])
            if obj is not None and file.exists() and sha256(file) == note["info"]["sha256"]:
                old = obj.labels.get(note["tag"])
                obj.labels[note["tag"]] = DataModel(info=note["info"], ext=note["ext"])
                if old is not None and old.ext != note["ext"]:
                    file.with_name(note["image"] + old.ext).unlink(missing_ok=True)
            path.unlink(missing_ok=True)

    def restore_label(self, image_id: str, tag: str, version: int, user: str) -> str:
        """Make an earlier version the current one; it becomes a new version itself."""
        file, record = self.history.file(check_id(image_id), check_tag(tag), version)
        if sha256(file) != record["sha256"]:
            raise Refusal(409, f"version {version} of this label was changed on disk and is not restored.")
        info = {k: v for k, v in record["info"].items() if k not in ("label_version", "sha256")}
        return self.save_label(image_id, str(file), tag, {**info, "restored": version, "user": user})

    def remove_image(self, image_id: str) -> None:
        with self._change() as model:
            obj = self._object(model, image_id)
            for tag, label in obj.labels.items():
                self._set_aside(Path(model.label_path(tag)) / (image_id + label.ext), tag)
            self._set_aside(Path(model.image_path()) / (image_id + obj.image.ext))
            del model.objects[image_id]

    def remove_label(self, label_id: str, label_tag: str) -> None:
        with self._change() as model:
            obj = self._object(model, label_id)
            label = obj.labels.get(check_tag(label_tag))
            if label is None:
                raise Refusal(404, "there is no such label: see the list of labels.")
            self._set_aside(Path(model.label_path(label_tag)) / (label_id + label.ext), label_tag)
            del obj.labels[label_tag]

    def _set_aside(self, path: Path, tag: str = "image") -> None:
        """Move a file out of the datastore; an administrator may delete it from the state folder for good."""
        if path.exists():
            shutil.move(path, self._state.removed / f"{int(time.time())}-{uuid.uuid4().hex[:6]}-{tag}-{path.name}")

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        with self._change() as model:
            self._object(model, image_id).image.info.update(info)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        with self._change() as model:
            label = self._object(model, label_id).labels.get(check_tag(label_tag))
            if label is None:
                raise Refusal(404, "there is no such label: see the list of labels.")
            label.info.update(info)

    def _object(self, model: LocalDatastoreModel, image_id: str) -> ImageLabelModel:
        obj = model.objects.get(check_id(image_id))
        if obj is None:
            raise Refusal(404, "there is no image of this id in the datastore: see the list of images.")
        return obj


class Studies(Keeps):
    """A folder of images."""

    def __init__(self, folder: str, state: State, auto_reload: bool, read_only: bool) -> None:
        self._begin(state)
        self._auto_reload_wanted = auto_reload and not read_only
        super().__init__(folder, extensions=[f"*{e}" for e in EXTENSIONS], auto_reload=False, read_only=read_only)


def _holds_dicom(folder: Path) -> bool:
    """Whether one of the first files of a folder says it is DICOM."""
    with suppress(OSError):
        for path in sorted(p for p in folder.iterdir() if p.is_file())[:3]:
            with path.open("rb") as file:
                if file.read(132)[128:] == b"DICM":
                    return True
    return False
