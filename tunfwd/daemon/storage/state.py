"""What the daemon remembers from one run to the next: addresses, names, offers and mappings, in one file.

The file is written whole or not at all, and is ours alone to read. Nothing in it keeps the daemon from
starting: a damaged file is kept under another name and the generation before is used; an entry that does not
fit is kept in a list of its own, and said. Tox keeps the identity and the friends in a file of its own.
"""

import fcntl
import json
import logging
import os
import re
import stat
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Final, TextIO, get_args, get_origin, get_type_hints

from tunfwd.common.errors import ConfigurationError, UserError
from tunfwd.common.notation import Port, Protocol, read_key, read_target
from tunfwd.common.ports import read_ports
from tunfwd.common.schema import Mismatch, Parse, decode
from tunfwd.control.api import Direction, Sees, Source
from tunfwd.files import previous, put_aside, read_whole, write_whole
from tunfwd.wire.packets import is_name

SCHEMA: Final = 1
FILE: Final = "state.json"
IDENTITY: Final = "identity.tox"
LOCK: Final = "lock"
MAX_ASIDE: Final = 256  # entries that do not fit; the newest are kept
MAX_TOLD: Final = 8  # lines of the log about them at a start

_ID: Final = re.compile(r"[0-9A-F]{64}(/([0-9A-F]{64})?)?|conference:[0-9A-F]{64}")

log = logging.getLogger(__name__)


def _read_id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise ValueError("is not the id of a contact or group")
    return text


def _read_key(text: str) -> str:
    return read_key(text).hex().upper()


def _read_name(text: str) -> str:
    if not is_name(text):
        raise ValueError("is too long for a name")
    return text


def _read_target(text: str) -> str:
    read_target(text)
    return text


def _read_ports(text: str) -> str:
    return str(read_ports(text))


def _read_hex(text: str) -> str:
    bytes.fromhex(text)
    return text


def _read_count(number: int) -> int:
    if number < 1:
        raise ValueError("must be 1 or more")
    return number


def _read_port_or_any(port: int) -> int:
    if not 0 <= port <= 65535:
        raise ValueError("must be a port, or 0 for any")
    return port


ContactId = Annotated[str, Parse(str, _read_id)]
"""Who a contact is, whatever it is called: a friend's public key in upper-case hex; for a member of a group,
the group's chat id, "/", and the member's key in that group; for a group as a whole, the chat id and "/"; for
a conference "conference:" and its id."""

Key = Annotated[str, Parse(str, _read_key)]
Name = Annotated[str, Parse(str, _read_name)]
TargetText = Annotated[str, Parse(str, _read_target)]  # HOST:PORT
PortsText = Annotated[str, Parse(str, _read_ports)]  # FIRST-LAST/PROTOCOL
Hex = Annotated[str, Parse(str, _read_hex)]
Count = Annotated[int, Parse(int, _read_count)]
PortOrAny = Annotated[int, Parse(int, _read_port_or_any)]


def contact_id(key: bytes, group: bytes | None = None) -> ContactId:
    """The id of the friend with this public key, or of the member of the group with this chat id."""
    return key.hex().upper() if group is None else f"{group_id(group)}{key.hex().upper()}"


def group_id(group: bytes) -> ContactId:
    """The id of a whole group, with which the ids of its members begin."""
    return f"{group.hex().upper()}/"


def room_of(group: ContactId) -> bytes:
    """Return the chat id in the id of a whole group, or of a member."""
    return bytes.fromhex(group.partition("/")[0])


Address = Annotated[IPv4Address, Parse(str, IPv4Address)]


@dataclass(frozen=True, slots=True)
class StandingOffer:
    """A service of ours that is offered whenever the contact is there."""

    contact: ContactId
    protocol: Protocol
    port: Port
    name: Name = ""
    target: TargetText | None = None  # None: this machine, at `port`
    source: Source = "auto"
    paused: bool = False  # whether connections are refused for now


