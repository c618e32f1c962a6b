"""Images and labels: /datastore, with the versions of a label."""

import os
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, File, Form, UploadFile
from fastapi.responses import FileResponse, Response
from starlette.background import BackgroundTask

from ..auth import User, as_admin, as_annotator, as_user
from ..names import check_id, check_tag
from ..params import parse_json
from ..refusals import Refusal
from ..services import Services, digest
from ..state import MEBI
from ..uploads import request_folder, store


def router(s: Services) -> APIRouter:
    routes = APIRouter(prefix="/datastore", tags=["Datastore"])

    def described(info: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in info.items() if k != "path"}

    def file_of(kind: str, path: str) -> Path:
        if not path or not Path(path).exists():
            raise Refusal(404, f"there is no such {kind} in the datastore: see the list of images and labels.")
        return Path(path)

    @routes.get("/", summary="What is in the datastore")
    def content(output: str = "stats", user: User = Depends(as_user)) -> Any:
        if output not in ("stats", "all", "train"):
            raise Refusal(400, "output is one of stats, all, train.")
        if output == "train":
            return [{"image": Path(p["image"]).name, "label": Path(p["label"]).name} for p in s.store.datalist()]
        return s.store.json() if output == "all" else s.store.status()

    @routes.put("/", summary="Add an image")
    @routes.put("/image", summary="Add an image")
    def put_image(
        image: str | None = None,
        params: str = Form("{}"),
        file: UploadFile = File(...),
        user: User = Depends(as_annotator),
    ) -> dict[str, Any]:
        info = parse_json(params)
        with request_folder(s.state.tmp) as folder:
            given = (file.filename or "").replace("\\", "/").rsplit("/", 1)[-1]
            path = store(file, folder, "image", s.state.upload_mib * MEBI)
            if path.is_dir():
                raise Refusal(
                    400, "DICOM series go into the datastore as a folder, or into a session: not as one file."
                )
            name = check_id(image or given[: len(given) - len("".join(path.name[len("image") :]))])
            s.images.get(path, keep=False)
            s.audit.write("add image", user.username, image=name, image_sha256=digest(path))
            return {"image": s.store.add_image(name, str(path), {**info, "user": user.username})}

    @routes.delete("/", summary="Remove an image and its labels; an administrator finds them in the state folder")
    @routes.delete("/image", include_in_schema=False)
    def remove_image(id: str, user: User = Depends(as_admin)) -> dict[str, Any]:
        s.store.remove_image(check_id(id))
        s.audit.write("remove image", user.username, image=id)
        return {}

    @routes.head("/image", summary="Whether there is such an image")
    @routes.get("/image", summary="Download an image")
    def get_image(image: str, check_sum: str | None = None, user: User = Depends(as_user)) -> Response:
        path = file_of("image", s.store.get_image_uri(check_id(image)))
        if path.is_dir():
            raise Refusal(400, "this image is a DICOM series, which is not sent as one file.")
        if check_sum and check_sum.rpartition(":")[2].lower() != digest(path):
            raise Refusal(404, "the image has another SHA-256: upload it again.")
        return FileResponse(path, filename=path.name)

    @routes.get("/image/info", summary="What is known of an image")
    def image_info(image: str, user: User = Depends(as_user)) -> dict[str, Any]:
        file_of("image", s.store.get_image_uri(check_id(image)))
        return described(s.store.get_image_info(image))

    @routes.put("/image/info", summary="Add to what is known of an image")
    def put_image_info(image: str, info: str = Form("{}"), user: User = Depends(as_annotator)) -> None:
        s.store.update_image_info(image, {**parse_json(info, "info"), "user": user.username})

    @routes.put("/label", summary="Save a label; without a tag it is the final one")
    def put_label(
        image: str,
        params: str = Form("{}"),
        tag: str = "final",
        label: UploadFile = File(...),
        user: User = Depends(as_annotator),
    ) -> dict[str, Any]:
        info, tag = parse_json(params), check_tag(tag or "final")
        check_id(image)
        with request_folder(s.state.tmp) as folder:
            path = store(label, folder, "mask", s.state.upload_mib * MEBI)
            s.read_mask(path)  # what cannot be read is refused, not stored
            name = s.store.save_label(image, str(path), tag, {**info, "user": user.username})
            s.audit.write("save", user.username, image=image, tag=tag, label_sha256=digest(path))
        s.app.on_save_label(image, name, tag, user.username)
        return {"image": image, "label": name}

    @routes.delete("/label", summary="Remove a label; its versions stay")
    def remove_label(id: str, tag: str, user: User = Depends(as_admin)) -> dict[str, Any]:
        s.store.remove_label(id, tag)
        s.audit.write("remove label", user.username, image=id, tag=tag)
        return {}

    @routes.head("/label", summary="Whether there is such a label")
    @routes.get("/label", summary="Download a label")
    def get_label(tag: str, label: str = "", image: str = "", user: User = Depends(as_user)) -> Response:
        path = file_of("label", s.store.get_label_uri(check_id(label or image), check_tag(tag)))
        return FileResponse(path, filename=path.name)

    @routes.get("/label/info", summary="What is known of a label")
    def label_info(label: str, tag: str, user: User = Depends(as_user)) -> dict[str, Any]:
        return described(s.store.get_label_info(check_id(label), check_tag(tag)))

    @routes.put("/label/info", summary="Add to what is known of a label")
    @routes.put("/updatelabelinfo", include_in_schema=False)
    def put_label_info(
        label: str, tag: str, info: str = Form("{}"), params: str = Form("{}"), user: User = Depends(as_annotator)
    ) -> None:
        values = {**parse_json(params), **parse_json(info, "info"), "user": user.username}
        s.store.update_label_info(label, tag, values)

    @routes.get("/label/history", summary="Every version of a label, oldest first")
    def history(label: str, tag: str = "final", user: User = Depends(as_user)) -> list[dict[str, Any]]:
        return s.store.history.versions(check_id(label), check_tag(tag))

    @routes.get("/label/version", summary="Download an earlier version of a label")
    def version(label: str, number: int, tag: str = "final", user: User = Depends(as_user)) -> Response:
        path, _ = s.store.history.file(check_id(label), check_tag(tag), number)
        return FileResponse(path, filename=f"{label}{path.name[6:]}")

    @routes.post("/label/restore", summary="Make an earlier version of a label the current one")
    def restore(label: str, number: int, tag: str = "final", user: User = Depends(as_annotator)) -> dict[str, Any]:
        s.store.restore_label(label, tag, number, user.username)
        s.audit.write("restore", user.username, image=label, tag=tag, number=number)
        return {"label": label, "tag": tag, "restored": number}

    @routes.get("/dataset", summary="Every image with a final label, as a ZIP")
    def dataset(limit_cases: int | None = None, user: User = Depends(as_annotator)) -> Response:
        if not s.store.get_labeled_images():
            raise Refusal(404, "no image has a final label yet: save one first.")
        path = s.store.get_dataset_archive(limit_cases)
        return FileResponse(path, filename="dataset.zip", background=BackgroundTask(os.unlink, path))

    return routes
