"""`[metrics] listen`: the daemon's figures by HTTP."""

from typing import Any, Self, cast

import trio

from tunfwd.common.errors import UserError
from tunfwd.common.notation import Target
from tunfwd.control import api, http
from tunfwd.control.dispatch import Dispatcher
from tunfwd.control.metrics import CONTENT_TYPE, exposition


class MetricsPage:
    """The page, and where it listens."""

    def __init__(self, listen: Target, listeners: list[trio.SocketListener]) -> None:
        self._listen = listen
        self._listeners = listeners

    @classmethod
    async def open(cls, listen: Target) -> Self:
        """Listen, before privileges are given up. Raises UserError."""
        try:
            return cls(listen, await trio.open_tcp_listeners(listen.port, host=listen.host))
        except OSError as failure:
            reason = failure.strerror or str(failure)
            raise UserError("configuration", f"[metrics] listen = {str(listen)!r}: {reason}") from None

    async def serve(
        self, commands: Dispatcher, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Answer from what the control socket answers, until cancelled."""

        async def ask(method: api.Method[Any, Any]) -> Any:
            return await commands(method.name, {})

        async def page() -> bytes:
            return exposition(
                cast(api.StatusResult, await ask(api.STATUS)),
                cast(api.MappingsResult, await ask(api.PORTS)),
                cast(api.VersionResult, await ask(api.VERSION)),
            )

        await http.serve(self._listeners, page, CONTENT_TYPE, host=self._listen.host, task_status=task_status)
