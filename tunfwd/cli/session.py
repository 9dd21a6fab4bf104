"""A command's way to the daemon: which socket, one connection, calls."""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING, TypeVar

from tunfwd.common.errors import UserError
from tunfwd.config import paths
from tunfwd.control.client import Client
from tunfwd.control.glance import Method

if TYPE_CHECKING:
    import click

P = TypeVar("P")
R = TypeVar("R")


class Session:
    """What the global options say about the daemon, and the connection to it once there is one."""

    def __init__(self, socket: str | None, config: str | None) -> None:
        self.socket = socket
        self.config = config
        self._client: Client | None = None

    @classmethod
    def of(cls, context: "click.Context") -> "Session":
        """Return the session of this run of the command line; also while the shell asks for completions."""
        root = context.find_root()
        if not isinstance(root.obj, cls):
            session = cls(root.params.get("socket"), root.params.get("config"))
            root.obj = root.with_resource(closing(session))
        return root.obj

    def call(
        self,
        method: Method[P, R],
        *,
        patience: float | None = None,
        descriptors: Sequence[int] = (),
        **params: object,
    ) -> R:
        """Return the daemon's answer, waited for `patience` seconds. Raises UserError for everything else."""
        if self._client is None:
            self._client = self.connect()
        return self._client.call(method, params, timeout=patience, descriptors=descriptors)

    def close(self) -> None:
        """Hang up, where there is a connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def connect(self) -> Client:
        """Return a connection of its own, which the caller closes."""
        tried = []
        for path in self.sockets():
            try:
                return Client(path)
            except UserError as failure:
                if failure.code != "no_daemon":
                    raise
                tried.append(os.fspath(path))
        raise UserError(
            "no_daemon",
            f"no daemon runs (nothing answers at {' or '.join(tried)}); start one with: tunfwd daemon",
        )

    def sockets(self) -> Iterator[str]:
        """Yield where the daemon may be, in the order to try. Raises ConfigurationError."""
        if explicit := self.socket or os.environ.get(paths.SOCKET_VARIABLE):
            yield explicit
        elif named := self.config or os.environ.get(paths.CONFIG_VARIABLE):
            yield _configured(named, os.environ)
        else:
            if os.geteuid() != 0:
                yield _socket_of(paths.of_user(os.environ))
            yield _socket_of(paths.SYSTEM)


def _socket_of(places: paths.Places) -> str:
    """Return the socket of a daemon that lives at `places`, unless its configuration has another."""
    try:
        with open(places.config, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError):  # none, another user's, or one that no daemon has started with
        return places.socket
    import tomllib  # noqa: PLC0415  only where there is a file to read

    # To read the configuration as the daemon does takes longer than to ask it.
    with suppress(tomllib.TOMLDecodeError):
        if "control" not in tomllib.loads(text):
            return places.socket
    return _configured(places.config, {})


def _configured(config: str, environ: "os._Environ[str] | dict[str, str]") -> str:
    from tunfwd.config.document import load  # noqa: PLC0415  only where a file says something about it

    return os.fspath(load(config, environ=environ).socket)
