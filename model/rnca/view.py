"""`rnca view`: the application of this project in a browser, on this computer.

The application and the Slicer module's library that it runs on lie beside the package, as the server's app does
(`serve.py`); this module finds them, checks that what they need is installed, and starts them.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from .errors import InputError
from .serve import is_loopback

_PACKAGE = Path(__file__).parent
PLACES = (_PACKAGE, _PACKAGE.parents[1])
"""As the wheel carries it, and in a checkout."""

NEEDED = ("slicer", "trame_slicer", "trame_rca", "requests")


def folders() -> tuple[Path, Path]:
    """The folders that hold the packages `rnca_view` and `RNCARefineLib`."""
    for place in PLACES:
        apps, library = place / "apps", place / "slicer_extension" / "RNCARefine"
        if (apps / "rnca_view" / "app.py").is_file() and (library / "RNCARefineLib").is_dir():
            return apps, library
    raise InputError("the application of rnca view is not installed with this package: install the wheel again.")


def check_installed() -> None:
    """Raise InputError unless all that the application needs can be imported."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(f'rnca view needs {", ".join(missing)}: install it with pip install "rnca[view]"')


def view(
    image: Path | None, mask: Path | None, server: str | None, host: str, port: int, browser: bool, anywhere: bool
) -> None:
    """Show an image and its mask in a browser, until told to end.

    Raises:
        InputError: something is missing, the port is taken, or others could reach the page.
    """
    if not is_loopback(host) and not anywhere:
        raise InputError(
            f"others could reach {host}, and images would go there unencrypted: listen on 127.0.0.1 and come through an"
            " SSH tunnel, or say --allow-remote if a proxy with TLS and a login stands before it."
        )
    for path in filter(None, (image, mask)):
        if not path.exists():
            raise InputError(f"{path} does not exist: check the path")
    check_installed()
    for folder in folders():
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    app = import_module("rnca_view.app")
    app.run(app.Wanted(image, mask, server, host, port, browser))
