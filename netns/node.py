"""One person's tunfwd on one host: a daemon with a state of its own, and the commands that person types.

Shared by the demo and the end-to-end tests. Everything that waits has a time limit, and what goes wrong is
told together with the end of the daemon's log.
"""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from netns.topology import Host
from tunfwd.tun import privileges

T = TypeVar("T")
Config = Mapping[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]]

TUNFWD = Path(sys.executable).with_name("tunfwd")
START_TIME = 60.0  # s until the daemon answers; 1 is usual, where nothing else goes on
STOP_TIME = 30.0  # s from SIGTERM to its end
COMMAND_TIME = 60.0  # s for one command
FRIEND_TIME = 100.0  # s until two friends have found each other; 10 is usual on one machine
LOG_TAIL = 20  # lines


class NodeError(Exception):
    """The daemon, or a command, did not do what it was to do; the message says what, with the log's end."""


class Node:
    """A context, or start() and stop(). Its files are in `folder`, which exists and has a short path."""

    def __init__(
        self,
        host: Host,
        folder: Path,
        config: Config | None = None,
        *,
        user: int | None = None,
    ) -> None:
        """`config`: tables of the configuration file, and lists of tables.

        `user`: an ordinary user, by number, whose daemon it is, without a device and any privilege.
        """
        self.user = user
        self.host = host
        self.folder = folder
        self.log_file = folder / "daemon.log"
        self.config_file = folder / "config.toml"
        self.environment = {
            "TUNFWD_CONFIG": str(self.config_file),
            "TUNFWD_STATE_DIR": str(folder / "state"),
            "TUNFWD_SOCKET": str(folder / "control.sock"),
            "TUNFWD_PUBLIC_NODES": "0",  # nothing of what we start here ever sends to them
        }
        self.daemon: subprocess.Popen[bytes] | None = None
        if user is None:
            _open_to_daemon(folder)
        else:
            self.environment |= {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
            os.chown(folder, user, user)
            _open_way_to(folder)
        self.configure(config or {})

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def name(self) -> str:
        """The host's."""
        return self.host.name

    # --- the daemon -----------------------------------------------------------------------------------------

    def configure(self, config: Config) -> None:
        """Write the configuration file; holds from the next start on."""
        lines = []
        for name, content in config.items():
            for table in [content] if isinstance(content, Mapping) else content:
                lines.append(f"[{name}]" if isinstance(content, Mapping) else f"[[{name}]]")
                lines += [
                    f"{key} = {json.dumps(value)}" for key, value in table.items()
                ]  # as TOML writes them
        self.config_file.write_text("\n".join([*lines, ""]))

    def start(self) -> None:
        """Start the daemon, and wait until it answers. Raises NodeError."""
        with self.log_file.open("ab") as log:
            self.daemon = self.host.start(
                self.command("daemon", *["--rootless"] * (self.user is not None)),
                env=os.environ | self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for who started us, who ends the daemon in order
            )
        self.wait_for(lambda: self.cli("id", check=False).returncode == 0, START_TIME, "the daemon answers")

    def as_user(self, *command: str | Path) -> list[str | Path]:
        """Return a command that runs as the user whose daemon it is, without any capability."""
        if self.user is None:
            return list(command)
        number = str(self.user)
        drop = ["--clear-groups", "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"]
        return ["setpriv", "--reuid", number, "--regid", number, *drop, *command]

    def command(self, *arguments: str) -> list[str | Path]:
        """Return a tunfwd command of that user."""
        return self.as_user(TUNFWD, *arguments)

    def stop(self) -> int | None:
        """End the daemon as a person or systemd would; its exit status. NodeError if it does not end."""
        if self.daemon is None:
            return None
        self.daemon.terminate()
        try:
            status = self.daemon.wait(STOP_TIME)
        except subprocess.TimeoutExpired:
            self.kill()
            raise NodeError(self._told(f"still there {STOP_TIME:.0f} s after SIGTERM")) from None
        self.daemon = None
        return status

    def kill(self) -> None:
        """End it without a chance to tidy up, as a crash would."""
        if self.daemon is not None:
            self.daemon.send_signal(signal.SIGKILL)
            self.daemon.wait()
            self.daemon = None

    @property
    def log(self) -> str:
        """All that the daemon has said."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def _told(self, message: str) -> str:
        tail = "\n".join(self.log.splitlines()[-LOG_TAIL:])
        return f"{self.name}: {message}; its daemon's last words:\n{tail or '(none)'}"

    # --- what a person types --------------------------------------------------------------------------------

    def cli(
        self, *arguments: str, timeout: float = COMMAND_TIME, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a tunfwd command. Raises NodeError if it fails and `check` is set, or if it takes too long."""
        command = f"tunfwd {' '.join(arguments)}"
        try:
            result = self.host.run(
                self.command(*arguments), env=os.environ | self.environment, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            raise NodeError(self._told(f"no end of `{command}` after {timeout:.0f} s")) from None
        if check and result.returncode != 0:
            complaint = (result.stderr or result.stdout).strip()
            raise NodeError(self._told(f"`{command}` exited {result.returncode}: {complaint}"))
        return result

    def json(self, *arguments: str) -> Any:
        """What a command says with --json."""
        return json.loads(self.cli(*arguments, "--json").stdout)

    def wait_for(self, condition: Callable[[], T], seconds: float, what: str) -> T:
        """Ask again and again until the answer is true, and return it. Raises NodeError: not `what`."""
        deadline = time.monotonic() + seconds
        while True:
            if answer := condition():
                return answer
            if self.daemon is not None and (status := self.daemon.poll()) is not None:
                raise NodeError(self._told(f"the daemon ended with {status}, before {what}"))
            if time.monotonic() > deadline:
                raise NodeError(self._told(f"not within {seconds:.0f} s: {what}"))
            time.sleep(0.1)

    # --- what is asked often --------------------------------------------------------------------------------

    def identity(self) -> dict[str, Any]:
        """`tunfwd id`: address, public_key, dht_key, udp_port."""
        identity: dict[str, Any] = self.json("id")
        return identity

    def bootstrap(self) -> str:
        """What others write into [tox] bootstrap to join the network here."""
        identity = self.identity()
        return f"{self.host.address}:{identity['udp_port']}:{identity['dht_key']}"

    def friend(self, public_key: str) -> dict[str, Any] | None:
        """The friend, or the request, with that key."""
        friends = self.json("friend", "list")["friends"]
        return next((friend for friend in friends if friend["public_key"] == public_key), None)

    def contact(self, name: str) -> dict[str, Any]:
        """The contact's line of `tunfwd status`. Raises NodeError."""
        for contact in self.json("status")["contacts"]:
            if contact["name"] == name:
                return dict(contact)
        raise NodeError(self._told(f"no contact {name}"))

    def offer(self, name: str) -> dict[str, Any] | None:
        """The offer of that name, ours or theirs."""
        return next((offer for offer in self.json("offers")["offers"] if offer["name"] == name), None)

    def port(self, name: str) -> dict[str, Any] | None:
        """The mapping of that name."""
        return next((port for port in self.json("ports")["ports"] if port["name"] == name), None)

    def is_online(self, public_key: str) -> bool:
        """Whether that friend is."""
        friend = self.friend(public_key)
        return friend is not None and friend["state"] == "online"


def _open_to_daemon(folder: Path) -> None:
    """Let the daemon use it as the user that it becomes: the folder is its own, and the way there open."""
    with suppress(LookupError):  # without that user it says so itself
        shutil.chown(folder, privileges.USER, privileges.USER)
    _open_way_to(folder)


def _open_way_to(folder: Path) -> None:
    for parent in folder.parents:
        status = parent.stat()
        if not status.st_mode & 0o001 and status.st_uid == os.geteuid():
            parent.chmod(stat.S_IMODE(status.st_mode) | 0o011)


def befriend(asking: Node, asked: Node) -> None:
    """Make two nodes friends, under the names of their hosts, and wait until both see each other."""
    asking.cli("friend", "add", asked.identity()["address"], "--name", asked.name)
    key = asking.identity()["public_key"]
    asked.wait_for(lambda: asked.friend(key), FRIEND_TIME, "the friend request is there")
    asked.cli("friend", "accept", key, "--name", asking.name)
    wait_online(asking, asked)


def wait_online(one: Node, other: Node) -> None:
    """Until each sees the other online."""
    for node, far in ((one, other), (other, one)):
        key = far.identity()["public_key"]
        node.wait_for(lambda node=node, key=key: node.is_online(key), FRIEND_TIME, f"{far.name} is online")  # type: ignore[misc]


def stop_all(nodes: Sequence[Node]) -> None:
    """Without complaint, one after the other."""
    for node in nodes:
        with suppress(NodeError):
            node.stop()
