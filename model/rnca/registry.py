"""Versions of models that a server has trained: published whole, never overwritten, any of them active again later.

    FOLDER/NAME/VERSION/NAME.ts, manifest.json, metadata.json, record.json     never changed once there
    FOLDER/NAME/active.json                                                    the pointer: one file, replaced whole

A version becomes visible by one rename of its finished folder and active by one rename of the pointer, so a server
that dies in between leaves the old version active. Shipped models are versions too and cannot be removed. Only archives
whose SHA-256 stands in their record, and for the active one also in the pointer, are loaded.
"""

import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .automaton import RNCA
from .errors import InputError
from .files import sha256, write_json
from .zoo import EMBEDDED, ZOO, Metadata, Model, load_model, parse_metadata, save_model, shipped, shipped_metadata

POINTER, RECORD = "active.json", "record.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_VERSION = re.compile(r"\d{1,6}\.\d{1,6}\.\d{1,6}")


@dataclass(frozen=True)
class Record:
    """What the registry knows of one version."""

    name: str
    version: str
    sha256: str  # of the archive
    parent: str | None = None  # "name version sha256"
    created: str = ""  # UTC, ISO 8601; empty for a shipped model
    user: str = ""
    gate: Mapping[str, Any] = field(default_factory=dict)  # the report that let it in
    data: Mapping[str, Any] = field(default_factory=dict)  # SHA-256 of what it was trained on
    shipped: bool = False


def now() -> str:
    """This moment, UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def open_registry(studies: str | Path) -> "Registry":
    """The registry of a server, from the folder that it serves or its state folder; InputError if there is none."""
    for folder in (Path(studies) / ".rnca" / "models", Path(studies) / "models"):
        if folder.is_dir():
            return Registry(folder)
    raise InputError(f"{studies} was not served yet: give the folder that `rnca serve --studies` was given.")


class Registry:
    """The versions under one folder, and the models that come with the package."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def names(self) -> list[str]:
        """Every model there is, shipped or trained."""
        own = [p.name for p in self.folder.glob("*") if _NAME.fullmatch(p.name)] if self.folder.is_dir() else []
        return sorted({*shipped(), *own})

    def versions(self, name: str) -> list[Record]:
        """Every version of a model, oldest first; InputError if there is no such model."""
        found = [self._shipped(name)] if name in shipped() else []
        if _NAME.fullmatch(name):
            for path in (self.folder / name).glob(f"*/{RECORD}"):
                if _VERSION.fullmatch(path.parent.name):
                    found.append(Record(**json.loads(path.read_text(encoding="utf-8"))))
        if not found:
            raise InputError(f"there is no model {name!r}: the server has {', '.join(self.names())}.")
        return sorted(found, key=lambda record: _order(record.version))

    def record(self, name: str, version: str | None = None) -> Record:
        """One version; the active one unless `version` is given."""
        known = self.versions(name)
        wanted = version or self._pointed(name).get("version")
        if wanted is None:  # never activated anything: what was shipped
            return next((r for r in known if r.shipped), known[0])
        for record in known:
            if record.version == wanted:
                return record
        raise InputError(
            f"there is no version {wanted} of {name}: the server has {', '.join(r.version for r in known)}."
        )

    def active(self, name: str) -> Record:
        """The version that is used where none is asked for."""
        return self.record(name)

    def path(self, record: Record) -> Path:
        """Where a version's archive lies."""
        folder = ZOO / record.name if record.shipped else self.folder / record.name / record.version
        return folder / f"{record.name}.ts"

    def metadata(self, record: Record) -> Metadata:
        """What a version says about itself, from its readable copy, without opening the archive."""
        if record.shipped:
            return shipped_metadata(record.name)
        return parse_metadata(json.loads((self.path(record).parent / EMBEDDED).read_text(encoding="utf-8")))

    def load(self, record: Record, device: str = "cpu") -> Model:
        """The model of a version; refused unless the archive is the one that the record describes."""
        model = load_model(self.path(record), device)
        pointed = self._pointed(record.name)
        digests = {record.sha256, pointed["sha256"] if pointed.get("version") == record.version else record.sha256}
        if digests != {model.sha256}:
            raise InputError(
                f"{record.name} {record.version} was replaced: its SHA-256 is not the one that was published;"
                " restore it from a backup, or activate another version."
            )
        return model

    def publish(
        self, net: RNCA, metadata: Metadata, *, user: str, gate: Mapping[str, Any], data: Mapping[str, Any]
    ) -> Record:
        """Add a version and make it active; returns its record. The version number of `metadata` is chosen here."""
        if not _NAME.fullmatch(metadata.name):
            raise InputError(f"a model's name is of a-z, 0-9, - and _ and at most 64 long, not {metadata.name!r}.")
        home = self.folder / metadata.name
        home.mkdir(parents=True, exist_ok=True)
        while True:
            version = self._next_version(metadata.name)
            staged = home / f".staged-{uuid.uuid4().hex[:12]}"
            staged.mkdir()
            try:
                archive = save_model(net, staged / f"{metadata.name}.ts", replace(metadata, version=version))
                digest = sha256(archive)
                record = Record(metadata.name, version, digest, metadata.parent, now(), user, dict(gate), dict(data))
                write_json(staged / EMBEDDED, asdict(load_model(archive).metadata))
                write_json(staged / RECORD, asdict(record))
                _sync(staged)
                staged.rename(home / version)
            except OSError:
                if not (home / version).exists():  # not a race with another process for this number
                    raise
                continue
            finally:
                shutil.rmtree(staged, ignore_errors=True)
            _sync(home)
            self.activate(metadata.name, version, user)
            return record

    def activate(self, name: str, version: str, user: str) -> Record:
        """Use this version from now on: publication and roll-back are the same replacement of the pointer."""
        record = self.record(name, version)
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        pointer = {"version": version, "sha256": record.sha256, "user": user, "when": now()}
        write_json(self.folder / name / POINTER, pointer)
        return record

    def _pointed(self, name: str) -> dict[str, Any]:
        with suppress(OSError):
            return dict(json.loads((self.folder / name / POINTER).read_text(encoding="utf-8")))
        return {}

    def _shipped(self, name: str) -> Record:
        meta = shipped_metadata(name)
        listed = json.loads((ZOO / name / "manifest.json").read_text(encoding="utf-8"))
        return Record(name, meta.version, listed[f"{name}.ts"], meta.parent, shipped=True)

    def _next_version(self, name: str) -> str:
        with suppress(InputError):
            major, minor, _ = _order(self.versions(name)[-1].version)
            return f"{major}.{minor + 1}.0"
        return "1.0.0"


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _sync(folder: Path) -> None:
    """Bring a folder's entries to the disk; not everywhere possible, and then not needed."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
