"""functions-framework: how a coroutine becomes an application that its contract describes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import functions_framework.aio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp


def application(name: str, respond: Callable[[Request], Awaitable[Response]]) -> ASGIApp:
    """The HTTP function `name` as an ASGI application: every path and method goes to `respond`.

    Built from an object in memory, not from a source file, so that a process may hold several functions and each is
    imported once.
    """

    @functions_framework.aio.http
    async def function(request: Request) -> Response:
        return await respond(request)

    create: Any = functions_framework.aio.create_asgi_app_from_module
    app: ASGIApp = create(name, __file__, "http", SimpleNamespace(**{name: function}), None)
    return app
