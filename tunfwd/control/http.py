"""A web server of one page: the metrics, for Prometheus to fetch.

It answers `GET /metrics`, and nothing else. Which hosts reach it is the configuration's to say, by the
address that it listens at. A page in a browser is not to read it in the name of whoever looks at that page: a
request whose Host is a name of somebody's choice is refused, as names can be made to point here (DNS
rebinding).
"""

import errno
import logging
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import ip_address
from typing import Final

import h11
import trio

from tunfwd.faults import note

MAX_CONNECTIONS: Final = 16
REQUEST_TIME: Final = 10.0  # s for a request to arrive, and again for its answer to leave
IDLE_TIME: Final = 90.0  # s between requests; Prometheus asks each 15 to 60
LINGER: Final = 1.0  # s
READ: Final = 8192  # bytes
PATH: Final = "/metrics"

log = logging.getLogger(__name__)

Page = Callable[[], Awaitable[bytes]]


async def serve(
    listeners: Iterable[trio.SocketListener],
    page: Page,
    content_type: str,
    *,
    host: str,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `page` until cancelled; `host` is what the listeners listen at, as the person wrote it."""
    limiter = trio.CapacityLimiter(MAX_CONNECTIONS)

    async def handle(stream: trio.SocketStream) -> None:
        try:
            limiter.acquire_on_behalf_of_nowait(stream)
        except trio.WouldBlock:
            return  # closed without a word; Prometheus notes that the target is down
        try:
            await _Connection(stream, page, content_type, host).run()
        except Exception as fault:
            note("a reader of the metrics", fault)
        finally:
            limiter.release_on_behalf_of(stream)

    async with trio.open_nursery() as nursery:
        for listener in listeners:
            nursery.start_soon(_accept, listener, handle, nursery)
        task_status.started()


async def _accept(
    listener: trio.SocketListener,
    handle: Callable[[trio.SocketStream], Awaitable[None]],
    nursery: trio.Nursery,
) -> None:
    async with listener:
        while True:
            try:
                stream = await listener.accept()
            except OSError as failure:  # too many open files, and the like
                if failure.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                await trio.sleep(0.1)
            else:
                nursery.start_soon(_handle, handle, stream)


async def _handle(handle: Callable[[trio.SocketStream], Awaitable[None]], stream: trio.SocketStream) -> None:
    async with stream:
        await handle(stream)


class _Connection:
    """One client."""

    def __init__(self, stream: trio.SocketStream, page: Page, content_type: str, host: str) -> None:
        self._stream = stream
        self._page = page
        self._content_type = content_type
        self._host = host
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=READ)

    async def run(self) -> None:
        """Answer until one side has had enough."""
        patience = REQUEST_TIME
        try:
            while (request := await self._next_request(patience)) is not None:
                with trio.fail_after(REQUEST_TIME):
                    await self._answer(request)
                if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                    return
                self._http.start_next_cycle()
                patience = IDLE_TIME
        except (trio.TooSlowError, trio.BrokenResourceError):
            return

    async def _next_request(self, patience: float) -> h11.Request | None:
        """Return the next request, its body read and dropped; None where none came, or it made no sense."""
        request: h11.Request | None = None
        with trio.move_on_after(patience):
            while True:
                try:
                    event = self._http.next_event()
                except h11.RemoteProtocolError as wrong:
                    await self._respond(wrong.error_status_hint, str(wrong).encode("utf-8", "replace"))
                    await self._linger()
                    return None
                if event is h11.NEED_DATA:
                    if self._http.they_are_waiting_for_100_continue:
                        return None
                    self._http.receive_data(await self._stream.receive_some(READ))
                elif isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.EndOfMessage):
                    return request
                elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                    return None
        return None

    async def _linger(self) -> None:
        """Read what is still on its way: to close on it would be a reset, and take the answer along."""
        await self._stream.send_eof()
        with trio.move_on_after(LINGER):
            while await self._stream.receive_some(READ):
                pass

    async def _answer(self, request: h11.Request) -> None:
        path = request.target.partition(b"?")[0].decode("latin-1")
        if not self._is_for_us(dict(request.headers).get(b"host", b"").decode("latin-1")):
            await self._respond(421, b"this is not the host that you mean\n")
        elif path != PATH:
            await self._respond(404, f"the metrics are at {PATH}\n".encode())
        elif request.method not in (b"GET", b"HEAD"):
            await self._respond(405, b"GET or HEAD\n", (("allow", "GET, HEAD"),))
        else:
            body = await self._page()
            await self._respond(200, body, content_type=self._content_type, head=request.method == b"HEAD")

    def _is_for_us(self, host: str) -> bool:
        """Whether a request's Host is an address, or the name that the person wrote."""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        try:
            ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return name.lower() in ("localhost", self._host.lower())
        return True

    async def _respond(
        self,
        status: int,
        body: bytes,
        headers: Iterable[tuple[str, str]] = (),
        *,
        content_type: str = "text/plain; charset=utf-8",
        head: bool = False,
    ) -> None:
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        response = h11.Response(
            status_code=status,
            headers=[
                ("content-type", content_type),
                ("content-length", str(len(body))),
                ("x-content-type-options", "nosniff"),
                ("cache-control", "no-store"),
                *headers,
            ],
        )
        data = self._http.send(response) or b""
        if not head:
            data += self._http.send(h11.Data(body)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        await self._stream.send_all(data)
