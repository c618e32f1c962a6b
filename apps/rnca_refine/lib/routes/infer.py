"""Whole masks: /infer, as stock clients call it."""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, File, Form, UploadFile
from fastapi.responses import JSONResponse, Response
from requests_toolbelt import MultipartEncoder

from ..auth import User, as_user
from ..infers import KEY, Inputs
from ..params import parse_json, parse_params
from ..refusals import Left, Refusal
from ..services import Services, digest
from ..uploads import request_folder

OUTPUTS = ("image", "json", "all", "dicom_seg")


def router(s: Services) -> APIRouter:
    routes = APIRouter(tags=["Infer"])

    @routes.post("/infer/{model}", summary="Refine a mask and get it back whole")
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

    return routes


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
