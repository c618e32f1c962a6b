"""The live stream: /rnca/refine, how to stop one, and how busy the server is."""

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends, File, Form, UploadFile
from fastapi.responses import Response

from rnca.geometry import Grid

from ..auth import User, as_user
from ..infers import RESEARCH
from ..params import parse_json, parse_params
from ..refusals import Refusal
from ..repair import EMPTY, prepare, read_labels
from ..services import Services, digest
from ..stream import Lines, Stream, run
from ..uploads import request_folder


def router(s: Services) -> APIRouter:
    routes = APIRouter(prefix="/rnca", tags=["rNCA"])

    @routes.post("/refine", summary="Refine a mask and watch: a line of JSON for each step")
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
                    model, record = s.models.get(asked.model, asked.device, Grid.of(mask).shape)
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

    @routes.get("/status", summary="How busy the server is")
    async def status(user: User = Depends(as_user)) -> dict[str, Any]:
        return {"refinements": s.workers.load, "training": s.trainings.running, "models": s.models.default}

    @routes.post("/refine/{name}/stop", summary="End a live refinement with the mask it has")
    async def stop(name: str, user: User = Depends(as_user)) -> dict[str, Any]:
        s.running.stop(name, user.username)
        return {"stopped": name}

    return routes


class _Raw(Response):
    """A response that is the stream itself."""

    def __init__(self, lines: Lines, ended: Callable[[], None]) -> None:
        super().__init__()
        self._stream = Stream(lines, ended)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._stream(scope, receive, send)
