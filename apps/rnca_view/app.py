"""Start: the scene, the logic, the page and the web server that shows it on this computer."""

import asyncio
import os
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trame.app import get_server
from trame_slicer import module as trame_slicer_module
from trame_slicer.core import SlicerApp
from vtkmodules.vtkCommonCore import vtkLogger, vtkObject

from rnca.errors import InputError
from RNCARefineLib.parameters import LOCAL

from . import access, samples
from .control import Control
from .panel import build
from .views import Views

PAGE = Path(__file__).parent / "page"


@dataclass(frozen=True)
class Wanted:
    """What `rnca view` was asked for; `server` is an address, None refines on this computer."""

    image: Path | None = None
    mask: Path | None = None
    server: str | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    browser: bool = True


class App:
    """The application; one a process, as VTK's factories are."""

    def __init__(self) -> None:
        self.server = get_server("rnca-view", client_type="vue3")
        self.server.enable_module(trame_slicer_module)
        self.server.enable_module(
            {"serve": {"rnca_view": str(PAGE)}, "scripts": ["rnca_view/keys.js"], "styles": ["rnca_view/style.css"]}
        )
        self.server.state.trame__title = "rNCA Refine"
        self.slicer = SlicerApp()
        self.views = Views(self.server, self.slicer)
        self.control = Control(self.server, self.slicer.scene, self.views)
        self.server.controller.trigger("shortcut")(self.control.key)
        self.page = build(self.server, self.control, self.views)

    def begin(self, wanted: Wanted) -> None:
        """Connect, and open what is wanted, or a sample."""
        state, control = self.server.state, self.control
        if wanted.server:
            state.place = "server"
            control.connect(wanted.server)
        else:
            control.choose_place(LOCAL)
        if wanted.image is not None:
            control.open_files(wanted.image, wanted.mask)
        else:
            control.open_sample(samples.FIRST)


def run(wanted: Wanted) -> None:
    """Serve the page until the program is told to end.

    Raises:
        InputError: the port is taken.
    """
    os.environ["TRAME_ARGS"] = ""  # the command line is ours, not trame's
    os.environ["WSLINK_READY_MSG"] = ""
    vtkObject.GlobalWarningDisplayOff()  # VTK warns of a missing screen, and what fails is told on the page
    vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_OFF)
    app, key = App(), access.new_key()
    controller: Any = app.server.controller

    @controller.add("on_server_bind")
    def bind(web: Any) -> None:
        web.app.middlewares.append(access.guard(key, wanted.port))

    @controller.add("on_server_ready")
    def ready(**_: Any) -> None:
        address = f"http://{wanted.host}:{wanted.port}/?key={key}"
        print(f"rNCA Refine is at {address}", flush=True)
        print("For research use, not a medical device. Ctrl-C ends it.", flush=True)
        app.clock = asyncio.get_running_loop().create_task(app.control.run())  # type: ignore[attr-defined]
        app.begin(wanted)
        if wanted.browser:
            webbrowser.open(address)

    try:
        app.server.start(
            host=wanted.host,
            port=wanted.port,
            open_browser=False,
            show_connection_info=False,
            disable_logging=True,
            timeout=0,
        )
    except OSError as error:
        raise InputError(
            f"cannot listen on {wanted.host}:{wanted.port} ({error.strerror}): give another --port."
        ) from error
    finally:
        app.control.refinement.close()
        app.control.place.disconnect()
