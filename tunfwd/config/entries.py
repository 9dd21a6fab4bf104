"""[[friend]], [[group]] and [[offer]]: contacts and offers that are there because the configuration says so.

Read by document.py, carried out by the daemon's commands/declared.py. Who is meant is written as in a rule:
by names that a person here gave, here in the file or by a command, or by keys.
"""

from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from tunfwd.common.names import ContactName, OfferName, composed
from tunfwd.common.notation import Key, PortSpec, TargetText, read_address
from tunfwd.common.ports import PortRange, each_once, read_ports
from tunfwd.common.schema import Mismatch, Parse
from tunfwd.config.files import File, read_secret

ALL: Final = "all"
MAX_PASSWORD: Final = 32  # bytes; TOX_GROUP_MAX_PASSWORD_SIZE

Source = Literal["auto", "peer", "host"]


def _read_chat_id(text: str) -> bytes:
    try:
        chat_id = bytes.fromhex(text)
    except ValueError:
        chat_id = b""
    if len(chat_id) != 32:
        raise ValueError(f"{text!r} is not a chat id: 64 hex digits, as `tunfwd group list --json` has it")
    return chat_id


def _read_ports(written: object) -> tuple[PortRange, ...]:
    """Read "8080/tcp", "27015-27030/udp", or a list of these."""
    items = written if isinstance(written, list) else [written]
    if not items or not all(isinstance(item, str) for item in items):
        raise ValueError('must be ports such as "8080/tcp" or "27015-27030/udp", or a list of these')
    ranges = tuple(map(read_ports, items))
    each_once(ranges)
    return ranges


def _read_recipients(written: object) -> tuple[str, ...]:
    items = written if isinstance(written, list) else [written]
    if not items or not all(isinstance(item, str) and item for item in items):
        raise ValueError('must be a contact, "group:NAME", "conference:NAME", "all", or a list of these')
    return tuple(map(composed, items))


@dataclass(frozen=True, slots=True)
class FriendTable:
    """One [[friend]]: whom we ask by an address, or who adds us as well, by a key."""

    name: ContactName
    address: Annotated[str, Parse(str, read_address)] | None = None
    key: Key | None = None
    message: str | None = None  # to whom we ask

    def __post_init__(self) -> None:
        if (self.address is None) == (self.key is None):
            raise ValueError("has an address, who is then asked, or the key of who adds us too: one of these")

    @property
    def public_key(self) -> bytes:
        """Who it is."""
        return self.key if self.key is not None else bytes.fromhex(self.address or "")[:32]


@dataclass(frozen=True, slots=True)
class GroupTable:
    """One [[group]]: joined by its chat id, or created where we have none that we founded by that name."""

    name: ContactName
    chat_id: Annotated[bytes, Parse(str, _read_chat_id)] | None = None
    create: Literal["public", "private"] | None = None
    password_file: File | None = None  # whose first line is the password

    def __post_init__(self) -> None:
        if (self.chat_id is None) == (self.create is None):
            raise ValueError('has a chat_id, to be joined, or create = "public" or "private": one of these')

    def read(self) -> "DeclaredGroup":
        """Return it with its password. Raises ValueError."""
        password = ""
        if self.password_file is not None:
            password = read_secret(self.password_file)
            if not 0 < len(password.encode()) <= MAX_PASSWORD:
                raise ValueError(f"{self.password_file}: a password has 1 to {MAX_PASSWORD} bytes")
        return DeclaredGroup(self.name, self.chat_id, self.create, password)


@dataclass(frozen=True, slots=True)
class DeclaredGroup:
    """A [[group]] whose password has been read."""

    name: str
    chat_id: bytes | None
    create: Literal["public", "private"] | None
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class OfferTable:
    """One [[offer]]."""

    ports: Annotated[tuple[PortRange, ...], Parse(object, _read_ports)]
    to: Annotated[tuple[str, ...], Parse(object, _read_recipients)]
    name: OfferName = ""
    target: TargetText | None = None  # None: this machine, at the port offered; only for one port
    source: Source = "auto"

    def __post_init__(self) -> None:
        if self.target is not None and len(self.specs) > 1:
            raise Mismatch(("target",), "is for one port; the others of this machine need none")

    @property
    def specs(self) -> list[PortSpec]:
        """The ports."""
        return each_once(self.ports)

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return ",".join(map(str, self.ports))


def require_no_doubles(
    friends: tuple[FriendTable, ...], groups: tuple[GroupTable, ...], offers: tuple[OfferTable, ...]
) -> None:
    """Raise Mismatch, at the second, where two entries are about the same thing."""
    said: dict[tuple[str, object], str] = {}

    def once(path: tuple[str | int, ...], what: object, label: str) -> None:
        kind = str(path[0])
        if (kind, what) in said:
            raise Mismatch(path, f"{label} stands in another [[{kind}]] already")
        said[kind, what] = label

    for number, friend in enumerate(friends):
        once(("friend", number, "name"), friend.name, friend.name)
        once(("friend", number, "key" if friend.key else "address"), friend.public_key, "the same key")
    for number, group in enumerate(groups):
        once(("group", number, "name"), group.name, group.name)
        if group.chat_id is not None:
            once(("group", number, "chat_id"), group.chat_id, "the same chat id")
    for number, offer in enumerate(offers):
        for spec in offer.specs:
            for recipient in offer.to:
                once(
                    ("offer", number, "ports"),
                    (recipient, spec.port, spec.protocol),
                    f"{spec} to {recipient}",
                )
