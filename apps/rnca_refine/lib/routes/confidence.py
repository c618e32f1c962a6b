"""How sure the model is of each voxel: /rnca/confidence."""

import asyncio
from typing import Any

import numpy as np
from fastapi import APIRouter, Depends, File, Form, UploadFile

from rnca.geometry import Grid, bounding_box
from rnca.rollout import confidence

from ..auth import User, as_user
from ..params import parse_json, parse_params
from ..refusals import Refusal
from ..repair import read_labels, region_of
from ..services import Services
from ..stream import packed, pairs
from ..uploads import request_folder

ROLLOUTS = 8


def router(s: Services) -> APIRouter:
    routes = APIRouter(prefix="/rnca", tags=["rNCA"])

    @routes.post("/confidence", summary="The share of stochastic rollouts that agree with the repair about a voxel")
    async def measure(
        image: str = "",
        session_id: str = "",
        params: str = Form("{}"),
        file: UploadFile | None = File(None),
        label: UploadFile | None = File(None),
        user: User = Depends(as_user),
    ) -> dict[str, Any]:
        asked = parse_params(parse_json(params), s.state.most_steps)
        if asked.label == "all":
            raise Refusal(400, "confidence is measured for one label at a time: name it.")

        def work() -> dict[str, Any]:
            with request_folder(s.state.tmp) as folder:
                path, name = s.find_image(image, session_id, file, folder)
                mask_path, _ = s.find_mask(label, name, asked, folder)
                mask = s.read_mask(mask_path)
                picture = s.picture(path, folder)
                model, record = s.models.get(asked.model, asked.device, Grid.of(mask).shape)
                grid, _, (value,) = read_labels(mask, picture, asked)
                share = confidence(
                    picture.image,
                    mask,
                    model,
                    asked.steps,
                    label=value,
                    roi=region_of(asked, grid.shape),
                    device=asked.device,
                    rollouts=ROLLOUTS,
                )
                box = bounding_box(share < 1)
                values = np.rint(share[box] * 255).astype(np.uint8).tobytes() if box is not None else b""
                told = {"model": record.name, "version": record.version, "rollouts": ROLLOUTS}
                return {**told, "bbox": pairs(box), "confidence": packed(values)}

        return await asyncio.wrap_future(s.workers.submit(work))

    return routes
