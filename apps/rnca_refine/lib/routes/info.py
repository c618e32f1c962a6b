"""What the server offers: /info."""

import json

from fastapi import APIRouter, Depends
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from ..auth import User, as_user
from ..services import Services


def router(s: Services) -> APIRouter:
    routes = APIRouter(tags=["App"])

    @routes.get("/info/", summary="What this server offers")
    async def info(user: User = Depends(as_user)) -> JSONResponse:
        return JSONResponse(json.loads(json.dumps(await run_in_threadpool(s.app.info), default=str)))

    return routes