@dataclass(frozen=True, slots=True)
class AcceptedMapping:
    """An offer of a contact that was accepted, and is again whenever the contact repeats it."""

    contact: ContactId
    direction: Direction
    protocol: Protocol
    port: PortOrAny  # as offered; 0 is "any"
    name: Name = ""
    local_port: Port | None = None  # at the virtual address, where it is not `port`
    target: TargetText | None = None  # for a connection offer: what it leads to
    by_rule: bool = False  # a person accepted it, or a [[rule]] did


@dataclass(frozen=True, slots=True)
class StandingRequest:
    """A port of a contact that we ask for whenever the contact is there."""

    contact: ContactId
    protocol: Protocol
    port: Port
    name: Name = ""
    local_port: Port | None = None


Standing = StandingOffer | AcceptedMapping | StandingRequest


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that a contact offers, or asks for, and a person here does not want, or no more."""

    contact: ContactId
    direction: Direction
    protocol: Protocol
    port: PortOrAny
    name: Name = ""
    left: bool = False  # it was accepted before: it may be again, by a person


@dataclass(frozen=True, slots=True)
class Aside:
    """An entry that does not fit, for a person to look at. The daemon does nothing with it."""

    reason: str
    entry: str  # JSON


@dataclass(frozen=True, slots=True)
class KnownService:
    """A service of this machine that is offered with `--source auto`, and whom it was found to see."""

    protocol: Protocol
    port: Port
    owner: int  # the user whose socket it is
    source: Sees


@dataclass(frozen=True, slots=True)
class Joined:
    """Who has come by an invite of ours."""

    contact: ContactId
    at: int  # s since 1970


@dataclass(frozen=True, slots=True)
class Invite:
    """A ticket that we have given out, without its token."""

    id: Hex
    digest: Hex  # of the token
    uses: Count  # how many may come by it
    expires: int  # s since 1970
    ports: list[PortsText] = field(default_factory=list)
    name: Name = ""
    target: TargetText | None = None  # as in a StandingOffer
    source: Source = "auto"
    group: ContactId | None = None  # a private one, into which who comes is invited
    joined: list[Joined] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Join:
    """A ticket of a contact's by which we have joined, until it has let us in."""

    contact: ContactId
    address: Hex  # Tox address
    token: Hex
    ports: list[PortsText] = field(default_factory=list)  # that were accepted for it
    group: ContactId | None = None
    group_name: str | None = None  # what a person here calls it
    password: str = field(default="", repr=False)  # the group's


@dataclass(slots=True)
class Content:
    """The file's content. The daemon changes it in place, then calls State.save."""

    addresses: dict[ContactId, Address] = field(default_factory=dict)
    names: dict[ContactId, str] = field(default_factory=dict)
    """Friends' as a person here gave them; members' nicknames; rooms', see `named_rooms`."""
    named_rooms: list[ContactId] = field(default_factory=list)
    """Rooms that a person here gave their name; the others have that of their founder."""
    offers: list[StandingOffer] = field(default_factory=list)
    mappings: list[AcceptedMapping] = field(default_factory=list)
    requests: list[StandingRequest] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    services: list[KnownService] = field(default_factory=list)
    invites: list[Invite] = field(default_factory=list)
    joins: list[Join] = field(default_factory=list)
    declared: list[ContactId] = field(default_factory=list)
    """Friends and groups that are there because the configuration has them, and go when it no longer does."""
    blocked: dict[Key, str] = field(default_factory=dict)
    """Keys whose friend requests are dropped, and what their owners were called."""
    banned: dict[ContactId, str] = field(default_factory=dict)
    """Members of groups that are ignored, and put out where we may, and what they were called."""
    aside: list[Aside] = field(default_factory=list)

    def contacts(self) -> set[ContactId]:
        """Return everybody the state knows of."""
        standing: list[Standing] = [*self.offers, *self.mappings, *self.requests]
        return {*self.addresses, *self.names, *(entry.contact for entry in standing)}

    def put_aside(self, entry: object, reason: str) -> None:
        """Keep an entry that does not fit out of the way."""
        self.aside = [*self.aside, Aside(reason, _text(entry))][-MAX_ASIDE:]


