"""Files from the browser and back to it."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from trame.app.file_upload import ClientFile
from trame.widgets import html
from trame.widgets import vuetify3 as v

from .control import Control


class Upload:
    """Collects what one button of the page sends, in parts, and opens it when all of it is there.

    Args:
        control: told to open it.
        kind: "image" or "mask".
    """

    def __init__(self, control: Control, kind: str) -> None:
        self._control, self._kind = control, kind
        self._files: list[ClientFile] = []

    def take(self, files: list[dict[str, Any]]) -> None:
        """Some more files; none means that these were all."""
        if files:
            self._files += [ClientFile(file) for file in files]
            return
        found, self._files = self._files, []
        if found:
            self._open(found)
        with self._control.state:
            self._control.state.busy_loading = False

    def _open(self, files: list[ClientFile]) -> None:
        with TemporaryDirectory() as folder:
            paths = []
            for file in files:
                path = Path(folder) / Path(str(file.name).replace("\\", "/")).name
                path.write_bytes(file.content)
                paths.append(path)
            opened = paths[0] if len(paths) == 1 else Path(folder)  # several files are a DICOM series
            image, mask = (opened, None) if self._kind == "image" else (None, opened)
            self._control.open_files(image, mask)


def pick_files(control: Control, kind: str, title: str, icon: str) -> None:
    """A button that opens an image or a mask; its file input has the id `open-KIND`."""
    upload = Upload(control, kind)
    trigger = control.server.controller.trigger_name(upload.take)
    html.Input(
        type="file",
        id=f"open-{kind}",
        style="display: none",
        multiple=kind == "image",
        change=(
            "busy_loading = true;"
            f"window.load_files_by_chunks($event.target.files, {{ trigger_name: '{trigger}' }});"
            "$event.target.value = ''"
        ),
    )
    v.VBtn(
        title,
        prepend_icon=icon,
        size="small",
        variant="text",
        loading=("busy_loading",),
        disabled=("!case_name",) if kind == "mask" else ("false",),
        title=f"Open {'an image, or all files of a DICOM series' if kind == 'image' else 'its mask'}",
        click=f"window.document.getElementById('open-{kind}').click()",
    )


def save_file(control: Control) -> None:
    """A button that downloads the mask as it is."""

    def content() -> Any:
        found = control.saved()
        return control.server.protocol.addAttachment(found) if found else None

    trigger = control.server.controller.trigger_name(content)
    v.VBtn(
        "Save mask",
        prepend_icon="mdi-tray-arrow-down",
        variant="tonal",
        size="small",
        disabled=("!can_save || phase !== 'idle'",),
        click=f"utils.download(save_name, trigger('{trigger}'), 'application/octet-stream')",
        id="save",
    )
