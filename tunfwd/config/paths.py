"""Where things are: the configuration file, the state directory and the control socket.

The daemon of root is the system's, and lives under /etc, /var/lib and /run. Anyone else's is their own, under
the XDG base directories. The environment goes before both; options of the command line before that.

Paths are strings here: to load pathlib takes `tunfwd status` a tenth of its time.
"""

import os
from collections.abc import Mapping
from typing import Final, NamedTuple

CONFIG_VARIABLE: Final = "TUNFWD_CONFIG"  # the configuration file
STATE_VARIABLE: Final = "TUNFWD_STATE_DIR"  # the state directory
SOCKET_VARIABLE: Final = "TUNFWD_SOCKET"  # the control socket
LOG_VARIABLE: Final = "TUNFWD_LOG"  # the log level: debug, info, warning or error
GROUP_VARIABLE: Final = "TUNFWD_GROUP"  # whose members may use the socket, where the file names no group
NODES_VARIABLE: Final = "TUNFWD_PUBLIC_NODES"  # 0, 1, or a list of nodes in place of the bundled one

SOCKET_PATH_BYTES: Final = 107  # sockaddr_un.sun_path holds 108 with its terminating zero (unix(7))


class Places(NamedTuple):
    """The three places of one installation."""

    config: str
    state: str
    socket: str


SYSTEM: Final = Places("/etc/tunfwd/config.toml", "/var/lib/tunfwd", "/run/tunfwd/control.sock")


def of_user(environ: Mapping[str, str]) -> Places:
    """Return the places of a user (XDG Base Directory Specification 0.8: relative paths are ignored)."""
    home = environ.get("HOME") or os.path.expanduser("~")
    state = os.path.join(_base(environ, "XDG_STATE_HOME", f"{home}/.local/state"), "tunfwd")
    runtime = _base(environ, "XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
    config = os.path.join(_base(environ, "XDG_CONFIG_HOME", f"{home}/.config"), "tunfwd/config.toml")
    # Without a session (cron, su) there may be no runtime directory; the state directory is as private.
    socket = os.path.join(runtime, "tunfwd") if os.path.isdir(runtime) else state
    return Places(config, state, os.path.join(socket, "control.sock"))


def of(euid: int, environ: Mapping[str, str]) -> Places:
    """Return the default places of whoever runs this."""
    return SYSTEM if euid == 0 else of_user(environ)


def _base(environ: Mapping[str, str], variable: str, default: str) -> str:
    path = environ.get(variable, "")
    return path if os.path.isabs(path) else default
