"""The audit trail: one line of JSON for each refinement, save, training, publication and roll-back, only ever appended.

Each line carries the SHA-256 of the line before, so that a line taken out or changed later shows.
"""

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

from filelock import FileLock

from rnca.registry import now


class Audit:
    """Appends to one file; safe from several threads and processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._thread = threading.Lock()
        self._lock = FileLock(str(path) + ".lock", timeout=60)

    def write(self, what: str, who: str, **details: Any) -> None:
        """One line: when, who, what, details, and the digest of the line before."""
        with self._thread, self._lock:
            line = {"when": now(), "who": who, "what": what, **details, "after": self._last()}
            data = (json.dumps(line, default=str, ensure_ascii=False) + "\n").encode()
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(handle, data)
            finally:
                os.close(handle)

    def _last(self) -> str:
        """SHA-256 of the last line, "" for the first."""
        try:
            with self.path.open("rb") as file:
                file.seek(0, os.SEEK_END)
                size = file.tell()
                file.seek(max(0, size - (1 << 16)))
                lines = file.read().splitlines()
        except FileNotFoundError:
            return ""
        return hashlib.sha256(lines[-1]).hexdigest() if lines else ""


def check(path: Path) -> int | None:
    """The number of the first line that does not follow on the one before, None if all do."""
    before = ""
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            if json.loads(line)["after"] != before:
                return number
        except (ValueError, KeyError):
            return number
        before = hashlib.sha256(line).hexdigest()
    return None
