"""Where the server keeps what is its own, and how much it takes in: one object, made once at start.

Everything lies in one folder, `STUDIES/.rnca` unless the app is started with `--conf state FOLDER`:

    models/     the registry (rnca.registry)        history/   every version of every label
    runs/       training runs and corrections       audit.jsonl
    sessions/   images uploaded for a session       tmp/       uploads under way, emptied at start
"""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from rnca import DEFAULT_MODEL, InputError

MEBI = 1 << 20


@dataclass(frozen=True)
class State:
    """Folders and limits."""

    folder: Path
    model: str = DEFAULT_MODEL  # used where a request names none
    workers: int = 2  # refinements at a time
    waiting: int = 8  # refinements that may wait for one of them
    upload_mib: int = 2048  # of one request
    voxels: int = 1 << 30  # of one image or mask
    cache_mib: int = 2048  # decoded images kept for sessions and datastore entries
    session_seconds: int = 3600
    sessions_mib: int = 20480  # all sessions together
    most_steps: int = 1000

    @classmethod
    def of(cls, studies: str, conf: dict[str, str]) -> "State":
        """From what the app was started with; InputError for a value that is no positive number."""
        numbers = {}
        for name in ("workers", "waiting", "upload_mib", "voxels", "cache_mib", "session_seconds", "sessions_mib"):
            if name in conf:
                if not str(conf[name]).isdigit() or int(conf[name]) < 1:
                    raise InputError(f"--conf {name} {conf[name]} is not a whole number above 0.")
                numbers[name] = int(conf[name])
        if studies.startswith(("http://", "https://")):
            home = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share"))
            default = home / "rnca" / hashlib.sha256(studies.encode()).hexdigest()[:16]
        else:
            default = Path(studies) / ".rnca"
        state = cls(Path(conf.get("state", default)), model=conf.get("model", DEFAULT_MODEL), **numbers)
        for part in ("models", "runs", "sessions", "history", "tmp", "removed"):
            (state.folder / part).mkdir(parents=True, exist_ok=True)
        state.folder.chmod(0o700)
        return state

    def __getattr__(self, name: str) -> Path:
        if name in ("models", "runs", "sessions", "history", "tmp", "removed"):
            return self.folder / name
        raise AttributeError(name)

    def empty_tmp(self) -> None:
        """Remove what a server that was killed left behind; only the server itself may call this, at start."""
        for path in self.tmp.iterdir():
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
