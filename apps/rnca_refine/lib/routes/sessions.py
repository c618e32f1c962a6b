"""Images that are uploaded for a while: /session."""

import threading
from typing import Any

from fastapi import APIRouter, Depends, File, UploadFile
from fastapi.responses import FileResponse

from ..auth import User, as_user
from ..refusals import Refusal
from ..services import Services
from ..state import MEBI
from ..uploads import request_folder, store, store_series, unpack


def router(s: Services) -> APIRouter:
    routes = APIRouter(prefix="/session", tags=["Session"])

    @routes.put("/", summary="Upload an image, or the slices of a DICOM series, for a while")
    def create(
        uncompress: bool = False, expiry: int = 0, files: list[UploadFile] = File(...), user: User = Depends(as_user)
    ) -> dict[str, Any]:
        with request_folder(s.state.tmp) as folder:
            if len(files) > 1:
                path = store_series(files, folder, "image")
            elif uncompress:
                path = unpack(files[0], folder / "image", s.state.upload_mib * MEBI)
            else:
                path = store(files[0], folder, "image", s.state.upload_mib * MEBI)
            s.images.get(path, keep=False)  # an image that cannot be read is refused now, not at the first click
            if path.parent != folder and path.is_file():
                path = path.rename(folder / f"image{''.join(path.suffixes)}")
            about = s.sessions.add(path, expiry, user.username)
        moved = s.sessions.image(about["name"])
        threading.Thread(target=lambda: s.images.get(moved, keep=True), daemon=True).start()
        return {"session_id": about["name"], "session_info": about}

    @routes.get("/{session_id}", summary="Whether a session is still there")
    def show(session_id: str, update_ts: bool = False, image: bool = False, user: User = Depends(as_user)) -> Any:
        path = s.sessions.image(session_id, touch=update_ts)
        if image:
            if path.is_dir():
                raise Refusal(400, "the session holds a DICOM series, which is not sent back as one file.")
            return FileResponse(path, filename=path.name)
        return s.sessions.describe(session_id)

    @routes.delete("/{session_id}", summary="End a session")
    def remove(session_id: str, user: User = Depends(as_user)) -> dict[str, Any]:
        return s.sessions.remove(session_id)

    return routes
