"""What stands between the network and MONAI Label: where requests may come from, their size, what is switched off.

`harden` is called once, when MONAI Label has made its FastAPI app and before the first request is answered. It takes
out every stock route that this app replaces or does not offer, and puts one layer around the rest.
"""

import gc
import ipaddress
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from monailabel.config import settings
from monailabel.endpoints.user import auth as stock
from monailabel.interfaces.exception import MONAILabelException
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware import Middleware

from rnca import InputError

from .auth import current_user
from .refusals import Refusal, told
from .state import MEBI
from .stream import report

KEPT = ("/docs", "/openapi.json", "/static", "/favicon.ico", "/auth", "/")
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip")


def harden(app: FastAPI, routers: Sequence[APIRouter], upload_mib: int) -> None:
    """Replace the stock routes by ours and close what is open."""
    stays = [r for r in app.router.routes if _path(r) == "/" or _path(r).startswith(KEPT[:-1])]
    app.router.routes[:] = stays
    app.dependency_overrides[stock.get_current_user] = current_user
    for router in routers:
        app.include_router(router, prefix=settings.MONAI_LABEL_API_STR)
    for kind in (
        Refusal,
        InputError,
        MONAILabelException,
        RequestValidationError,
        HTTPException,
        StarletteHTTPException,
    ):
        app.add_exception_handler(kind, _answer)
    origins = [str(origin).rstrip("/") for origin in settings.MONAI_LABEL_CORS_ORIGINS]
    app.user_middleware[:] = [Middleware(Gate, most_bytes=upload_mib * MEBI, origins=origins)]
    if origins:
        cors = Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
        app.user_middleware.append(cors)
    logging.getLogger("rnca").info(
        "web pages that may call: those of this server%s", "".join(f", {o}" for o in origins)
    )
    app.middleware_stack = app.build_middleware_stack()  # the one from before was built without them
    _listen_where_told()


def _path(route: Any) -> str:
    return str(getattr(route, "path", ""))


def _listen_where_told() -> None:
    """MONAI Label's start_server listens on every address unless told; this one on its own computer's unless told.

    The app is made before the server binds its address, and no setting reaches it from here, so the server itself is
    looked for. Refuses to start where others could come in without logging in.
    """
    import uvicorn

    told_host = (
        any(a in ("-i", "--host") or a.startswith("--host=") for a in sys.argv) or "RNCA_SERVE_HOST" in os.environ
    )
    for server in [o for o in gc.get_objects() if isinstance(o, uvicorn.Server)]:
        config = server.config
        if not told_host and config.host == "0.0.0.0" and config.fd is None and config.uds is None:
            config.host = "127.0.0.1"
        if not settings.MONAI_LABEL_AUTH_ENABLE and not _is_local(config.host):
            raise InputError(
                f"others could reach {config.host} without logging in: set MONAI_LABEL_AUTH_ENABLE=true and"
                " MONAI_LABEL_AUTH_REALM_URI, or listen on 127.0.0.1."
            )


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


async def _answer(_: Any, error: Exception) -> JSONResponse:
    """Every refusal is one sentence in JSON."""
    headers = dict(getattr(error, "headers", None) or {})
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = str(first.get("loc", ["request"])[-1])[:60]
        status, sentence = 400, f"{where}: {str(first.get('msg', 'not valid')).lower()}."
    elif isinstance(error, MONAILabelException):
        status, sentence = 400, str(error.msg)
    elif isinstance(error, StarletteHTTPException):
        status, sentence = error.status_code, str(error.detail)
        if status == 404 and sentence == "Not Found":
            sentence = "there is nothing under this address: see /docs for what there is."
        if status == 405:
            sentence = "this address does not take this method: see /docs for what there is."
    else:
        status, sentence = told(error)
    if isinstance(error, Refusal) and error.retry_after:
        headers["Retry-After"] = str(error.retry_after)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"detail": sentence}, status, headers)


class Gate:
    """The outermost layer (ASGI): origin, host, size, and an answer of one sentence whatever goes wrong inside."""

    def __init__(self, app: Any, most_bytes: int, origins: list[str]) -> None:
        self.app, self.most_bytes, self.origins = app, most_bytes, origins

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, value)
        refused = self._refused(scope, headers)
        if refused is not None:
            await _send(send, *refused)
            return
        guard = _Guard(receive, send, self.most_bytes)
        try:
            await self.app(scope, guard.receive, guard.send)
        except Exception as error:
            if guard.too_large and guard.started:
                return
            status, sentence = told(error)
            if status == 500:
                report(error)
            if guard.started:
                raise ConnectionAbortedError from None  # nothing sensible can follow half an answer
            await _send(send, status, sentence)

    def _refused(self, scope: Any, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.most_bytes:
            return 413, f"the request is larger than {self.most_bytes // MEBI} MiB: send less, or raise the limit."
        origin = headers.get(b"origin", b"").decode("latin-1")
        host = headers.get(b"host", b"").decode("latin-1")
        if origin and origin not in self.origins and origin.partition("://")[2] != host:
            return 403, "requests of web pages from elsewhere are refused: name the page in MONAI_LABEL_CORS_ORIGINS."
        if settings.MONAI_LABEL_AUTH_ENABLE:
            return None
        peer = (scope.get("client") or ("",))[0]
        if not _is_local(peer) or any(name in headers for name in FORWARDED):
            return (
                403,
                "requests from other computers need a login, which is switched off: set MONAI_LABEL_AUTH_ENABLE.",
            )
        if host and _name(host) not in LOCAL_NAMES:
            return 403, "the server was called by another name than localhost, which needs a login: use 127.0.0.1."
        return None


def _name(host: str) -> str:
    """The host of a Host header, without the port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].lower()


class _Guard:
    """Counts what comes in, and remembers whether an answer has begun."""

    def __init__(self, receive: Any, send: Any, most: int) -> None:
        self._receive, self._send, self._left, self._most = receive, send, most, most
        self.started = self.too_large = False

    async def receive(self) -> Any:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                self.too_large = True
                raise Refusal(413, f"the request is larger than {self._most // MEBI} MiB: send less.")
        return message

    async def send(self, message: Any) -> None:
        if self.too_large:  # FastAPI makes 400 or 500 of whatever happens while it reads a body
            if not self.started:
                self.started = True
                await _send(self._send, 413, f"the request is larger than {self._most // MEBI} MiB: send less.")
            return
        if message["type"] == "http.response.start":
            self.started = True
            message["headers"] = [*message.get("headers", []), (b"x-content-type-options", b"nosniff")]
        await self._send(message)


async def _send(send: Any, status: int, sentence: str) -> None:
    body = json.dumps({"detail": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})


def quiet_logs() -> None:
    """Requests, ids and file names are not logged: they may name a patient. Warnings of the libraries stay."""
    for name in ("monailabel", "filelock", "dicomweb_client", "urllib3", "httpx", "pydicom", "multipart", "timeloop"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("uvicorn.access").setLevel(logging.CRITICAL)
    logging.getLogger("rnca").setLevel(logging.INFO)
