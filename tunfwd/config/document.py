"""The configuration: what the file may say, and what it comes to with the environment and the defaults.

Read at start, and again when the daemon is told to (changes.py). Nothing is guessed: an unknown key, a wrong
type or a bad value is a ConfigurationError that names file, line and reason. What a value means is said
beside it; README has the tour.
"""

import codecs
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

from tunfwd.common.errors import ConfigurationError
from tunfwd.common.notation import Key, TargetText
from tunfwd.common.schema import Mismatch, Parse, decode, spell
from tunfwd.config import paths
from tunfwd.config.entries import DeclaredGroup, FriendTable, GroupTable, OfferTable, require_no_doubles
from tunfwd.config.files import File, read_file
from tunfwd.config.hooks import Hook
from tunfwd.config.rules import Expose, RuleTable
from tunfwd.config.toml_lines import line_of, locate
from tunfwd.files import read_whole
from tunfwd.forwarding.policy import Rule
from tunfwd.forwarding.udp_flows import DEFAULT_IDLE
from tunfwd.tox.settings import NetworkNode, Node, Proxy, Settings

T = TypeVar("T")

DEFAULT_RANGE: Final = IPv4Network("10.77.0.0/16")
DEFAULT_RANGE6: Final = IPv6Network("fd74:756e:6677::/48")  # a unique local prefix (RFC 4193): "tunfw"
MAX_FILE: Final = 1 << 20  # bytes
_LONG_NUMBER: Final = re.compile(r"[0-9_]{4000}")
_DEEP: Final = 50  # brackets within each other; no key takes as many
MAX_DOMAIN: Final = 120  # characters: two labels of contacts fit before it (RFC 1035 2.3.4)
MAX_NICKNAME: Final = 128  # bytes; TOX_MAX_NAME_LENGTH

LogLevel = Literal["debug", "info", "warning", "error"]


def _read_proxy(text: str) -> Proxy:
    try:
        url = urlsplit(text)
        kind, host, port = url.scheme, url.hostname, url.port
    except ValueError:
        kind, host, port = "", None, None
    whole = host and port and not url.path and url.username is None and host.isprintable()
    if kind not in ("socks5", "http") or not host or not port or not whole:
        raise ValueError(f"{text!r} is not socks5://HOST:PORT or http://HOST:PORT")
    return Proxy("socks5" if kind == "socks5" else "http", host, port)


def _read_port_or_0(port: int) -> int:
    if not 0 <= port <= 65535:
        raise ValueError("must be a port, or 0")
    return port


def _read_public_nodes(value: bool | str) -> bool | Path:
    if isinstance(value, bool):
        return value
    try:
        return read_file(value)
    except ValueError:
        raise ValueError(f"must be true, false or the absolute path of a list, not {value!r}") from None


def _read_seconds(seconds: float) -> float:
    if not 0 < seconds <= 86400:
        raise ValueError("must be more than 0 and at most 86400 seconds")
    return seconds


def _read_range(text: str) -> IPv4Network:
    try:
        network = IPv4Network(text)
    except ValueError as wrong:
        raise ValueError(f"{text!r} is not an IPv4 range such as {DEFAULT_RANGE}: {wrong}") from None
    if not 8 <= network.prefixlen <= 29:
        raise ValueError(f"{text!r}: the prefix is from /8 to /29")
    if network.is_loopback or network.is_multicast or network.is_link_local or network.is_unspecified:
        raise ValueError(f"{text!r} cannot be routed to a TUN device")
    return network


def _read_range6(text: str) -> IPv6Network:
    try:
        network = IPv6Network(text)
    except ValueError as wrong:
        raise ValueError(f"{text!r} is not an IPv6 prefix such as {DEFAULT_RANGE6}: {wrong}") from None
    if network.prefixlen != 48 or not network.subnet_of(IPv6Network("fc00::/7")):
        raise ValueError(f"{text!r} is not a unique local /48, such as {DEFAULT_RANGE6}")
    return network


