"""Every method of the control socket: its name, its parameters, and the shape of its result.

The daemon's handlers and the command line share these types, and `--json` prints the results as they stand:
keys are added here, never renamed or removed. Parameters are dataclasses, decoded and judged before a handler
sees them. Results are TypedDicts: plain data. Byte counts are integers since the daemon started; public keys
are upper-case hex; times are seconds.

What a person may write for a contact is its name, the beginning of its public key, or, for a member of a
group, "group:GROUP/NAME"; for an offer or mapping its name or the beginning of its id.
"""

import re
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal, NotRequired, TypedDict

from tunfwd.common.names import ContactName, OfferName, Spoken
from tunfwd.common.notation import Port, PortSpec, Protocol, TargetText, read_address
from tunfwd.common.ports import Ports, each_once
from tunfwd.common.schema import Parse
from tunfwd.control.glance import (
    STATUS as STATUS,
    ContactEntry as ContactEntry,
    GroupEntry as GroupEntry,
    Kind as Kind,
    Link as Link,
    Load as Load,
    Method as Method,
    Nothing as Nothing,
    RoomState as RoomState,
    StatusResult as StatusResult,
    Waiting as Waiting,
)
from tunfwd.control.tickets import TicketText
from tunfwd.events import Kind as EventKind
from tunfwd.tox.nodes import ListedNode

Level = Literal["ok", "warning", "error"]
Direction = Literal["server", "connection"]
Origin = Literal["local", "remote"]
Source = Literal["auto", "peer", "host"]
Sees = Literal["peer", "host"]
NodeOrigin = Literal["bootstrap", "relays", "bundled", "added"]
NodeAnswer = Literal["answers", "wrong key", "no answer", "refused", "unreachable"]
MAX_PASSWORD: Final = 32  # bytes; TOX_GROUP_MAX_PASSWORD_SIZE


# Parameters


@dataclass(frozen=True, slots=True)
class FriendAdd:
    """Asks the owner of a Tox address to be our friend."""

    address: Annotated[str, Parse(str, read_address)]
    name: ContactName | None = None  # None: the nickname they will tell us
    message: str | None = None


@dataclass(frozen=True, slots=True)
class FriendAccept:
    """Says yes to someone who asks to be our friend. `key`: the beginning of their public key."""

    key: str
    name: ContactName | None = None


@dataclass(frozen=True, slots=True)
class FriendReject:
    """Forgets someone who asks to be our friend; they are not told."""

    key: str


@dataclass(frozen=True, slots=True)
class FriendRemove:
    """Ends a friendship, and with it every offer and mapping."""

    name: Spoken


@dataclass(frozen=True, slots=True)
class FriendRename:
    """Calls a friend by another name. Rules go by such names, not by what contacts call themselves."""

    name: Spoken
    to: ContactName


@dataclass(frozen=True, slots=True)
class OfferAdd:
    """Offers services of ours. `to`: contacts, "group:GROUP", "group:GROUP/NAME", "conference:NAME"."""

    to: list[Spoken]
    protocol: Protocol | None = None  # of one port
    port: Port | None = None
    ports: list[Ports] | None = None  # instead: "8080/tcp", "27015-27030/udp"
    name: OfferName | None = None
    target: TargetText | None = None  # None: this machine, at the port offered; only for one port
    source: Source = "auto"  # whom the service sees: the peer's virtual address, or this host

    def __post_init__(self) -> None:
        if not self.to:
            raise ValueError("an offer needs someone to go to")
        if len(self.specs) > 1 and self.target is not None:
            raise ValueError("a target is for one port; the others of this machine need none")
        _require_source_fits(self.source, self.target)

    @property
    def specs(self) -> list[PortSpec]:
        """The ports."""
        return _specs(self.protocol, self.port, self.ports)


def _require_source_fits(source: Source, target: TargetText | None) -> None:
    """Raise ValueError for a service that cannot see who connects, though a person wants it to."""
    if source == "peer" and target is not None:
        raise ValueError(
            "--source peer is for a service of this machine at the port that is offered: "
            f"what is reached at {target} sees this machine"
        )


