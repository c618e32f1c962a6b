"""Images uploaded once and refined many times, without becoming part of the datastore: SESSIONS/ID/…

An id is a random UUID and nothing else is accepted as one; a session ends when it was not used for a while.
"""

import json
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rnca.files import write_json

from .refusals import Refusal
from .state import MEBI, State


class SessionStore:
    """The sessions of a server, on disk, so that a restart keeps them."""

    def __init__(self, state: State, forget: Callable[[Path], None]) -> None:
        self.state, self._forget = state, forget
        self._lock = threading.Lock()

    def add(self, image: Path, expiry: int, user: str) -> dict[str, Any]:
        """Move an uploaded file or folder into a new session; its description."""
        with self._lock:
            if self._bytes() + _size(image) > self.state.sessions_mib * MEBI:
                raise Refusal(507, "the server's room for sessions is used up: end sessions, or try again later.", 60)
            name = str(uuid.uuid4())
            place = self.state.sessions / name
            staged = self.state.tmp / uuid.uuid4().hex
            staged.mkdir()
            shutil.move(image, staged / image.name)
            most = self.state.session_seconds
            about = {
                "name": name,
                "image": image.name,
                "create_ts": int(time.time()),
                "expiry": min(expiry, most) if expiry > 0 else most,
                "user": user,
            }
            write_json(staged / "session.json", about)
            shutil.move(staged, place)
        return self.describe(name, about)

    def image(self, session_id: str, touch: bool = True) -> Path:
        """Where a session's image lies; Refusal 404 where there is no such session."""
        place, about = self._find(session_id)
        if touch:
            (place / "session.json").touch()
        return place / about["image"]

    def describe(self, session_id: str, about: dict[str, Any] | None = None) -> dict[str, Any]:
        """What a client is told of a session: as MONAI Label does, without paths of the server."""
        place, found = (self.state.sessions / session_id, about) if about else self._find(session_id)
        used = int((place / "session.json").stat().st_mtime)
        return {**found, "path": "", "meta": {}, "last_access_ts": used}

    def remove(self, session_id: str) -> dict[str, Any]:
        """End a session; its last description."""
        about = self.describe(session_id)
        place = self.state.sessions / about["name"]
        self._forget(place)
        shutil.rmtree(place, ignore_errors=True)
        return about

    def remove_expired(self) -> int:
        """End every session that was not used for longer than it lives; how many there were."""
        count = 0
        for place in list(self.state.sessions.iterdir()):
            try:
                about = json.loads((place / "session.json").read_text(encoding="utf-8"))
                over = (place / "session.json").stat().st_mtime + about["expiry"] < time.time()
            except (OSError, ValueError, KeyError):
                over = True
            if over:
                self._forget(place)
                shutil.rmtree(place, ignore_errors=True)
                count += 1
        return count

    def _find(self, session_id: str) -> tuple[Path, dict[str, Any]]:
        try:
            name = str(uuid.UUID(session_id))
            place = self.state.sessions / name
            return place, json.loads((place / "session.json").read_text(encoding="utf-8"))
        except (ValueError, OSError, AttributeError, TypeError):
            raise Refusal(404, "there is no such session, or it has ended: upload the image again.") from None

    def _bytes(self) -> int:
        return sum(_size(place) for place in self.state.sessions.iterdir())


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
