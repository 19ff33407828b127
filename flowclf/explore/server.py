"""Server of the page: on the loopback address, for whoever holds the token alone."""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from flowclf.data.fitting import made_to_fit
from flowclf.data.pictures import decode
from flowclf.explore.explorer import Explorer
from flowclf.explore.page import POLICY, page
from flowclf.support.errors import UserError

__all__ = ["TOKEN_HEADER", "application", "open_socket", "serve"]

TOKEN_HEADER = "x-flowclf-token"
MOST_BYTES = {"application/json": 2**20, "image/png": 2**23, "image/jpeg": 2**23,
              "image/bmp": 2**23}  # fmt: skip
MOST_CONNECTIONS = 256  # and questions that wait for their turn; others get status 503
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def open_socket(port: int) -> socket.socket:
    """Listen on 127.0.0.1, on a free port if `port` is 0.

    Raises:
        UserError: the port is taken, or not ours to take.
    """
    try:
        listening = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise UserError(
            f"expected a free port, got --port {port} ({error}); take another, or 0 for any"
        ) from None
    # Connections inherit it; without it each answer waits 40 ms for the acknowledgement of its
    # head. asyncio sets it on sockets that name their protocol alone.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def serve(explorers: Sequence[Explorer], listening: socket.socket, token: str) -> None:
    """Answer until the process is interrupted."""
    app = application(explorers, token, listening.getsockname()[1])
    config = uvicorn.Config(
        app, log_level="critical", access_log=False, server_header=False, lifespan="off", ws="none",
        limit_concurrency=MOST_CONNECTIONS, timeout_keep_alive=5, timeout_graceful_shutdown=1,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listening])


def application(explorers: Sequence[Explorer], token: str, port: int) -> ASGIApp:
    """Return the server as an ASGI application.

    GET  /?token=…              the page
    POST /call/RUN/NAME         a question of `explorer.CALLS`: JSON to JSON
    POST /picture/RUN           a PNG, JPEG or BMP file to an x of that run's shape
    """

    async def show(request: Request) -> Response:
        return Response(page({"runs": len(explorers)}), media_type="text/html")

    async def call(request: Request) -> Response:
        explorer = _run(explorers, request)
        arguments = _json(await _body(request, ("application/json",)))
        return await answer(lambda: explorer.call(request.path_params["name"], arguments))

    async def picture(request: Request) -> Response:
        explorer = _run(explorers, request)
        kinds = ("image/png", "image/jpeg", "image/bmp")
        body = await _body(request, kinds)
        return await answer(lambda: _fitted(explorer, body))

    async def answer(question: Callable[[], Mapping[str, Any]]) -> Response:
        found = await run_in_threadpool(question)
        return Response(json.dumps(found, allow_nan=False), media_type="application/json")

    routes = [
        Route("/", show),
        Route("/call/{run:int}/{name}", call, methods=["POST"]),
        Route("/picture/{run:int}", picture, methods=["POST"]),
    ]
    refusals: Any = {UserError: _user_error, ValidationError: _validation_error, _Refusal: _refusal}
    app = Starlette(routes=routes, exception_handlers=refusals)
    return _Guard(app, token, port)


class _Guard:
    """Let pass who asks this very host, from its own page, with the token; add safe headers."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self.app, self.token = app, token.encode()
        self.hosts = {f"{name}:{port}".encode() for name in ("127.0.0.1", "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_safely(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self.app)(scope, receive, send_safely)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = scope["headers"]
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or hosts[0] not in self.hosts:
            return _refused(421, "expected the host that flowclf explore printed")
        origins = [value for name, value in headers if name == b"origin"]
        if any(origin.removeprefix(b"http://") not in self.hosts for origin in origins):
            return _refused(403, "expected a request of the page itself, got another origin")
        given = [value for name, value in headers if name == TOKEN_HEADER.encode()]
        query = Request(scope).query_params.getlist("token")
        found = given or [text.encode("utf-8", "replace") for text in query]
        if len(found) != 1 or not secrets.compare_digest(found[0], self.token):
            return _refused(403, "expected the address with its token, as flowclf explore printed")
        return None


class _Refusal(Exception):  # noqa: N818
    """A request that is refused, with its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _run(explorers: Sequence[Explorer], request: Request) -> Explorer:
    number = request.path_params["run"]
    if number >= len(explorers):
        raise _Refusal(404, f"expected a run below {len(explorers)}")
    return explorers[number]


async def _body(request: Request, kinds: Sequence[str]) -> bytes:
    """Read the body, of one of the media types and no longer than its type may be."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in kinds:
        raise _Refusal(415, f"expected {' or '.join(kinds)}, got {kind[:40]!r}")
    most = MOST_BYTES[kind]
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise _Refusal(413, f"expected at most {most:,} bytes")
    return bytes(body)


def _json(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise _Refusal(400, "expected a JSON object") from None
    if not isinstance(found, dict):
        raise _Refusal(400, "expected a JSON object")
    return found


def _fitted(explorer: Explorer, file: bytes) -> dict[str, Any]:
    """Return a picture as an x of the run, and how it was changed."""
    wire = explorer.wire
    if wire.levels is None:
        raise UserError("expected a model of images: it takes rows of numbers")
    pixels = np.asarray(decode(BytesIO(file), "picture"))
    x = torch.from_numpy(pixels.copy()).view(1, *pixels.shape[:2], -1).movedim(-1, 1)
    x, notices = made_to_fit("picture", x, 256, wire.shape, wire.levels, resize=True)
    return {"x": wire.pack(x), "notices": list(notices)}


def _refused(status: int, message: str) -> Response:
    return Response(json.dumps({"error": message}), status, media_type="application/json")


async def _refusal(request: Request, error: _Refusal) -> Response:
    return _refused(error.status, str(error))


async def _user_error(request: Request, error: UserError) -> Response:
    return _refused(400, str(error))


async def _validation_error(request: Request, error: ValidationError) -> Response:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))[:80]
    return _refused(400, f"{where}: {first['msg']}")
