"""The HTTP interface: MONAI Label's own addresses, as its clients call them, and those of this project under /rnca.

Every handler leaves the event loop for whatever takes time: short work goes to the usual thread pool, refinements to
the bounded workers, training to a process of its own.
"""

import asyncio
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Body, Depends, File, Form, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response
from requests_toolbelt import MultipartEncoder
from starlette.background import BackgroundTask

from rnca.geometry import Grid

from .auth import User, as_admin, as_annotator, as_user
from .datastore import check_id, check_tag
from .infers import KEY, RESEARCH, Inputs
from .params import parse_json, parse_params
from .refusals import Left, Refusal
from .repair import EMPTY, prepare, read_labels
from .services import Services, digest
from .state import MEBI
from .stream import Lines, Stream, run
from .uploads import request_folder, store, store_series, unpack

OUTPUTS = ("image", "json", "all", "dicom_seg")


def routers(services: Services) -> list[APIRouter]:
    """Every route of the app."""
    return [make(services) for make in (_infer, _live, _sessions, _datastore, _work, _registry)]


def _infer(s: Services) -> APIRouter:
    router = APIRouter(tags=["Infer"])

    @router.post("/infer/{model}", summary="Refine a mask and get it back whole")
    async def infer(
        model: str,
        image: str = "",
        session_id: str = "",
        output: str = "all",
        params: str = Form("{}"),
        file: UploadFile | None = File(None),
        label: UploadFile | None = File(None),
        user: User = Depends(as_user),
    ) -> Response:
        if output not in OUTPUTS:
            raise Refusal(400, f"output is one of {', '.join(OUTPUTS)}.")
        values = parse_json(params)
        asked = parse_params(values, s.state.most_steps)
        left = threading.Event()

        def work() -> Response:
            with request_folder(s.state.tmp) as folder:
                path, name = s.find_image(image, session_id, file, folder)
                mask_path, tag = s.find_mask(label, name, asked, folder)
                mask = s.read_mask(mask_path)
                extension = next((e for e in (".nii.gz", ".nrrd", ".nii") if mask_path.name.endswith(e)), None)
                inputs = Inputs(
                    s.picture(path, folder),
                    mask,
                    extension or mask_path.suffix.replace(".mhd", ".mha"),
                    asked,
                    folder,
                    s.names(name, values.get("label_info")),
                )
                if left.is_set():
                    raise Left
                result = s.app.infer({"model": model, "image": name or "", KEY: inputs})
                s.images.trim()
                told, out = result["params"], Path(result["file"])
                s.audit.write(
                    "refine",
                    user.username,
                    image=name,
                    mask=tag,
                    model=told["model"],
                    version=told["version"],
                    steps=told["steps"],
                    image_sha256=digest(path),
                    mask_sha256=digest(mask_path),
                    result_sha256=digest(out),
                )
                if output == "json":
                    return JSONResponse(told)
                if output == "dicom_seg":
                    return Response(s.app.dicom_seg(name, out, values), media_type="application/dicom")
                return _file_response(out) if output == "image" else _both(told, out)

        future = s.workers.submit(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            left.set()
            raise

    return router


def _file_response(path: Path) -> Response:
    headers = {"content-disposition": f'attachment; filename="{path.name}"'}
    return Response(path.read_bytes(), media_type="application/octet-stream", headers=headers)


def _both(told: dict[str, Any], path: Path) -> Response:
    """What stock clients expect: a multipart body with the JSON as `params` and the mask as `image`."""
    with path.open("rb") as file:
        fields = {
            "params": (None, json.dumps(told), "application/json"),
            "image": (path.name, file, "application/octet-stream"),
        }
        message = MultipartEncoder(fields=fields)
        return Response(content=message.to_string(), media_type=message.content_type)


def _live(s: Services) -> APIRouter:
    router = APIRouter(prefix="/rnca", tags=["rNCA"])

    @router.post("/refine", summary="Refine a mask and watch: a line of JSON for each step")
    async def refine(
        image: str = "",
        session_id: str = "",
        params: str = Form("{}"),
        file: UploadFile | None = File(None),
        label: UploadFile | None = File(None),
        user: User = Depends(as_user),
    ) -> Any:
        asked = parse_params(parse_json(params), s.state.most_steps)
        if asked.label == "all":
            raise Refusal(400, "the live stream repairs one label at a time: name it, or use /infer/rnca_refine.")
        lines = Lines(asyncio.get_running_loop())

        def work() -> None:
            with request_folder(s.state.tmp) as folder:
                digests: dict[str, Any] = {}
                kept: dict[str, Any] = {}

                def ready() -> Any:
                    path, name = s.find_image(image, session_id, file, folder)
                    mask_path, tag = s.find_mask(label, name, asked, folder)
                    mask = s.read_mask(mask_path)
                    picture = s.picture(path, folder)
                    model, record = s.models.get(asked.model, asked.device)
                    grid, values, (value,) = read_labels(mask, picture, asked)
                    repair = prepare(grid, values, value, picture, model, asked)
                    digests.update(image=name, mask=tag, path=path, mask_path=mask_path)
                    kept.update(grid=grid)
                    more = {"message": EMPTY} if repair.box is None else {}
                    return repair, record, {**more, "notice": RESEARCH}

                def done(repair: Any, record: Any, now: Any, index: int, seconds: float, reason: str) -> None:
                    s.audit.write(
                        "refine",
                        user.username,
                        image=digests["image"],
                        mask=digests["mask"],
                        model=record.name,
                        version=record.version,
                        steps=index,
                        reason=reason,
                        image_sha256=digest(digests["path"]),
                        mask_sha256=digest(digests["mask_path"]),
                    )
                    if digests["image"] is not None and repair.box is not None:
                        info = {
                            "model": record.name,
                            "version": record.version,
                            "steps": index,
                            "seconds": seconds,
                            "accepted": None,
                            "user": user.username,
                            "label": repair.label,
                        }
                        grid: Grid = kept["grid"]
                        s.corrections.keep(
                            digests["image"], grid.wrap(repair.values), grid.wrap(repair.write(now)), info
                        )

                run(lines, ready, asked.every, done)
                s.images.trim()

        s.running.add(lines, user.username)
        try:
            future = s.workers.submit(work)
        except BaseException:
            s.running.remove(lines)
            raise

        def ended() -> None:
            s.running.remove(lines)
            future.cancel()

        return _Raw(lines, ended)

    @router.get("/status", summary="How busy the server is")
    async def status(user: User = Depends(as_user)) -> dict[str, Any]:
        return {"refinements": s.workers.load, "training": s.trainings.running, "models": s.models.default}

    @router.post("/refine/{name}/stop", summary="End a live refinement with the mask it has")
    async def stop(name: str, user: User = Depends(as_user)) -> dict[str, Any]:
        s.running.stop(name, user.username)
        return {"stopped": name}

    return router


class _Raw(Response):
    """A response that is the stream itself."""

    def __init__(self, lines: Lines, ended: Callable[[], None]) -> None:
        super().__init__()
        self._stream = Stream(lines, ended)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._stream(scope, receive, send)


def _sessions(s: Services) -> APIRouter:
    router = APIRouter(prefix="/session", tags=["Session"])

    @router.put("/", summary="Upload an image, or the slices of a DICOM series, for a while")
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

    @router.get("/{session_id}", summary="Whether a session is still there")
    def show(session_id: str, update_ts: bool = False, image: bool = False, user: User = Depends(as_user)) -> Any:
        path = s.sessions.image(session_id, touch=update_ts)
        if image:
            if path.is_dir():
                raise Refusal(400, "the session holds a DICOM series, which is not sent back as one file.")
            return FileResponse(path, filename=path.name)
        return s.sessions.describe(session_id)

    @router.delete("/{session_id}", summary="End a session")
    def remove(session_id: str, user: User = Depends(as_user)) -> dict[str, Any]:
        return s.sessions.remove(session_id)

    return router


def _datastore(s: Services) -> APIRouter:
    router = APIRouter(prefix="/datastore", tags=["Datastore"])

    def described(info: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in info.items() if k != "path"}

    def file_of(kind: str, path: str) -> Path:
        if not path or not Path(path).exists():
            raise Refusal(404, f"there is no such {kind} in the datastore: see the list of images and labels.")
        return Path(path)

    @router.get("/", summary="What is in the datastore")
    def content(output: str = "stats", user: User = Depends(as_user)) -> Any:
        if output not in ("stats", "all", "train"):
            raise Refusal(400, "output is one of stats, all, train.")
        if output == "train":
            return [{"image": Path(p["image"]).name, "label": Path(p["label"]).name} for p in s.store.datalist()]
        return s.store.json() if output == "all" else s.store.status()

    @router.put("/", summary="Add an image")
    @router.put("/image", summary="Add an image")
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

    @router.delete("/", summary="Remove an image and its labels; an administrator finds them in the state folder")
    @router.delete("/image", include_in_schema=False)
    def remove_image(id: str, user: User = Depends(as_admin)) -> dict[str, Any]:
        s.store.remove_image(check_id(id))
        s.audit.write("remove image", user.username, image=id)
        return {}

    @router.head("/image", summary="Whether there is such an image")
    @router.get("/image", summary="Download an image")
    def get_image(image: str, check_sum: str | None = None, user: User = Depends(as_user)) -> Response:
        path = file_of("image", s.store.get_image_uri(check_id(image)))
        if path.is_dir():
            raise Refusal(400, "this image is a DICOM series, which is not sent as one file.")
        if check_sum and check_sum.rpartition(":")[2].lower() != digest(path):
            raise Refusal(404, "the image has another SHA-256: upload it again.")
        return FileResponse(path, filename=path.name)

    @router.get("/image/info", summary="What is known of an image")
    def image_info(image: str, user: User = Depends(as_user)) -> dict[str, Any]:
        file_of("image", s.store.get_image_uri(check_id(image)))
        return described(s.store.get_image_info(image))

    @router.put("/image/info", summary="Add to what is known of an image")
    def put_image_info(image: str, info: str = Form("{}"), user: User = Depends(as_annotator)) -> None:
        s.store.update_image_info(image, {**parse_json(info, "info"), "user": user.username})

    @router.put("/label", summary="Save a label; without a tag it is the final one")
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

    @router.delete("/label", summary="Remove a label; its versions stay")
    def remove_label(id: str, tag: str, user: User = Depends(as_admin)) -> dict[str, Any]:
        s.store.remove_label(id, tag)
        s.audit.write("remove label", user.username, image=id, tag=tag)
        return {}

    @router.head("/label", summary="Whether there is such a label")
    @router.get("/label", summary="Download a label")
    def get_label(tag: str, label: str = "", image: str = "", user: User = Depends(as_user)) -> Response:
        path = file_of("label", s.store.get_label_uri(check_id(label or image), check_tag(tag)))
        return FileResponse(path, filename=path.name)

    @router.get("/label/info", summary="What is known of a label")
    def label_info(label: str, tag: str, user: User = Depends(as_user)) -> dict[str, Any]:
        return described(s.store.get_label_info(check_id(label), check_tag(tag)))

    @router.put("/label/info", summary="Add to what is known of a label")
    @router.put("/updatelabelinfo", include_in_schema=False)
    def put_label_info(
        label: str, tag: str, info: str = Form("{}"), params: str = Form("{}"), user: User = Depends(as_annotator)
    ) -> None:
        values = {**parse_json(params), **parse_json(info, "info"), "user": user.username}
        s.store.update_label_info(label, tag, values)

    @router.get("/label/history", summary="Every version of a label, oldest first")
    def history(label: str, tag: str = "final", user: User = Depends(as_user)) -> list[dict[str, Any]]:
        return s.store.history.versions(check_id(label), check_tag(tag))

    @router.get("/label/version", summary="Download an earlier version of a label")
    def version(label: str, number: int, tag: str = "final", user: User = Depends(as_user)) -> Response:
        path, _ = s.store.history.file(check_id(label), check_tag(tag), number)
        return FileResponse(path, filename=f"{label}{path.name[6:]}")

    @router.post("/label/restore", summary="Make an earlier version of a label the current one")
    def restore(label: str, number: int, tag: str = "final", user: User = Depends(as_annotator)) -> dict[str, Any]:
        s.store.restore_label(label, tag, number, user.username)
        s.audit.write("restore", user.username, image=label, tag=tag, number=number)
        return {"label": label, "tag": tag, "restored": number}

    @router.get("/dataset", summary="Every image with a final label, as a ZIP")
    def dataset(limit_cases: int | None = None, user: User = Depends(as_annotator)) -> Response:
        if not s.store.get_labeled_images():
            raise Refusal(404, "no image has a final label yet: save one first.")
        path = s.store.get_dataset_archive(limit_cases)
        return FileResponse(path, filename="dataset.zip", background=BackgroundTask(os.unlink, path))

    return router


def _work(s: Services) -> APIRouter:
    router = APIRouter()

    @router.get("/info/", tags=["App"], summary="What this server offers")
    async def info(user: User = Depends(as_user)) -> JSONResponse:
        return JSONResponse(json.loads(json.dumps(await run_in_threadpool(s.app.info), default=str)))

    @router.post("/activelearning/{strategy}", tags=["ActiveLearning"], summary="The image to look at next")
    def next_sample(
        strategy: str, params: dict[str, Any] | None = Body(None), user: User = Depends(as_user)
    ) -> dict[str, Any]:
        found = s.app.next_sample({**(params or {}), "strategy": strategy})
        if not found:
            return {}
        return {**described_image(found["id"]), **{k: v for k, v in found.items() if k != "path"}}

    def described_image(image: str) -> dict[str, Any]:
        return {k: v for k, v in s.store.get_image_info(image).items() if k != "path"}

    @router.post("/scoring/{method}", tags=["Scoring"], summary="Score every label now")
    def scoring(
        method: str,
        params: dict[str, Any] | None = Body(None),
        run_sync: bool = True,
        user: User = Depends(as_annotator),
    ) -> Any:
        return s.app.scoring({**(params or {}), "method": method})

    @router.get("/train/", tags=["Train"], summary="How training goes")
    def train_status(all: bool = False, check_if_running: bool = False, user: User = Depends(as_user)) -> Any:
        return s.trainings.status(all, check_if_running)

    @router.post("/train/{model}", tags=["Train"], summary="Fine-tune a model on the corrections")
    def train(
        model: str,
        params: dict[str, Any] | None = Body(None),
        run_sync: bool = False,
        enqueue: bool = False,
        user: User = Depends(as_admin),
    ) -> Any:
        if model not in s.app._trainers:
            raise Refusal(404, f"there is no train task of this name: use {', '.join(s.app._trainers)}.")
        return s.trainings.start(params or {}, user.username)

    @router.post("/train/", tags=["Train"], include_in_schema=False)
    def train_all(params: dict[str, Any] | None = Body(None), user: User = Depends(as_admin)) -> Any:
        own = (params or {}).get("rnca_refine", params or {})
        return {"rnca_refine": {"result": s.trainings.start(own, user.username), "detail": None}}

    @router.delete("/train/", tags=["Train"], summary="End the training that runs; it can be resumed")
    def train_stop(user: User = Depends(as_admin)) -> Any:
        return s.trainings.stop(user.username)

    return router


def _registry(s: Services) -> APIRouter:
    router = APIRouter(tags=["Models"])

    def shown(record: Any) -> dict[str, Any]:
        active = s.models.registry.active(record.name)
        return {**record.__dict__, "active": active.version == record.version}

    @router.get("/rnca/models", summary="Every version of every model")
    def models(user: User = Depends(as_user)) -> dict[str, Any]:
        known = s.models.registry
        return {name: [shown(r) for r in known.versions(name)] for name in known.names()}

    @router.post("/rnca/models/{name}/activate", summary="Use this version from now on")
    def activate(name: str, version: str, user: User = Depends(as_admin)) -> dict[str, Any]:
        before = s.models.registry.active(name)
        s.models.registry.load(s.models.registry.record(name, version))  # only what can be loaded becomes active
        record = s.models.registry.activate(name, version, user.username)
        s.audit.write(
            "activate", user.username, model=name, version=version, sha256=record.sha256, before=before.version
        )
        return shown(record)

    @router.get("/rnca/models/{name}/download", summary="The archive of a version")
    def download(name: str, version: str | None = None, user: User = Depends(as_user)) -> Response:
        record = s.models.registry.record(name, version)
        return FileResponse(s.models.registry.path(record), filename=f"{name}-{record.version}.ts")

    @router.get("/rnca/models/{name}/report", summary="The gate's report on a version")
    def gate_report(name: str, version: str | None = None, user: User = Depends(as_user)) -> dict[str, Any]:
        return shown(s.models.registry.record(name, version))

    @router.get("/model/info/{model}", summary="As MONAI Label tells of a model")
    def model_info(model: str, user: User = Depends(as_admin)) -> dict[str, Any]:
        record = s.models.registry.active(s.models.default)
        path = s.models.registry.path(record)
        return {"checksum": f"SHA256:{record.sha256}", "modified_time": int(path.stat().st_mtime)}

    @router.get("/model/{model}", summary="As MONAI Label sends a model")
    def model_file(model: str, user: User = Depends(as_admin)) -> Response:
        if model not in s.app._infers:
            raise Refusal(404, "there is no task of this name: see /info/.")
        record = s.models.registry.active(s.models.default)
        return FileResponse(s.models.registry.path(record), filename=f"{model}.ts")

    return router
