"""The web server of the page: what is asked at which path. access.py has judged a request before.

    /PLACE/             the page            static/…    its scripts and styles
    live                what is new, by server-sent events
    do/METHOD           a method of the control socket; parameters and result in JSON
    doctor  qr          what `tunfwd doctor` finds; a text as a QR code

Every call has a connection to the daemon of its own, in a thread. Nothing is kept but what model.py keeps.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import uvicorn
from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from tunfwd.common.errors import UserError
from tunfwd.control import api
from tunfwd.control.protocol import MAX_REQUEST
from tunfwd.web.access import Gate, Tokens
from tunfwd.web.model import Asking, Connect, Model, Told

STATIC: Final = Path(__file__).parent / "static"
INTERVAL: Final = 1.0  # s between two looks at the daemon while a page is open …
UNWATCHED: Final = 5.0  # … and while none is
HEARTBEAT: Final = 10.0  # s after which a page hears that we are there, and we, whether it is
CALLS: Final = 8  # to the daemon at a time; it serves 64 connections
MAX_PAGES: Final = 32  # requests at a time, of which a page holds one
MAX_QR: Final = 1024  # characters
END_TIME: Final = 2  # s for answers under way when we end

ACTIONS: Final[Mapping[str, api.Method[Any, Any]]] = {
    method.name: method
    for method in (
        *(api.FRIEND_ADD, api.FRIEND_ACCEPT, api.FRIEND_REJECT, api.FRIEND_RENAME, api.FRIEND_REMOVE),
        *(api.OFFER_ADD, api.OFFER_ACCEPT, api.OFFER_DENY, api.OFFER_PAUSE, api.OFFER_RESUME),
        *(api.REQUEST, api.LEAVE, api.KILL, api.PING),
        *(api.SHARE, api.INVITE_REVOKE, api.JOIN, api.JOIN_STATUS),
        *(api.GROUP_CREATE, api.GROUP_JOIN, api.GROUP_LEAVE, api.GROUP_SHARE, api.GROUP_INVITE),
        *(api.GROUP_PEERS, api.GROUP_KICK, api.GROUP_BAN, api.GROUP_UNBAN, api.GROUP_BANNED),
        *(api.CONFERENCE_JOIN, api.CONFERENCE_LEAVE, api.CONFERENCE_INVITE, api.CONFERENCE_PEERS),
    )
}
LOOKS: Final = frozenset({api.GROUP_PEERS.name, api.GROUP_BANNED.name, api.CONFERENCE_PEERS.name})
"""Those that change nothing, and are called again and again."""
STATUS_OF: Final = {"usage": 400, "not_found": 404, "no_daemon": 503, "timeout": 504}

Doctor = Callable[[], list[api.Check]]
QrRows = Callable[[str], list[str]]


class Live:
    """Looks at the daemon again and again, and tells the pages."""

    def __init__(self, connect: Connect) -> None:
        self._asking = Asking(connect)
        self._model = Model()
        self._news = asyncio.Event()  # another one after each look
        self._hurry = asyncio.Event()
        self._pages = 0
        self._ended = False

    def hurry(self) -> None:
        """Look at once: something was changed, or a page was opened."""
        self._hurry.set()

    def end(self) -> None:
        """End the streams to all pages."""
        self._ended = True
        self._news.set()

    async def run(self) -> None:
        """Look until cancelled."""
        try:
            while True:
                self._hurry.clear()
                self._model.take_in(await to_thread.run_sync(self._asking.ask, self._model.cursor))
                if not self._ended:
                    self._news.set()
                    self._news = asyncio.Event()
                await _set_within(self._hurry, INTERVAL if self._pages else UNWATCHED)
        finally:
            self._asking.close()

    async def stream(self) -> AsyncIterator[str]:
        """Yield what is new to one page, as server-sent events."""
        told = Told()
        self._pages += 1
        try:
            yield "retry: 1000\n\n"
            self.hurry()
            while not self._ended:
                more = self._news
                for part, text in self._model.news(told):
                    yield f"event: {part}\ndata: {text}\n\n"
                if not await _set_within(more, HEARTBEAT):
                    yield ": still here\n\n"
        finally:
            self._pages -= 1


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True


class Page:
    """The application: its routes."""

    def __init__(self, connect: Connect, doctor: Doctor, qr: QrRows) -> None:
        self.live = Live(connect)
        self._connect = connect
        self._doctor = doctor
        self._qr = qr
        self._calls: CapacityLimiter

    def application(self, tokens: Tokens) -> Starlette:
        """Return it behind its gate."""
        routes = [
            Route("/", self._index),
            Route("/live", self._live),
            Route("/do/{method}", self._do, methods=["POST"]),
            Route("/doctor", self._look_around),
            Route("/qr", self._draw, methods=["POST"]),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
        return Starlette(
            routes=[Mount(tokens.entrance, routes=routes)],
            middleware=[Middleware(Gate, tokens=tokens)],
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, application: Starlette) -> AsyncIterator[None]:
        self._calls = CapacityLimiter(CALLS)
        looking = asyncio.create_task(self.live.run())
        yield
        looking.cancel()
        await asyncio.wait([looking])

    async def _index(self, request: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def _live(self, request: Request) -> Response:
        return StreamingResponse(self.live.stream(), media_type="text/event-stream")

    async def _do(self, request: Request) -> Response:
        method = ACTIONS.get(request.path_params["method"])
        if method is None:
            raise HTTPException(404)
        params = await _object(request)
        try:
            result = await to_thread.run_sync(self._call, method, params, limiter=self._calls)
        except UserError as failure:
            content = {"error": {"code": failure.code, "message": failure.message}}
            return JSONResponse(content, STATUS_OF.get(failure.code, 409))
        finally:
            if method.name not in LOOKS:
                self.live.hurry()
        return JSONResponse(result)

    def _call(self, method: api.Method[Any, Any], params: dict[str, object]) -> object:
        with self._connect() as client:
            return client.call(method, params)

    async def _look_around(self, request: Request) -> Response:
        return JSONResponse({"checks": await to_thread.run_sync(self._doctor, limiter=self._calls)})

    async def _draw(self, request: Request) -> Response:
        match await _object(request):
            case {"text": str() as text} if 0 < len(text) <= MAX_QR:
                return JSONResponse({"rows": self._qr(text)})
        raise HTTPException(400, f'{{"text": "…"}} is wanted, of at most {MAX_QR} characters')


async def _object(request: Request) -> dict[str, object]:
    """Return the JSON object that a request brings. Raises HTTPException."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise HTTPException(415)
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_REQUEST:
            raise HTTPException(413)
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise HTTPException(400, "one JSON object is wanted")
    return content


class Server(uvicorn.Server):
    """Ends the streams to open pages before it waits for answers under way."""

    def __init__(self, page: Page, tokens: Tokens) -> None:
        self._live = page.live
        super().__init__(
            uvicorn.Config(
                page.application(tokens),
                loop="asyncio",
                http="h11",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=MAX_PAGES,
                timeout_graceful_shutdown=END_TIME,
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End in order."""
        self._live.end()
        await super().shutdown(sockets)


def listen(port: int) -> socket.socket:
    """Return a socket that listens on loopback. Raises OSError."""
    return socket.create_server(("127.0.0.1", port))
