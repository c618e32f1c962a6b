"""rNCA: repair segmentation masks with a neural cellular automaton guided by the image.

Names are imported on first use: `import rnca` and `rnca --help` do not pay for torch or SimpleITK.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
DEFAULT_MODEL = "general"  # where none is named; which one it is, the mask's size decides: `zoo.named`

_HOME = {
    "RNCA": "automaton",
    "InputError": "errors",
    "betti_numbers": "topology",
    "compile": "engine",
    "load_model": "zoo",
    "refine": "rollout",
    "stream": "rollout",
}
__all__ = ["RNCA", "InputError", "betti_numbers", "compile", "load_model", "refine", "stream"]

if TYPE_CHECKING:
    from .automaton import RNCA
    from .engine import compile
    from .errors import InputError
    from .rollout import refine, stream
    from .topology import betti_numbers
    from .zoo import load_model


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
