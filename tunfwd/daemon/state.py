"""What the daemon remembers from one run to the next: addresses, names, offers and mappings, in one file.

The file is written whole or not at all, and is ours alone to read. One that cannot be read is put aside,
never overwritten. Tox keeps the identity and the list of friends in a file of its own.
"""

import fcntl
import json
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Final, TextIO

from tunfwd.control.api import Direction, Source
from tunfwd.control.decode import Mismatch, Parse, decode
from tunfwd.control.errors import ConfigurationError, ControlError
from tunfwd.control.notation import Port, Protocol
from tunfwd.tox.files import write_whole

SCHEMA: Final = 1
FILE: Final = "state.json"
LOCK: Final = "lock"

log = logging.getLogger(__name__)

ContactId = str
"""Who a contact is, whatever it is called: a friend's public key in upper-case hex; for a member of a group,
the group's chat id, "/", and the member's key in that group; for a group as a whole, the chat id and "/"."""


def contact_id(key: bytes, group: bytes | None = None) -> ContactId:
    """The id of the friend with this public key, or of the member of the group with this chat id."""
    return key.hex().upper() if group is None else f"{group_id(group)}{key.hex().upper()}"


def group_id(group: bytes) -> ContactId:
    """The id of a whole group, with which the ids of its members begin."""
    return f"{group.hex().upper()}/"


Address = Annotated[IPv4Address, Parse(str, IPv4Address)]


@dataclass(frozen=True, slots=True)
class StandingOffer:
    """A service of ours that is offered whenever the contact is there."""

    contact: ContactId
    protocol: Protocol
    port: Port
    name: str = ""
    target: str | None = None  # HOST:PORT; None: this machine, at `port`
    source: Source = "auto"


@dataclass(frozen=True, slots=True)
class AcceptedMapping:
    """An offer of a contact that was accepted, and is again whenever the contact repeats it."""

    contact: ContactId
    direction: Direction
    protocol: Protocol
    port: int  # as offered; 0 is "any"
    name: str = ""
    local_port: Port | None = None  # at the virtual address, where it is not `port`
    target: str | None = None  # for a connection offer: HOST:PORT it leads to
    by_rule: bool = False  # a person accepted it, or a [[rule]] did


@dataclass(frozen=True, slots=True)
class StandingRequest:
    """A port of a contact that we ask for whenever the contact is there."""

    contact: ContactId
    protocol: Protocol
    port: Port
    name: str = ""
    local_port: Port | None = None


@dataclass(slots=True)
class Content:
    """The file's content. The daemon changes it in place, then calls State.save."""

    addresses: dict[ContactId, Address] = field(default_factory=dict)
    names: dict[ContactId, str] = field(default_factory=dict)
    offers: list[StandingOffer] = field(default_factory=list)
    mappings: list[AcceptedMapping] = field(default_factory=list)
    requests: list[StandingRequest] = field(default_factory=list)


class State:
    """A state directory in use by this process. As a context manager it lets go of it at the end."""

    def __init__(self, directory: Path, lock: TextIO, content: Content) -> None:
        self.directory = directory
        self.content = content
        self._lock = lock
        self._saved = _encode(content)

    @classmethod
    def load(cls, directory: Path) -> "State":
        """Takes the directory, made if need be, and reads what is there.

        Raises ControlError: "failed" when another daemon uses it, "privilege" when it is not ours to use,
        "configuration" when it cannot be a directory or a newer tunfwd has written the file.
        """
        try:
            _make_private(directory)
            lock = _lock(directory)
            try:
                return cls(directory, lock, _read(directory / FILE))
            except BaseException:
                lock.close()
                raise
        except PermissionError as refused:
            raise ControlError("privilege", f"the state directory {directory}: {refused.strerror}") from None
        except OSError as wrong:
            raise ConfigurationError(f"the state directory {directory}: {wrong.strerror}") from None

    def save(self) -> None:
        """Writes the content, if it has changed; afterwards it is on disk, also through a power cut.

        Raises OSError (a full disk); the file is then as it was.
        """
        data = _encode(self.content)
        if data != self._saved:
            write_whole(self.directory / FILE, data)
            self._saved = data

    def close(self) -> None:
        """Lets another daemon have the directory."""
        self._lock.close()

    def __enter__(self) -> "State":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _make_private(directory: Path) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.stat()
    if status.st_uid != os.geteuid():  # root as well: without its capabilities it may not pass over an owner
        advice = f"belongs to user {status.st_uid}, not to the one who runs this ({os.geteuid()})"
        raise ControlError(
            "privilege", f"the state directory {directory} {advice}; change its owner with chown"
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        directory.chmod(0o700)
        log.warning("%s was open to others (mode %04o); it holds keys, and is now 0700", directory, mode)


def _lock(directory: Path) -> TextIO:
    file = os.fdopen(os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = file.read(20).strip()
        file.close()
        known = f" (process {owner})" if owner.isdigit() else ""
        raise ControlError("failed", f"another daemon uses {directory}{known}; stop it first") from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def _read(path: Path) -> Content:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Content()
    try:
        return _decode(data)
    except ValueError as wrong:
        aside = next(_names_aside(path))
        path.rename(aside)
        lost = "names, addresses and offers start anew"
        log.error("%s cannot be read (%s) and is kept as %s; %s", path, wrong, aside.name, lost)  # noqa: TRY400
        return Content()


def _decode(data: bytes) -> Content:
    """Raises ValueError for what is no state, ConfigurationError for what is one of the future."""
    try:
        document = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(document, dict):
        raise Mismatch((), "not a JSON object")
    schema = document.pop("schema", None)
    if isinstance(schema, int) and schema > SCHEMA:
        raise ConfigurationError(
            f"{FILE} is from a newer tunfwd (schema {schema}); run that one, or move it away"
        )
    if schema != SCHEMA:
        raise Mismatch(("schema",), f"is {schema!r}")
    return decode(Content, document)


def _encode(content: Content) -> bytes:
    document = {"schema": SCHEMA, **asdict(content)}
    return json.dumps(document, indent=1, default=_plain).encode("ascii") + b"\n"


def _plain(value: Any) -> str:
    if isinstance(value, IPv4Address):
        return str(value)
    raise TypeError(f"state holds a {type(value).__name__}")


def _names_aside(path: Path) -> Iterator[Path]:
    number = 1
    while True:
        aside = path.with_name(f"{path.name}.corrupt-{number}")
        if not aside.exists():
            yield aside
        number += 1
