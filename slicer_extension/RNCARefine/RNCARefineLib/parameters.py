"""What the user has chosen, typed, and remembered from one start of Slicer to the next."""

from dataclasses import dataclass, fields
from typing import Any, Protocol, get_type_hints

PREFIX = "rNCARefine/"
LOCAL = "local"
"""In place of a server's address: refine on this computer."""


class Settings(Protocol):
    """Where choices are kept: QSettings in Slicer, a dictionary in tests."""

    def value(self, key: str, default: Any = None) -> Any:
        """What is kept under a key."""
        ...

    def setValue(self, key: str, value: Any) -> None:
        """Keep it."""
        ...


@dataclass
class Parameters:
    """The panel's choices; a token or password is never among them."""

    server: str = "http://127.0.0.1:8000"
    certificates: str = ""
    model: str = ""
    steps: int = 0  # 0: the model's own
    region: str = "everywhere"  # "everywhere", "roi" or "cursor"
    cursor_mm: float = 40.0  # edge of the box around the cursor
    show_changes: bool = True
    all_segments: bool = False

    @classmethod
    def load(cls, settings: Settings) -> "Parameters":
        """From settings; what cannot be understood is the default."""
        found = cls()
        kinds = get_type_hints(cls)
        for f in fields(cls):
            value = settings.value(PREFIX + f.name)
            if value is None:
                continue
            try:
                parsed = str(value).lower() in ("true", "1") if kinds[f.name] is bool else kinds[f.name](value)
            except (TypeError, ValueError):
                continue
            setattr(found, f.name, parsed)
        return found

    def save(self, settings: Settings) -> None:
        """Into settings."""
        for f in fields(self):
            settings.setValue(PREFIX + f.name, getattr(self, f.name))


class Consent:
    """Whether images may leave this computer: asked once a server, and remembered."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def given(self, server: str, what: str) -> bool:
        """`what` is 'send' (for a while, to refine) or 'store' (in the server's datastore)."""
        return str(self._settings.value(self._key(server, what), False)).lower() in ("true", "1")

    def give(self, server: str, what: str, yes: bool = True) -> None:
        """Remember the user's answer."""
        self._settings.setValue(self._key(server, what), yes)

    def _key(self, server: str, what: str) -> str:
        return f"{PREFIX}consent/{what}/{server.replace('/', '_')}"