class State:
    """A state directory in use by this process. As a context manager it lets go of it at the end."""

    def __init__(self, directory: Path, lock: TextIO, content: Content, saved: bytes) -> None:
        """`saved` is what is on disk."""
        self.directory = directory
        self.content = content
        self._lock = lock
        self._saved = saved

    @classmethod
    def load(cls, directory: Path) -> "State":
        """Take the directory, made if need be, and read what is there.

        Raises UserError: "failed" when another daemon uses it, "privilege" when it is not ours to use,
        "configuration" when it cannot be a directory or a newer tunfwd has written the file.
        """
        try:
            _make_private(directory)
            lock = lock_directory(directory)
            try:
                return cls(directory, lock, *_load(directory / FILE))
            except BaseException:
                lock.close()
                raise
        except PermissionError as refused:
            raise UserError("privilege", f"the state directory {directory}: {refused.strerror}") from None
        except OSError as wrong:
            raise ConfigurationError(f"the state directory {directory}: {wrong.strerror}") from None

    @property
    def path(self) -> Path:
        """The file."""
        return self.directory / FILE

    def identity(self) -> Path:
        """Return the identity's file. Raises ConfigurationError where it is missing, but not its contacts.

        Beginning as somebody new would lose them all without a word.
        """
        path, known = self.directory / IDENTITY, len(self.content.contacts())
        real = Path(os.path.realpath(path))  # a link may lead to a disk that is not there
        if known and not any(os.path.lexists(file) for file in (real, previous(real))):
            raise ConfigurationError(
                f"{path} is missing, but {FILE} beside it knows of {known} contacts: restore it from a "
                f"backup, or move {self.directory} away to begin as somebody new"
            )
        return path

    def encoded(self) -> bytes | None:
        """Return what is to be on disk; None where it is there already."""
        data = _encode(self.content)
        return data if data != self._saved else None

    def write(self, data: bytes) -> None:
        """Replace the file; afterwards it is on disk, also through a power cut, and the one before is kept.

        Raises OSError (a full disk); the file is then as it was.
        """
        write_whole(self.path, data, keep=True)
        self._saved = data

    def save(self) -> None:
        """Write the content, if it has changed. Raises OSError as `write` does."""
        if data := self.encoded():
            self.write(data)

    def close(self) -> None:
        """Lets another daemon have the directory."""
        self._lock.close()

    def __enter__(self) -> "State":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _make_private(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise ConfigurationError(f"the state directory {directory} is a file")
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.stat()
    if status.st_uid != os.geteuid():  # root as well: without its capabilities it may not pass over an owner
        advice = f"belongs to user {status.st_uid}, not to the one who runs this ({os.geteuid()})"
        raise UserError("privilege", f"the state directory {directory} {advice}; change its owner with chown")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        directory.chmod(0o700)
        log.warning("%s was open to others (mode %04o); it holds keys, and is now 0700", directory, mode)


def lock_directory(directory: Path) -> TextIO:
    """Hold a directory for this process until the result is closed. Raises UserError where another does."""
    file = os.fdopen(os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = file.read(20).strip()
        file.close()
        known = f" (process {owner})" if owner.isdigit() else ""
        raise UserError("failed", f"another daemon uses {directory}{known}; stop it first") from None
    with suppress(OSError):  # a full disk: the lock holds all the same
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), f"{os.getpid()}\n".encode())
    return file


def trouble(path: Path) -> str | None:
    """Look at the file, and return what is wrong with it for the next start."""
    try:
        _read(path)
    except FileNotFoundError:
        return None  # none yet; with contacts the identity tells
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
    except (ValueError, UserError) as wrong:
        kept = previous(path)
        what = f"the next start goes back to {kept.name}" if kept.exists() else "names and offers are lost"
        return f"{path.name} is damaged ({wrong}): {what}"
    return None


def _load(path: Path) -> tuple[Content, bytes]:
    """Return the content, and what of it is on disk."""
    try:
        return _read(path)
    except FileNotFoundError:
        reason = "is missing"
    except ValueError as wrong:
        reason = f"cannot be read ({wrong})"
    kept = previous(path)
    try:
        content, _ = _read(kept)
    except FileNotFoundError:
        content, outcome = Content(), "names, addresses and offers start anew"
    except ValueError as wrong:
        content = Content()
        outcome = f"{kept.name} cannot be read either ({wrong}): names, addresses and offers start anew"
    else:
        saved = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(kept.stat().st_mtime))
        outcome = f"restored as saved at {saved}: {_summary(content)}"
    if not os.path.lexists(path):
        if content == Content():
            return content, _encode(content)
        log.error("%s %s; %s", path, reason, outcome)
    else:
        log.error("%s %s and is kept as %s; %s", path, reason, put_aside(path).name, outcome)
    return content, b""


