"""What `tunfwd status` asks, and what every method of the control socket is made of.

It stands by itself because prompts and loops ask it: what else api.py holds takes longer to load than the
daemon takes to answer. api.py has all of it, too.
"""

from typing import Final, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar

Link = Literal["direct", "relay", "offline"]
Kind = Literal["friend", "group", "conference"]
RoomState = Literal["online", "connecting", "invited", "lost"]

P = TypeVar("P")
R = TypeVar("R")


class Method(NamedTuple, Generic[P, R]):
    """A method's name with the types of its parameters and its result."""

    name: str
    params: type[P]
    result: type[R]
    changes: bool = False  # what is to outlive the daemon


class Nothing(TypedDict):
    """No parameters."""


class ContactEntry(TypedDict):
    """A friend, a group's member, or a conference's member, as `status` lists it."""

    name: str
    public_key: str
    kind: Kind
    via: str  # "friend", "group:NAME", "conference:NAME"
    address: str | None  # None: the range is full, and there is the IPv6 address only
    address6: str
    dns: NotRequired[str | None]  # its name in DNS
    link: Link
    offline_seconds: float | None  # None: online, or not seen since the daemon started
    ports: int
    connections: int
    tx_bytes: int
    rx_bytes: int
    extended: bool
    features: list[str]
    silent_seconds: NotRequired[int | None]  # it does not answer, and toxcore has not given it up yet
    kept_seconds: NotRequired[int | None]  # it is offline, and connections wait for it so long still
    reason: NotRequired[str]  # why it cannot be reached, where there is more to say than "offline"
    path: NotRequired[Literal["direct", "relay"] | None]  # straight there, or by a relay; None: offline
    path_seconds: NotRequired[float | None]  # for how long
    rtt: NotRequired[float | None]  # s, smoothed; None: there is no link, or nothing was sent over it yet
    loss: NotRequired[float | None]  # the part of the bytes sent over this path that was lost, 0 to 1
    window: NotRequired[int | None]  # bytes that may be in flight


class GroupEntry(TypedDict):
    """A group or conference, or an invitation into one."""

    name: str
    id: str  # the chat id of a group, the conference's id
    kind: Literal["group", "conference"]
    state: RoomState
    public: bool
    members: int  # without ourselves
    reason: str | None  # kicked, wrong password, full, ...
    inviter: str | None


class Load(TypedDict):
    """How much is under way: where nothing is, these return to what they were."""

    flows: int  # with all contacts
    connections: int  # TCP, between virtual addresses and programs of this machine
    timers: int


class LanEntry(TypedDict):
    """What broadcasts of this machine to a UDP port have become."""

    port: int
    contacts: int  # whom the latest went to
    broadcasts: int  # that went out, since the start
    copies: int  # in all
    seconds: float  # since the latest


class Waiting(TypedDict):
    """How much waits for a person's word."""

    friend_requests: int
    offers: int  # theirs; those of one contact and name are one
    invitations: int  # into groups and conferences


class StatusResult(TypedDict):
    """Everything at a glance."""

    network: Literal["online", "offline"]
    contacts: list[ContactEntry]
    drops: dict[str, int]  # packets dropped since the start, by cause
    groups: NotRequired[list[GroupEntry]]
    warnings: NotRequired[list[str]]  # what is wrong with the daemon, a sentence each
    load: NotRequired[Load]
    lan: NotRequired[list[LanEntry]]  # what goes out so that games find each other; the latest last
    waiting: NotRequired[Waiting]
    offline: NotRequired[str]  # for how long we have not been in the network, and why


STATUS: Final = Method("status", Nothing, StatusResult)
