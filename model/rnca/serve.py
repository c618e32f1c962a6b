"""`rnca serve`: MONAI Label with the app of this project, started without its command line.

MONAI Label's own `start_server` listens on every address, keeps a log file in the app's folder and needs the right
`python` on PATH; this start does none of that. It is otherwise the same: the app behaves alike under both.
"""

import ipaddress
import os
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

from .errors import InputError

APP_FOLDERS = (
    Path(__file__).parent / "apps" / "rnca_refine",  # as the wheel carries it
    Path(__file__).parents[2] / "apps" / "rnca_refine",  # in a checkout
)
REQUIREMENTS = "server-requirements.txt"


def app_folder() -> Path:
    """The MONAI Label app that comes with the package."""
    for folder in APP_FOLDERS:
        if (folder / "main.py").is_file():
            return folder
    raise InputError("the MONAI Label app is not installed with this package: install the wheel again.")


def check_installed() -> None:
    """Raise InputError unless MONAI Label can be imported."""
    if find_spec("monailabel") is None:
        raise InputError(
            "the server needs MONAI Label, which is not installed: install it with"
            f' pip install "rnca[server]" and then pip install --no-deps -r {app_folder() / REQUIREMENTS}'
        )


def is_loopback(host: str) -> bool:
    """Whether only this computer can reach a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def serve(
    studies: str, host: str, port: int, conf: dict[str, str], keyfile: Path | None, certfile: Path | None
) -> None:
    """Run the server until it is told to end.

    Raises:
        InputError: MONAI Label is missing, the folder is, or others could reach the server without logging in.
    """
    check_installed()
    remote = studies.startswith(("http://", "https://"))
    if not remote and not Path(studies).is_dir():
        raise InputError(f"{studies} is not a folder: give the folder that holds the images, or a DICOMweb address.")
    if not is_loopback(host) and os.environ.get("MONAI_LABEL_AUTH_ENABLE", "").lower() not in (
        "1",
        "true",
        "yes",
        "on",
    ):
        raise InputError(
            f"others could reach {host} without logging in: set MONAI_LABEL_AUTH_ENABLE=true and"
            " MONAI_LABEL_AUTH_REALM_URI to an OpenID realm, or listen on 127.0.0.1."
        )
    environment = {
        "MONAI_LABEL_APP_DIR": str(app_folder()),
        "MONAI_LABEL_STUDIES": studies if remote else str(Path(studies).resolve()),
        "MONAI_LABEL_SERVER_PORT": str(port),
    }
    os.environ.update(environment)
    os.environ["RNCA_SERVE_HOST"] = host
    import uvicorn
    from monailabel.config import settings

    settings.MONAI_LABEL_APP_DIR = environment["MONAI_LABEL_APP_DIR"]
    settings.MONAI_LABEL_STUDIES = environment["MONAI_LABEL_STUDIES"]
    settings.MONAI_LABEL_SERVER_PORT = port
    settings.MONAI_LABEL_APP_CONF = conf
    with redirect_stdout(StringIO()):  # it tells origins that lib/security.py of the app does not let in
        import_module("monailabel.app")
    config = uvicorn.Config(
        "monailabel.app:app",
        host=host,
        port=port,
        access_log=False,
        log_config=LOGGING,
        ssl_keyfile=keyfile,
        ssl_certfile=certfile,
        timeout_graceful_shutdown=5,
    )
    uvicorn.Server(config).run()


LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {"uvicorn": {"level": "INFO"}, "rnca": {"level": "INFO"}},
}