def _specs(protocol: Protocol | None, port: Port | None, ports: list[Ports] | None) -> list[PortSpec]:
    """Return ports that are given in one way or the other, each once. Raises ValueError."""
    if ports is not None:
        if protocol is not None or port is not None:
            raise ValueError("ports are given as `ports`, or as `protocol` and `port`")
        if not ports:
            raise ValueError("no port is given")
        return each_once(ports)
    if protocol is None or port is None:
        raise ValueError("'port' and 'protocol', or 'ports', are missing")
    return [PortSpec(port, protocol)]


@dataclass(frozen=True, slots=True)
class OfferAccept:
    """Takes an offer, or all that a contact calls so. `contact` decides between offers of one name."""

    offer: Spoken
    contact: Spoken | None = None
    port: Port | None = None  # the port at the virtual address, where the one offered does not suit
    target: TargetText | None = None  # for a connection offer: what it leads to, instead of [[expose]]
    direction: Direction | None = None  # "server": only what is offered; "connection": only what is asked for


@dataclass(frozen=True, slots=True)
class OfferDeny:
    """Declines an offer made to us."""

    offer: Spoken
    contact: Spoken | None = None


@dataclass(frozen=True, slots=True)
class Kill:
    """Ends an offer or a mapping, ours or theirs, and every connection in it."""

    id: Spoken
    contact: Spoken | None = None


@dataclass(frozen=True, slots=True)
class OfferChange:
    """Changes an offer of ours in place; with another port, it is withdrawn and offered anew."""

    id: Spoken
    contact: Spoken | None = None
    name: OfferName | None = None
    target: TargetText | None = None
    here: bool = False  # the service is on this machine, at the port offered, again
    source: Source | None = None
    port: Port | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """Asks a contact to let us reach ports of its (connection offers)."""

    contact: Spoken
    protocol: Protocol | None = None  # of one port
    port: Port | None = None
    ports: list[Ports] | None = None  # instead, as in OfferAdd
    local_port: Port | None = None  # only for one port
    name: OfferName | None = None

    def __post_init__(self) -> None:
        if len(self.specs) > 1 and self.local_port is not None:
            raise ValueError("another port at the virtual address is for one port")

    @property
    def specs(self) -> list[PortSpec]:
        """The ports."""
        return _specs(self.protocol, self.port, self.ports)


MAX_USES: Final = 1000  # of an invite
MAX_LIFE: Final = 366 * 86400.0  # s


def _read_uses(uses: int) -> int:
    if not 1 <= uses <= MAX_USES:
        raise ValueError(f"must be 1 to {MAX_USES}")
    return uses


def _read_life(seconds: float) -> float:
    if not 1 <= seconds <= MAX_LIFE:
        raise ValueError("must be 1 second to 366 days")
    return seconds


Uses = Annotated[int, Parse(int, _read_uses)]
Life = Annotated[float, Parse(float, _read_life)]


@dataclass(frozen=True, slots=True)
class Share:
    """Makes a ticket: whoever joins by it becomes a friend, and is offered the ports."""

    ports: list[Ports]  # "8080/tcp", "27015-27030/udp"
    name: OfferName | None = None
    target: TargetText | None = None  # as in OfferAdd
    source: Source = "auto"
    uses: Uses = 1  # how many may join by it
    seconds: Life = 86400.0  # until it ends

    def __post_init__(self) -> None:
        if len(self.specs) > 1 and self.target is not None:
            raise ValueError("a target is for one port; the others of this machine need none")
        _require_source_fits(self.source, self.target)

    @property
    def specs(self) -> list[PortSpec]:
        """The ports."""
        return _specs(None, None, self.ports)


@dataclass(frozen=True, slots=True)
class GroupShare:
    """Makes a ticket to a group: to a private one with an invitation, to a public one with its chat id."""

    group: Spoken
    uses: Uses = 1  # of a private one
    seconds: Life = 86400.0
    with_password: bool = True  # whether the ticket has the group's password


@dataclass(frozen=True, slots=True)
class InviteRevoke:
    """Ends an invite: its ticket lets in nobody any more. Who has come by it stays."""

    id: Spoken


@dataclass(frozen=True, slots=True)
class Block:
    """Drops friend requests of a key from now on; a friend's ends the friendship, too."""

    who: Spoken  # a friend, who asks to be one, or anybody's public key or Tox address


@dataclass(frozen=True, slots=True)
class Unblock:
    """Takes friend requests of a key again."""

    who: Spoken  # the beginning of the key, or what its owner was called