_UNTOLD: Final = ("aside", "named_rooms", "declared")


def _summary(content: Content) -> str:
    counts = {name: len(entries) for name, entries in asdict(content).items() if name not in _UNTOLD}
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _read(path: Path) -> tuple[Content, bytes]:
    """Return the content of a file, and its bytes.

    Raises FileNotFoundError, ValueError for what is no state, ConfigurationError for one of the future.
    """
    try:
        data = read_whole(path)
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:  # a directory, a pipe, a damaged disk
        raise ValueError(error.strerror) from None
    return _decode(data), data


def _decode(data: bytes) -> Content:
    try:
        document = json.loads(data.decode())  # UTF-8, whatever the bytes look like
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
    return _Reader(document).content


class _Reader:
    """Reads a document entry by entry, so that one that does not fit is the loss of that one."""

    def __init__(self, document: dict[str, object]) -> None:
        self.content = Content()
        self._refused: list[tuple[object, Mismatch]] = []
        kinds = get_type_hints(Content, include_extras=True)
        for name, value in document.items():
            if name not in kinds:
                self._refused.append(({name: value}, Mismatch((name,), "is not known")))
                continue
            try:
                setattr(self.content, name, self._field(kinds[name], value, name))
            except Mismatch as wrong:
                self._refused.append(({name: value}, wrong))
        for entry, mismatch in self._refused:
            self.content.put_aside(entry, str(mismatch))
        self._tell()

    def _field(self, kind: Any, value: object, name: str) -> object:
        match get_origin(kind), value:
            case origin, list() if origin is list:
                (item_kind,) = get_args(kind)
                found = (self._entry(item_kind, item, (name, number)) for number, item in enumerate(value))
                return [entry for entry in found if entry is not None]
            case origin, dict() if origin is dict:
                key_kind, item_kind = get_args(kind)
                return {
                    key: entry
                    for key, item in value.items()
                    if self._entry(key_kind, key, (name, key), {key: item}) is not None
                    and (entry := self._entry(item_kind, item, (name, key), {key: item})) is not None
                }
        return _at((name,), kind, value)

    def _entry(self, kind: Any, value: object, path: tuple[str | int, ...], whole: object = None) -> Any:
        """Return one entry, None where it does not fit; `whole` is what to keep of it then."""
        try:
            return _at(path, kind, value)
        except Mismatch as wrong:
            self._refused.append((value if whole is None else whole, wrong))
            return None

    def _tell(self) -> None:
        for entry, wrong in self._refused[:MAX_TOLD]:
            log.warning("%s: %s; put aside: %s", FILE, wrong, _text(entry)[:200])
        if (more := len(self._refused) - MAX_TOLD) > 0:
            log.warning('%s: %d more entries are put aside; see "aside" in it', FILE, more)


def _at(path: tuple[str | int, ...], kind: Any, value: object) -> object:
    try:
        return decode(kind, value)
    except Mismatch as wrong:
        raise Mismatch((*path, *wrong.path), wrong.reason) from None


def _encode(content: Content) -> bytes:
    document = {"schema": SCHEMA, **asdict(content)}
    if not content.aside:
        del document["aside"]
    return json.dumps(document, indent=1, default=_plain).encode("ascii") + b"\n"


def _text(entry: object) -> str:
    """Return an entry as JSON; what was read as such is written as such."""
    try:
        return json.dumps(entry if isinstance(entry, dict | list | str) else asdict(entry), default=_plain)  # type: ignore[call-overload]
    except (RecursionError, TypeError, ValueError):
        return "{}"


def _plain(value: Any) -> str:
    if isinstance(value, IPv4Address):
        return str(value)
    raise TypeError(f"state holds a {type(value).__name__}")
