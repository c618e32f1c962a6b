"""Which case is worth the time: /activelearning and /scoring."""

from typing import Any

from fastapi import APIRouter, Body, Depends

from ..auth import User, as_annotator, as_user
from ..services import Services


def router(s: Services) -> APIRouter:
    routes = APIRouter()

    @routes.post("/activelearning/{strategy}", tags=["ActiveLearning"], summary="The image to look at next")
    def next_sample(
        strategy: str, params: dict[str, Any] | None = Body(None), user: User = Depends(as_user)
    ) -> dict[str, Any]:
        found = s.app.next_sample({**(params or {}), "strategy": strategy})
        if not found:
            return {}
        return {**described_image(found["id"]), **{k: v for k, v in found.items() if k != "path"}}

    def described_image(image: str) -> dict[str, Any]:
        return {k: v for k, v in s.store.get_image_info(image).items() if k != "path"}

    @routes.post("/scoring/{method}", tags=["Scoring"], summary="Score every label now")
    def scoring(
        method: str,
        params: dict[str, Any] | None = Body(None),
        run_sync: bool = True,
        user: User = Depends(as_annotator),
    ) -> Any:
        return s.app.scoring({**(params or {}), "method": method})

    return routes
