"""The models in memory: one for each archive and device, loaded once, shared by every refinement.

A refinement keeps the object it was given, so it ends on the version it began with whatever is activated meanwhile.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence

from rnca import InputError
from rnca.registry import Record, Registry
from rnca.zoo import Model, named

from .refusals import Refusal

KEPT = 4


class Models:
    """A small cache in front of the registry."""

    def __init__(self, registry: Registry, default: str) -> None:
        self.registry, self.default = registry, default
        self._kept: OrderedDict[tuple[str, str], Model] = OrderedDict()
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """What a client can choose, the default first."""
        return [self.default, *(n for n in self.registry.names() if n != self.default)]

    def active(self, name: str, shape: Sequence[int] = ()) -> Record:
        """The version in use of what the name stands for where the mask has this shape."""
        return self.registry.active(named(name, shape))

    def get(self, asked: str | None, device: str, shape: Sequence[int] = ()) -> tuple[Model, Record]:
        """The model "NAME" (its active version) or "NAME@VERSION" for a mask of this shape, the default for None."""
        name, _, version = (asked or self.default).partition("@")
        name = named(name, shape)
        try:
            record = self.registry.record(name, version or None)
            with self._lock:  # loading is quick, and two loads of one archive would be a waste
                key = (record.sha256, device)
                if key not in self._kept:
                    self._kept[key] = self.registry.load(record, device)
                self._kept.move_to_end(key)
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
                return self._kept[key], record
        except InputError as error:
            raise Refusal(400, str(error)) from None