def _read_domain(text: str) -> str:
    domain = text.lower().removesuffix(".")
    if len(domain) > MAX_DOMAIN or not all(
        re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", label) for label in domain.split(".")
    ):
        raise ValueError(f"{text!r} is not a domain such as tunfwd.internal: at most {MAX_DOMAIN} characters")
    if domain.rpartition(".")[2].isdigit():
        raise ValueError(f"{text!r} reads as an address")
    return domain


def _read_interface(text: str) -> str:
    # IFNAMSIZ is 16 with the terminating zero; the kernel refuses these characters (dev_valid_name)
    if not re.fullmatch(r"[!-$&-.0-9;-~]{1,15}", text) or text in (".", ".."):
        raise ValueError(f"{text!r} is not an interface name: 1 to 15 characters")
    return text


class SocketAddress(NamedTuple):
    """Where to listen."""

    address: IPv4Address | IPv6Address
    port: int


def _read_listen(text: str) -> SocketAddress:
    host, _, port = text.rpartition(":")
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
        number = int(port) if port.isascii() and port.isdigit() else 0
    except ValueError:
        number = 0
    if not 0 < number < 65536 or (address.version == 6) != host.startswith("["):
        raise ValueError(f"{text!r} is not an address and a port, such as 127.0.0.1:1080 or [::1]:1080")
    return SocketAddress(address, number)