def _read_timeout(seconds: float) -> float:
    if not 0 < seconds <= 100:
        raise ValueError("must be more than 0 and at most 100 seconds")
    return seconds


@dataclass(frozen=True, slots=True)
class Ping:
    """One round trip to a contact over Tox."""

    name: Spoken
    timeout: Annotated[float, Parse(float, _read_timeout)] = 5.0


def _read_cursor(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{8}(\.[0-9]{1,18}){2}", text):
        raise ValueError("is not what an answer gave as `next`")
    return text


def _read_wait(seconds: float) -> float:
    if not 0 <= seconds <= 100:
        raise ValueError("must be from 0 to 100 seconds")
    return seconds


@dataclass(frozen=True, slots=True)
class Events:
    """What has happened, of some kinds (all by default)."""

    after: Annotated[str, Parse(str, _read_cursor)] | None = None
    """The `next` of an earlier answer; None: all that is kept, or, with `new`, nothing but what comes."""
    new: bool = False
    wait: Annotated[float, Parse(float, _read_wait)] = 0.0
    """s to wait for something."""
    kinds: tuple[EventKind, ...] = ()


def _read_password(text: str) -> str:
    if not 0 < len(text.encode()) <= MAX_PASSWORD:
        raise ValueError(f"must be 1 to {MAX_PASSWORD} bytes long")
    return text


Password = Annotated[str, Parse(str, _read_password)]


@dataclass(frozen=True, slots=True)
class GroupCreate:
    """Creates a group. Only a public one can be joined by its chat id; a private one takes an invitation."""

    name: ContactName
    public: bool = False
    password: Password | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class GroupJoin:
    """Joins a group by its chat id, or takes an invitation, named by its group's name or id."""

    group: Spoken
    name: ContactName | None = None  # what to call it here; None: as its founder does
    password: Password | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Join:
    """Joins by a ticket: becomes a friend of who made it, and accepts the ports that it names."""

    ticket: TicketText
    name: ContactName | None = None  # what to call the friend here, or the group
    password: Password | None = field(default=None, repr=False)  # of a group whose ticket has none


@dataclass(frozen=True, slots=True)
class JoinStatus:
    """How far joining by a ticket has come."""

    ticket: TicketText


@dataclass(frozen=True, slots=True)
class GroupRename:
    """Calls a group by another name, here."""

    group: Spoken
    to: ContactName


@dataclass(frozen=True, slots=True)
class Invite:
    """Invites a friend into a group or conference."""

    group: Spoken
    friend: Spoken


@dataclass(frozen=True, slots=True)
class Kick:
    """Kicks a member from a group; takes a founder or moderator."""

    group: Spoken
    member: Spoken


@dataclass(frozen=True, slots=True)
class Group:
    """A group or conference of ours, by name or the beginning of its id."""

    group: Spoken


@dataclass(frozen=True, slots=True)
class ConferenceCreate:
    """Creates a conference."""

    name: ContactName


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes by which the network is joined. `test` asks each whether it is there."""

    test: bool = False


@dataclass(frozen=True, slots=True)
class NodesUpdate:
    """Adds nodes to those that are known."""

    nodes: list[ListedNode]


def _read_trace_size(size: int) -> int:
    if not 1 << 16 <= size <= 1 << 40:
        raise ValueError("must be from 64 KiB to 1 TiB, in bytes")
    return size


@dataclass(frozen=True, slots=True)
class TraceBegin:
    """Begins a trace of a contact's link, which lasts while `trace.next` asks about it."""

    contact: str
    limit: Annotated[int, Parse(int, _read_trace_size)] = 1 << 28
    """Bytes of all records."""


@dataclass(frozen=True, slots=True)
class TraceNext:
    """Takes what a trace has to say since; with `end`, that is the last of it."""

    trace: str
    wait: Annotated[float, Parse(float, _read_wait)] = 0.0
    """s to wait for something."""
    end: Literal["stopped", "time"] | None = None


@dataclass(frozen=True, slots=True)
class Reload:
    """Reads the configuration again."""


# Results


class Change(TypedDict):
    """What every command that changes something may add."""

    warning: NotRequired[str]  # the change is in effect, but could not be saved: why


class IdentityResult(TypedDict):
    """Who we are."""

    address: str
    public_key: str
    dht_key: str
    udp_port: int  # 0: Tox uses no UDP
    nickname: str
    virtual_address: str  # by which friends reach us
    virtual_address6: str
    device_address: NotRequired[str]  # the first of the range, ours whoever we are
    device_address6: NotRequired[str]
    dns: NotRequired[list[str]]  # where names are asked for; none: [dns] enabled = false
    domain: NotRequired[str]
    interface: str  # empty: there is no device
    version: str
    toxcore: str
    mode: NotRequired[Literal["device", "rootless"]]


class FriendEntry(TypedDict):
    """A friend, or someone who asks to be one (`state` "pending")."""

    public_key: str
    name: str
    state: Literal["online", "offline", "pending"]
    address: str | None  # virtual; None while pending, and where the range is full
    address6: str | None
    message: str | None  # what someone who asks said


class FriendsResult(TypedDict):
    """friend.list."""

    friends: list[FriendEntry]


class FriendResult(Change):
    """friend.add, friend.accept, friend.reject, friend.remove: the one concerned."""

    friend: FriendEntry
    network: NotRequired[Literal["online", "offline"]]  # of friend.add: offline, it goes out later
    ended: NotRequired["list[Killed]"]  # of friend.remove: what was agreed with it


class OfferEntry(TypedDict):
    """An offer between us and a contact; for a standing offer to a group, `contact` is "group:NAME"."""

    id: str  # 8 hex digits, the same at both ends, for as long as the offer stands
    contact: str
    direction: Direction
    protocol: Protocol
    port: int
    name: str
    origin: Origin
    state: str
    target: str | None
    left: NotRequired[bool]  # whether a person here had accepted it and has left it since
    paused: NotRequired[bool]  # whether we refuse connections to it for now
    sees: NotRequired[Sees | None]  # whom the service sees; None: it is theirs, or not there yet
    trouble: NotRequired[str | None]  # why it cannot be reached, or does not seem to be
    members: NotRequired[int]  # of an offer to a whole group: how many are in it, but for us …
    taken: NotRequired[int]  # … and how many of them have accepted it
    room_offer: NotRequired[str]  # the id of the offer to a whole group that this is one member's part of


class OffersResult(Change):
    """offer.add, offer.list, offer.request, offer.deny: the offers concerned."""

    offers: list[OfferEntry]
    refused: NotRequired[list[OfferEntry]]  # theirs that we declined or left, and that may be accepted still
    unseen: NotRequired[dict[str, int]]  # offers that there is no room for until others are decided on


class MappingEntry(TypedDict):
    """An accepted offer: where it is reached, and what went through it."""

    id: str
    contact: str
    protocol: Protocol
    address: str | None  # the virtual address it is reached at, or whose connections come to us
    own_address: NotRequired[str | None]  # where the service is ours: at which virtual address it is reached
    address6: str
    port: int
    dns: NotRequired[str | None]  # the contact's name in DNS
    name: str
    state: str
    connections: int
    rx_bytes: int
    tx_bytes: int
    drops: int
    target: str | None  # on the serving side: what it leads to
    origin: Origin
    direction: Direction
    paused: NotRequired[bool]  # as in an OfferEntry
    silent_seconds: NotRequired[int | None]  # as in a ContactEntry
    interrupted_seconds: NotRequired[int | None]  # its connections wait for the contact, for so long now …
    kept_seconds: NotRequired[int | None]  # … and so long still
    sees: NotRequired[Sees | None]
    trouble: NotRequired[str | None]
    virtual_port: NotRequired[int]  # the port in the virtual network, where it listens at another here
    reason: NotRequired[str]  # why it does


class MappingResult(Change):
    """offer.accept."""

    mapping: MappingEntry  # the first
    mappings: NotRequired[list[MappingEntry]]  # all: those of one name are accepted together


class MappingsResult(TypedDict):
    """mapping.list."""

    ports: list[MappingEntry]


class Killed(TypedDict):
    """Something that was ended."""

    id: str
    contact: str
    name: str
    how: NotRequired[Literal["withdrawn", "declined", "left"]]


class KilledResult(Change):
    """kill, leave."""

    killed: list[Killed]


class ConnectionEntry(TypedDict):
    """A TCP connection, or a UDP conversation, over a port."""

    contact: str
    direction: Literal["in", "out"]  # whether the contact reaches us, or we reach it
    protocol: Protocol
    port: int  # as offered
    name: str
    id: str  # of the offer
    source: str  # who connects: the contact's virtual address, or the program's address here
    target: str  # what is reached: the service here, or the virtual address
    state: Literal["connecting", "open"]
    seconds: int  # since it began
    tx_bytes: int  # towards the contact
    rx_bytes: int


class ConnectionsResult(TypedDict):
    """connections."""

    connections: list[ConnectionEntry]


class InviteOffer(TypedDict):
    """A port that is offered to who joins by an invite."""

    protocol: Protocol
    port: int
    name: str
    target: str
    sees: NotRequired[Sees | None]  # as in an OfferEntry
    trouble: NotRequired[str | None]


class JoinedEntry(TypedDict):
    """Who has joined by an invite."""

    name: str
    public_key: str
    at: int  # s since 1970


class InviteEntry(TypedDict):
    """An invite of ours."""

    id: str | None  # None: a public group's, whose ticket does not end
    ticket: NotRequired[str]  # only when it is made: its token is not kept
    uses: int | None  # how many may join by it, in all; None: anybody
    expires: int | None  # s since 1970
    offers: list[InviteOffer]
    name: str
    group: str | None  # the group's name, of a ticket to one
    state: Literal["open", "spent", "expired"]
    joined: list[JoinedEntry]


class InviteResult(Change):
    """share, group.share, invite.revoke: the one concerned."""

    invite: InviteEntry
    network: NotRequired[Literal["online", "offline"]]


class InvitesResult(TypedDict):
    """invite.list."""

    invites: list[InviteEntry]


class JoinResult(Change):
    """join, join.status."""

    contact: ContactEntry | None  # who made the ticket; None: a public group's names nobody
    mappings: list[MappingEntry]  # the ports that it names, as in `ports`
    group: NotRequired[GroupEntry | None]
    stage: NotRequired[Literal["asked", "connected", "offered", "reachable"]]
    missing: NotRequired[str | None]  # what there is to wait for


class BlockedEntry(TypedDict):
    """A key whose requests are dropped."""

    public_key: str
    name: str  # what its owner was called; may be empty


class BlockedResult(Change):
    """friend.block, friend.unblock, friend.blocked: those concerned."""

    blocked: list[BlockedEntry]


class NewAddressResult(Change):
    """id.new_address."""

    address: str
    revoked: int  # invites that have ended: their tickets have the old address


class PingResult(TypedDict):
    """The round trip."""

    contact: str
    seconds: float
    path: Literal["direct", "relay"]
    path_seconds: NotRequired[float | None]  # for how long
    rtt: NotRequired[float | None]  # s, as the link measures it from its own packets; these as in `status`
    loss: NotRequired[float | None]
    window: NotRequired[int | None]


class EventEntry(TypedDict):
    """One thing that happened; which of the optional keys it has goes by its kind: docs/events.md."""

    seq: int
    """From 1 on, in each run of the daemon."""
    time: str
    """ISO 8601, UTC."""
    event: EventKind
    text: str
    """One line for people."""
    contact: NotRequired[str]
    public_key: NotRequired[str]
    link: NotRequired[Link]
    message: NotRequired[str]
    id: NotRequired[str]
    protocol: NotRequired[Protocol]
    port: NotRequired[int]
    name: NotRequired[str]
    room: NotRequired[str]
    state: NotRequired[str]
    reason: NotRequired[str]
    invite: NotRequired[str]
    online: NotRequired[bool]


class EventsResult(TypedDict):
    """Events, oldest first."""

    events: list[EventEntry]
    next: str
    """Where to go on."""
    lost: int
    """Events that were no longer kept when they were asked for."""


class TraceResult(TypedDict):
    """What a trace has to say. Figures are of all of it."""

    trace: str
    contact: str
    records: str
    """Entries of a JSON text sequence: qlog."""
    packets_sent: int
    packets_received: int
    packets_lost: int
    dropped: int
    """Records that nobody took in time."""
    over: str | None
    """Why nothing more comes."""


class StopResult(TypedDict):
    """stop: the daemon ends in order once this is answered."""

    pid: int


class VersionResult(TypedDict):
    """What runs."""

    version: str
    compiled: bool
    """Whether the packet path is C."""
    toxcore: str
    toxcore_package: NotRequired[str | None]  # the version of the distribution's package, where it is known
    binding: NotRequired[str]  # how libtoxcore is called: "api" (compiled), "abi" (not), "pytox"


class NodeEntry(TypedDict):
    """A node by which the network is joined, and how it did."""

    public_key: str
    hosts: list[str]  # addresses, or names
    port: int | None  # for UDP; None: it is a relay only
    tcp_ports: list[int]
    origin: NodeOrigin
    maintainer: str
    location: str
    asked: int  # attempts that it was part of since the daemon started
    relay: bool  # whether we are connected to it as a relay
    udp: NodeAnswer | None  # what it said when it was last tested; None: it was not
    tcp: dict[str, NodeAnswer]  # likewise, by port
    error: str | None  # why it could not be asked


class NodesResult(TypedDict):
    """nodes."""

    network: Literal["online", "offline"]
    public_nodes: bool  # whether the configuration lets us join at public nodes
    proxy: bool  # whether the configuration names a proxy
    nodes: list[NodeEntry]


class NodesUpdateResult(TypedDict):
    """nodes.update."""

    added: list[str]  # public keys of those that are new, or have changed
    total: int  # of added ones, now
    public_nodes: bool


class ReloadResult(Change):
    """reload: keys as the configuration has them, `[tox] udp_port`, `[[rule]]`."""

    file: str | None  # None: there is none, and all is default
    changed: list[str]  # is in effect from now on
    restart: list[str]  # has changed, and takes effect when the daemon is started again
    problems: list[str]  # entries that contradict what is there: a sentence each


class Check(TypedDict):
    """One thing `doctor` looked at. `ok` is False only at level "error"."""

    name: str
    ok: bool
    level: Level
    detail: str


class DoctorResult(TypedDict):
    """What the daemon can see of its own health."""

    checks: list[Check]


class GroupsResult(TypedDict):
    """group.list, conference.list: members and invitations alike."""

    groups: list[GroupEntry]


class GroupResult(Change):
    """The one group or conference concerned."""

    group: GroupEntry


class BannedMembersResult(Change):
    """group.ban, group.unban, group.banned: those concerned."""

    group: GroupEntry
    banned: list[BlockedEntry]


class MemberEntry(TypedDict):
    """A member of a group or conference, ourselves left out."""

    name: str
    public_key: str
    address: str | None  # None: cannot be reached
    address6: str | None
    link: Link
    reachable: bool
    advice: str | None  # what would make it reachable (by IPv4): a conference's member who is no friend


class OwnEntry(TypedDict):
    """Ourselves, as the members of a group know us."""

    name: str
    public_key: str
    address: str | None
    address6: str
    role: NotRequired[Literal["founder", "moderator", "user", "observer"]]  # the first two may kick


class MembersResult(TypedDict):
    """group.peers, conference.peers."""

    group: GroupEntry
    peers: list[MemberEntry]
    self: NotRequired[OwnEntry]  # of a group that we are in


# Methods

# -- run


@dataclass(frozen=True, slots=True)
class Run:
    """A device of another network, which is to be served; two descriptors come with it.

    The first is the TUN device's, the second one that is readable once nobody needs it any more.
    """

    mtu: int
    udp_segmentation: bool = False


class RunResult(TypedDict):
    """What the device is to be like."""

    address: str  # with the length of its prefix
    address6: str
    resolver: list[str]
    """Where names are asked for; none: nowhere."""
    domain: str


RUN: Final = Method("run", Run, RunResult)

IDENTITY: Final = Method("id", Nothing, IdentityResult)
NEW_ADDRESS: Final = Method("id.new_address", Nothing, NewAddressResult, changes=True)
STOP: Final = Method("stop", Nothing, StopResult)
VERSION: Final = Method("version", Nothing, VersionResult)
NODES: Final = Method("nodes", Nodes, NodesResult)
NODES_UPDATE: Final = Method("nodes.update", NodesUpdate, NodesUpdateResult)
RELOAD: Final = Method("reload", Reload, ReloadResult, changes=True)
DOCTOR: Final = Method("doctor", Nothing, DoctorResult)
PING: Final = Method("ping", Ping, PingResult)

EVENTS: Final = Method("events", Events, EventsResult)
TRACE_BEGIN: Final = Method("trace.begin", TraceBegin, TraceResult)
TRACE_NEXT: Final = Method("trace.next", TraceNext, TraceResult)

FRIEND_ADD: Final = Method("friend.add", FriendAdd, FriendResult, changes=True)
FRIEND_ACCEPT: Final = Method("friend.accept", FriendAccept, FriendResult, changes=True)
FRIEND_REJECT: Final = Method("friend.reject", FriendReject, FriendResult)
FRIEND_RENAME: Final = Method("friend.rename", FriendRename, FriendResult, changes=True)
FRIEND_REMOVE: Final = Method("friend.remove", FriendRemove, FriendResult, changes=True)
FRIEND_BLOCK: Final = Method("friend.block", Block, BlockedResult, changes=True)
FRIEND_UNBLOCK: Final = Method("friend.unblock", Unblock, BlockedResult, changes=True)
FRIEND_BLOCKED: Final = Method("friend.blocked", Nothing, BlockedResult)
FRIEND_LIST: Final = Method("friend.list", Nothing, FriendsResult)

SHARE: Final = Method("share", Share, InviteResult, changes=True)
INVITE_LIST: Final = Method("invite.list", Nothing, InvitesResult)
INVITE_REVOKE: Final = Method("invite.revoke", InviteRevoke, InviteResult, changes=True)
JOIN: Final = Method("join", Join, JoinResult, changes=True)
JOIN_STATUS: Final = Method("join.status", JoinStatus, JoinResult)

OFFER_ADD: Final = Method("offer.add", OfferAdd, OffersResult, changes=True)
OFFER_LIST: Final = Method("offer.list", Nothing, OffersResult)
OFFER_ACCEPT: Final = Method("offer.accept", OfferAccept, MappingResult, changes=True)
OFFER_DENY: Final = Method("offer.deny", OfferDeny, OffersResult, changes=True)
LEAVE: Final = Method("leave", Kill, KilledResult, changes=True)
OFFER_PAUSE: Final = Method("offer.pause", Kill, OffersResult, changes=True)
OFFER_RESUME: Final = Method("offer.resume", Kill, OffersResult, changes=True)
OFFER_CHANGE: Final = Method("offer.change", OfferChange, OffersResult, changes=True)
REQUEST: Final = Method("request", Ask, OffersResult, changes=True)
PORTS: Final = Method("ports", Nothing, MappingsResult)
CONNECTIONS: Final = Method("connections", Nothing, ConnectionsResult)
KILL: Final = Method("kill", Kill, KilledResult, changes=True)

GROUP_CREATE: Final = Method("group.create", GroupCreate, GroupResult, changes=True)
GROUP_JOIN: Final = Method("group.join", GroupJoin, GroupResult, changes=True)
GROUP_RENAME: Final = Method("group.rename", GroupRename, GroupResult, changes=True)
GROUP_INVITE: Final = Method("group.invite", Invite, GroupResult)
GROUP_SHARE: Final = Method("group.share", GroupShare, InviteResult, changes=True)
GROUP_LIST: Final = Method("group.list", Nothing, GroupsResult)
GROUP_PEERS: Final = Method("group.peers", Group, MembersResult)
GROUP_KICK: Final = Method("group.kick", Kick, GroupResult, changes=True)
GROUP_BAN: Final = Method("group.ban", Kick, BannedMembersResult, changes=True)
GROUP_UNBAN: Final = Method("group.unban", Kick, BannedMembersResult, changes=True)
GROUP_BANNED: Final = Method("group.banned", Group, BannedMembersResult)
GROUP_LEAVE: Final = Method("group.leave", Group, GroupResult, changes=True)

CONFERENCE_CREATE: Final = Method("conference.create", ConferenceCreate, GroupResult, changes=True)
CONFERENCE_JOIN: Final = Method("conference.join", Group, GroupResult, changes=True)
CONFERENCE_INVITE: Final = Method("conference.invite", Invite, GroupResult)
CONFERENCE_LIST: Final = Method("conference.list", Nothing, GroupsResult)
CONFERENCE_PEERS: Final = Method("conference.peers", Group, MembersResult)
CONFERENCE_LEAVE: Final = Method("conference.leave", Group, GroupResult, changes=True)
