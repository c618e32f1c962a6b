"""Who may see the page: whoever has the address that the command printed.

The page holds images and is served on this computer only, where others may be logged in too, and where a page of the
web that is open in the same browser could ask for it. So the address carries a random key, once; it becomes a cookie
that other sites cannot use, and without it nothing is answered.
"""

import secrets
from collections.abc import Awaitable, Callable
from hmac import compare_digest
from typing import Any

REFUSED = "This page is private: open the address that `rnca view` printed in the terminal.\n"


def new_key() -> str:
    """A key that nobody guesses."""
    return secrets.token_urlsafe(18)


def guard(key: str, port: int) -> Any:
    """An aiohttp middleware that lets in who has the key."""
    from aiohttp import web

    cookie = f"rnca-view-{port}"

    @web.middleware
    async def only_with_key(request: web.Request, handler: Callable[[web.Request], Awaitable[Any]]) -> Any:
        if compare_digest(request.cookies.get(cookie, ""), key):
            return await handler(request)
        if compare_digest(request.query.get("key", ""), key):
            answer = web.HTTPFound("/index.html")
            answer.set_cookie(cookie, key, httponly=True, samesite="Strict", path="/")
            raise answer
        return web.Response(status=403, text=REFUSED)

    return only_with_key
