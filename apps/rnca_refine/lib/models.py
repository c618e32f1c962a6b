"""The models in memory: one for each archive and device, loaded once, shared by every refinement.

A refinement keeps the object it was given, so it ends on the version it began with whatever is activated meanwhile.
"""

import threading
from collections import OrderedDict

from rnca import InputError
from rnca.registry import Record, Registry
from rnca.zoo import Model

from .refusals import Refusal

KEPT = 4


class Models:
    """A small cache in front of the registry."""

    def __init__(self, registry: Registry, default: str) -> None:
        self.registry, self.default = registry, default
        self._kept: OrderedDict[tuple[str, str], Model] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, asked: str | None, device: str) -> tuple[Model, Record]:
        """The model "NAME" (its active version) or "NAME@VERSION", the default one for None."""
        name, _, version = (asked or self.default).partition("@")
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