def _read_account(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError(f"{text!r} is not the name of a user or group")
    return text


def _read_mtu(mtu: int) -> int:
    if not 1280 <= mtu <= 65521:
        raise ValueError("must be from 1280, the least IPv6 takes (RFC 8200 5), to 65521 bytes")
    return mtu


Seconds = Annotated[float, Parse(float, _read_seconds)]
Account = Annotated[str, Parse(str, _read_account)]
NodeText = Annotated[Node, Parse(str, Node.parse)]
PublicNodes = Annotated[bool | Path, Parse(bool | str, _read_public_nodes)]
PortOr0 = Annotated[int, Parse(int, _read_port_or_0)]


@dataclass(frozen=True, slots=True)
class Tox:
    """[tox]: how we take part in the Tox network."""

    public_nodes: PublicNodes = True  # join at the nodes that come with the program, or at those of a list
    bootstrap: tuple[NodeText, ...] = ()  # nodes to join the network at, before the public ones
    relays: tuple[NodeText, ...] = ()  # TCP relays to use besides those toxcore finds
    udp: bool = True  # without it, everything goes through TCP relays
    udp_port: PortOr0 = 0  # 0: the first free one from 33445
    ipv6: bool = True
    local_discovery: bool = True  # finds friends in the local network by broadcast
    tcp_relay_port: PortOr0 = 0  # relays for others at this port; 0: does not
    proxy: Annotated[Proxy, Parse(str, _read_proxy)] | None = None
    nickname: str | None = None  # what contacts see; None: the host's name
    passphrase_file: File | None = None  # its first line encrypts the identity on disk
    binding: Literal["builtin", "pytox"] = "builtin"
    groups: bool = True  # False runs on a libtoxcore that has none

    def __post_init__(self) -> None:
        if self.proxy and self.udp:
            # toxcore sends UDP past the proxy, which would give away what a proxy is there to hide.
            raise Mismatch(("proxy",), "needs udp = false, or UDP would go around it")
        if self.nickname is not None and not 0 < len(self.nickname.encode()) <= MAX_NICKNAME:
            raise Mismatch(("nickname",), f"must be 1 to {MAX_NICKNAME} bytes long")

    def settings(self, savedata: Path, nickname: str, public_nodes: tuple[NetworkNode, ...] = ()) -> Settings:
        """Return the settings of a Tox node whose identity is in `savedata`; `nickname` if none is set."""
        return Settings(
            savedata=savedata,
            passphrase_file=self.passphrase_file,
            name=self.nickname or nickname,
            library=self.binding,
            bootstrap=self.bootstrap,
            public_nodes=public_nodes,
            relays=self.relays,
            udp=self.udp,
            udp_port=self.udp_port,
            ipv6=self.ipv6,
            local_discovery=self.local_discovery,
            tcp_relay_port=self.tcp_relay_port,
            proxy=self.proxy,
            groups=self.groups,
        )


@dataclass(frozen=True, slots=True)
class Network:
    """[network]: the TUN device and the virtual addresses behind it."""

    range: Annotated[IPv4Network, Parse(str, _read_range)] | None = (
        None  # None: DEFAULT_RANGE, or another free
    )
    range6: Annotated[IPv6Network, Parse(str, _read_range6)] = DEFAULT_RANGE6
    interface: Annotated[str, Parse(str, _read_interface)] = "tunfwd0"
    mtu: Annotated[int, Parse(int, _read_mtu)] = 1500  # bytes
    forwarded: bool = False  # whether hosts that this machine routes for may reach contacts, too
    users: tuple[str, ...] | None = None  # who of this machine reaches contacts; None: everybody


@dataclass(frozen=True, slots=True)
class Dns:
    """[dns]: names of contacts for the programs of this machine."""

    enabled: bool = True  # whether the resolver answers at the range's .53
    domain: Annotated[str, Parse(str, _read_domain)] = "tunfwd.internal"  # under which contacts have names


@dataclass(frozen=True, slots=True)
class Forwarding:
    """[forwarding]: how flows are treated."""

    udp_idle: Seconds = DEFAULT_IDLE  # s until a UDP flow without packets ends that has carried both ways
    connect_timeout: Seconds = 30.0  # s for the far service to answer
    link: bool = True  # our own fast link, where the peer has it
    congestion: Literal["bbr", "cubic", "newreno"] = "bbr"  # who paces the link
    outage: Seconds = 60.0  # s a link's flows outlive a contact that went offline


@dataclass(frozen=True, slots=True)
class Lan:
    """[lan]: how games find each other."""

    broadcast: bool = True  # broadcasts into the device go to the contacts whose port they are for
    capture: bool = False  # those that leave by other interfaces, too


@dataclass(frozen=True, slots=True)
class Daemon:
    """[daemon]: the process."""

    user: Account | None = None  # whom it becomes when root starts it; None: tunfwd


@dataclass(frozen=True, slots=True)
class Control:
    """[control]: the socket of the commands."""

    socket: File | None = None
    group: Account | None = None  # whose members may use it too


@dataclass(frozen=True, slots=True)
class Socks:
    """[socks]: a SOCKS5 server, by which programs reach contacts by name."""

    listen: Annotated[SocketAddress, Parse(str, _read_listen)] | None = None  # "127.0.0.1:1080"
    remote: bool = False  # whether it may listen for other machines, too

    def __post_init__(self) -> None:
        if self.listen is not None and not self.remote and not self.listen.address.is_loopback:
            raise Mismatch(("listen",), "is not of this machine alone; if that is meant: remote = true")


@dataclass(frozen=True, slots=True)
class Log:
    """[log]: how much is said on stderr, and what is traced."""

    level: LogLevel = "info"
    qlog: File | None = None  # folder that gets traces of all links; None: there are none


@dataclass(frozen=True, slots=True)
class Metrics:
    """[metrics]: figures for Prometheus."""

    listen: TargetText | None = None  # where they are served by HTTP, at /metrics; None: nowhere


@dataclass(frozen=True, slots=True)
class Invitations:
    """[friends], [groups]: whose friend requests, or whose invitations into groups, need no person's yes."""

    auto_accept: tuple[Key, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """The file's tables, as written."""

    tox: Tox = field(default_factory=Tox)
    network: Network = field(default_factory=Network)
    dns: Dns = field(default_factory=Dns)
    forwarding: Forwarding = field(default_factory=Forwarding)
    lan: Lan = field(default_factory=Lan)
    daemon: Daemon = field(default_factory=Daemon)
    control: Control = field(default_factory=Control)
    socks: Socks = field(default_factory=Socks)
    log: Log = field(default_factory=Log)
    metrics: Metrics = field(default_factory=Metrics)
    friends: Invitations = field(default_factory=Invitations)
    groups: Invitations = field(default_factory=Invitations)
    rule: tuple[RuleTable, ...] = ()
    expose: tuple[Expose, ...] = ()
    hook: tuple[Hook, ...] = ()
    friend: tuple[FriendTable, ...] = ()
    group: tuple[GroupTable, ...] = ()
    offer: tuple[OfferTable, ...] = ()

    def __post_init__(self) -> None:
        require_no_doubles(self.friend, self.group, self.offer)


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the daemon is told, settled."""

    file: Path | None  # None: there is none, and all is default
    place: Path  # where it is looked for
    state: Path  # directory
    socket: Path
    group: str | None
    user: str | None
    log_level: LogLevel
    qlog: Path | None
    metrics: Metrics
    tox: Tox
    network: Network
    dns: Dns
    forwarding: Forwarding
    lan: Lan
    socks: Socks
    auto_accept_friends: frozenset[bytes]  # public keys
    auto_accept_groups: frozenset[bytes]  # public keys of friends who invite
    rules: tuple[Rule, ...]
    exposed: tuple[Expose, ...]
    hooks: tuple[Hook, ...]
    declared_friends: tuple[FriendTable, ...]
    declared_groups: tuple[DeclaredGroup, ...]
    declared_offers: tuple[OfferTable, ...]


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    euid: int | None = None,
) -> Config:
    """Return the configuration in force. Raises ConfigurationError.

    The file is `path`, else $TUNFWD_CONFIG, else the default place of the user. One that was named has to be
    there. $TUNFWD_STATE_DIR, $TUNFWD_SOCKET, $TUNFWD_LOG (a level) and $TUNFWD_PUBLIC_NODES (0, 1 or a list's
    file) go before the file.
    """
    places = paths.of(os.geteuid() if euid is None else euid, environ)
    named = path or environ.get(paths.CONFIG_VARIABLE)
    file = _absolute(named) if named else Path(places.config)
    text = _text(file, required=bool(named))
    document = Document() if text is None else parse(text, str(file))
    return Config(
        file=None if text is None else file,
        place=file,
        state=_from_environment(environ, paths.STATE_VARIABLE, _absolute, Path(places.state)),
        socket=_from_environment(
            environ, paths.SOCKET_VARIABLE, _absolute, document.control.socket or Path(places.socket)
        ),
        group=document.control.group or environ.get(paths.GROUP_VARIABLE) or None,
        user=document.daemon.user,
        log_level=_from_environment(environ, paths.LOG_VARIABLE, _read_level, document.log.level),
        qlog=document.log.qlog,
        metrics=document.metrics,
        tox=replace(
            document.tox,
            public_nodes=_from_environment(
                environ, paths.NODES_VARIABLE, _read_whether_public, document.tox.public_nodes
            ),
        ),
        network=document.network,
        dns=document.dns,
        forwarding=document.forwarding,
        lan=document.lan,
        socks=document.socks,
        auto_accept_friends=frozenset(document.friends.auto_accept),
        auto_accept_groups=frozenset(document.groups.auto_accept),
        rules=tuple(table.rule for table in document.rule),
        exposed=document.expose,
        hooks=document.hook,
        declared_friends=document.friend,
        declared_groups=_with_passwords(document, str(file), text or ""),
        declared_offers=document.offer,
    )


def parse(text: str, name: str) -> Document:
    """Return the tables of a document. ConfigurationError names `name`, the line, and what is wrong there."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as wrong:
        raise ConfigurationError(_syntax(text, name, str(wrong))) from None
    except ValueError:  # Python reads no decimal number as long as that
        found = _LONG_NUMBER.search(text)
        line = text.count("\n", 0, found.start()) + 1 if found else 1
        raise ConfigurationError(f"{name}, line {line}: too large a number") from None
    except RecursionError:
        raise _too_deep(text, name) from None
    try:
        return decode(Document, content)
    except Mismatch as wrong:
        line = line_of(locate(text), wrong.path)
        if len(wrong.path) == 1 and wrong.reason == "must be a list, not a table":
            table = wrong.path[0]
            again = f"write [[{table}]], in two pairs of brackets: there may be several"
            raise ConfigurationError(f"{name}, line {line}: {again}") from None
        raise ConfigurationError(f"{name}, line {line}: {_subject(wrong)}{wrong.reason}") from None
    except RecursionError:  # a list of lists of ports
        raise _too_deep(text, name) from None


def _with_passwords(document: Document, name: str, text: str) -> tuple[DeclaredGroup, ...]:
    read = []
    for number, table in enumerate(document.group):
        try:
            read.append(table.read())
        except ValueError as wrong:
            line = line_of(locate(text), ("group", number, "password_file"))
            raise ConfigurationError(f"{name}, line {line}: [[group]] password_file: {wrong}") from None
    return tuple(read)


def _too_deep(text: str, name: str) -> ConfigurationError:
    depth = 0
    for number, line in enumerate(text.split("\n"), start=1):
        for character in line:
            depth += (character in "[{") - (character in "]}")
            if depth > _DEEP:
                return ConfigurationError(f"{name}, line {number}: nested too deeply")
    return ConfigurationError(f"{name}, line 1: nested too deeply")


def _text(file: Path, *, required: bool) -> str | None:
    try:
        data = read_whole(file, MAX_FILE + 1)
    except FileNotFoundError:
        if required:
            raise ConfigurationError(f"{file}: there is no such file") from None
        return None
    except OSError as failure:
        raise ConfigurationError(f"{file}: cannot be read: {failure.strerror}") from None
    if len(data) > MAX_FILE:
        raise ConfigurationError(f"{file}: longer than {MAX_FILE} bytes")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data:
        line = data.count(b"\n", 0, data.find(b"\0")) + 1
        raise ConfigurationError(f"{file}, line {line}: not UTF-8 text, but UTF-16 perhaps; save it as UTF-8")
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as wrong:
        line = data.removeprefix(codecs.BOM_UTF8).count(b"\n", 0, wrong.start) + 1
        raise ConfigurationError(f"{file}, line {line}: not UTF-8 text") from None


def _syntax(text: str, name: str, message: str) -> str:
    """tomllib's message, "… (at line 3, column 5)" or "… (at end of document)", in our order."""
    reason, _, place = message.rpartition(" (at ")
    found = re.match(r"line (\d+)", place)
    line = int(found[1]) if found else text.count("\n") + 1
    return f"{name}, line {line}: {reason[:1].lower()}{reason[1:]}"


def _subject(wrong: Mismatch) -> str:
    """Return the name of the key for the message, as the file has it: `[tox] udp_port`, `[[rule]] ports`."""
    match wrong.path:
        case (str() as table, int(), *rest):
            return f"[[{table}]] {spell(tuple(rest))}".rstrip() + " "
        case (table, *rest):
            return f"[{spell((table,))}] {spell(tuple(rest))}".rstrip() + " "
    return ""


def _absolute(text: str | os.PathLike[str]) -> Path:
    return Path(os.path.abspath(text))


def _read_level(text: str) -> LogLevel:
    return decode(Literal["debug", "info", "warning", "error"], text.lower())  # type: ignore[arg-type]


def _read_whether_public(text: str) -> bool | Path:
    if text in ("0", "1"):
        return text == "1"
    if not os.path.isabs(text):
        raise ValueError(f"must be 0, 1 or the absolute path of a list of nodes, not {text!r}")
    return Path(text)


def _from_environment(environ: Mapping[str, str], variable: str, read: Any, default: T) -> T:
    if not (text := environ.get(variable)):
        return default
    try:
        value: T = read(text)
    except ValueError as wrong:
        raise ConfigurationError(f"${variable} {wrong}") from None
    return value
