"""The versions of the models: /rnca/models, and /model as stock clients ask for it."""

from typing import Any

from fastapi import APIRouter, Depends
from fastapi.responses import FileResponse, Response

from ..auth import User, as_admin, as_user
from ..refusals import Refusal
from ..services import Services


def router(s: Services) -> APIRouter:
    routes = APIRouter(tags=["Models"])

    def shown(record: Any) -> dict[str, Any]:
        about = s.models.registry.metadata(record)
        active = s.models.registry.active(record.name)
        return {
            **record.__dict__,
            "active": active.version == record.version,
            "description": about.description,
            "licence": about.licence,
            "dims": about.dims,
            "steps": about.steps,
            "figures": about.headline,
        }

    @routes.get("/rnca/models", summary="Every version of every model")
    def models(user: User = Depends(as_user)) -> dict[str, Any]:
        known = s.models.registry
        return {name: [shown(r) for r in known.versions(name)] for name in known.names()}

    @routes.post("/rnca/models/{name}/activate", summary="Use this version from now on")
    def activate(name: str, version: str, user: User = Depends(as_admin)) -> dict[str, Any]:
        before = s.models.registry.active(name)
        s.models.registry.load(s.models.registry.record(name, version))  # only what can be loaded becomes active
        record = s.models.registry.activate(name, version, user.username)
        s.audit.write(
            "activate", user.username, model=name, version=version, sha256=record.sha256, before=before.version
        )
        return shown(record)

    @routes.get("/rnca/models/{name}/download", summary="The archive of a version")
    def download(name: str, version: str | None = None, user: User = Depends(as_user)) -> Response:
        record = s.models.registry.record(name, version)
        return FileResponse(s.models.registry.path(record), filename=f"{name}-{record.version}.ts")

    @routes.get("/rnca/models/{name}/report", summary="The gate's report on a version")
    def gate_report(name: str, version: str | None = None, user: User = Depends(as_user)) -> dict[str, Any]:
        return shown(s.models.registry.record(name, version))

    @routes.get("/model/info/{model}", summary="As MONAI Label tells of a model")
    def model_info(model: str, user: User = Depends(as_admin)) -> dict[str, Any]:
        record = s.models.active(s.models.default)
        path = s.models.registry.path(record)
        return {"checksum": f"SHA256:{record.sha256}", "modified_time": int(path.stat().st_mtime)}

    @routes.get("/model/{model}", summary="As MONAI Label sends a model")
    def model_file(model: str, user: User = Depends(as_admin)) -> Response:
        if model not in s.app._infers:
            raise Refusal(404, "there is no task of this name: see /info/.")
        record = s.models.active(s.models.default)
        return FileResponse(s.models.registry.path(record), filename=f"{model}.ts")

    return routes
