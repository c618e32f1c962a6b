"""Fine-tuning on corrections: /train."""

from typing import Any

from fastapi import APIRouter, Body, Depends

from ..auth import User, as_admin, as_user
from ..refusals import Refusal
from ..services import Services


def router(s: Services) -> APIRouter:
    routes = APIRouter(tags=["Train"])

    @routes.get("/train/", summary="How training goes")
    def train_status(all: bool = False, check_if_running: bool = False, user: User = Depends(as_user)) -> Any:
        return s.trainings.status(all, check_if_running)

    @routes.post("/train/{model}", summary="Fine-tune a model on the corrections")
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

    @routes.post("/train/", include_in_schema=False)
    def train_all(params: dict[str, Any] | None = Body(None), user: User = Depends(as_admin)) -> Any:
        own = (params or {}).get("rnca_refine", params or {})
        return {"rnca_refine": {"result": s.trainings.start(own, user.username), "detail": None}}

    @routes.delete("/train/", summary="End the training that runs; it can be resumed")
    def train_stop(user: User = Depends(as_admin)) -> Any:
        return s.trainings.stop(user.username)

    return routes
