"""What can go wrong in toxcore, as exceptions with toxcore's own names.

Every function of tox.h that can fail reports a number from an enumeration of its own. The table below holds
the names in their order; `raise_code` turns a number into an exception whose class is the name in Python's
spelling: TOX_ERR_FRIEND_CUSTOM_PACKET_SENDQ is `FriendCustomPacketSendq`. Those the program tells apart are
declared here; the others come into being when they first happen and are caught as `ToxError`.
"""

import enum
from typing import Final, NoReturn

_NAMES: Final = {
    "TOX_ERR_OPTIONS_NEW": "MALLOC",
    "TOX_ERR_NEW": "NULL MALLOC PORT_ALLOC PROXY_BAD_TYPE PROXY_BAD_HOST PROXY_BAD_PORT PROXY_NOT_FOUND"
    " LOAD_ENCRYPTED LOAD_BAD_FORMAT",
    "TOX_ERR_BOOTSTRAP": "NULL BAD_HOST BAD_PORT",
    "TOX_ERR_GET_PORT": "NOT_BOUND",
    "TOX_ERR_SET_INFO": "NULL TOO_LONG",
    "TOX_ERR_FRIEND_ADD": "NULL TOO_LONG NO_MESSAGE OWN_KEY ALREADY_SENT BAD_CHECKSUM SET_NEW_NOSPAM MALLOC",
    "TOX_ERR_FRIEND_DELETE": "FRIEND_NOT_FOUND",
    "TOX_ERR_FRIEND_GET_PUBLIC_KEY": "FRIEND_NOT_FOUND",
    "TOX_ERR_FRIEND_QUERY": "NULL FRIEND_NOT_FOUND",
    "TOX_ERR_FRIEND_CUSTOM_PACKET": "NULL FRIEND_NOT_FOUND FRIEND_NOT_CONNECTED INVALID EMPTY TOO_LONG SENDQ",
    "TOX_ERR_CONFERENCE_NEW": "INIT",
    "TOX_ERR_CONFERENCE_DELETE": "CONFERENCE_NOT_FOUND",
    "TOX_ERR_CONFERENCE_PEER_QUERY": "CONFERENCE_NOT_FOUND PEER_NOT_FOUND NO_CONNECTION",
    "TOX_ERR_CONFERENCE_INVITE": "CONFERENCE_NOT_FOUND FAIL_SEND NO_CONNECTION",
    "TOX_ERR_CONFERENCE_JOIN": "INVALID_LENGTH WRONG_TYPE FRIEND_NOT_FOUND DUPLICATE INIT_FAIL FAIL_SEND"
    " NULL",
    "TOX_ERR_CONFERENCE_TITLE": "CONFERENCE_NOT_FOUND INVALID_LENGTH FAIL_SEND",
    "TOX_ERR_GROUP_NEW": "TOO_LONG EMPTY INIT STATE ANNOUNCE",
    "TOX_ERR_GROUP_JOIN": "INIT BAD_CHAT_ID EMPTY TOO_LONG PASSWORD CORE",
    "TOX_ERR_GROUP_RECONNECT": "GROUP_NOT_FOUND CORE",
    "TOX_ERR_GROUP_LEAVE": "GROUP_NOT_FOUND TOO_LONG FAIL_SEND",
    "TOX_ERR_GROUP_SELF_QUERY": "GROUP_NOT_FOUND",
    "TOX_ERR_GROUP_SELF_NAME_SET": "GROUP_NOT_FOUND TOO_LONG INVALID FAIL_SEND",
    "TOX_ERR_GROUP_PEER_QUERY": "GROUP_NOT_FOUND PEER_NOT_FOUND",
    "TOX_ERR_GROUP_STATE_QUERY": "GROUP_NOT_FOUND",
    "TOX_ERR_GROUP_SEND_CUSTOM_PACKET": "GROUP_NOT_FOUND TOO_LONG EMPTY DISCONNECTED FAIL_SEND",
    "TOX_ERR_GROUP_SEND_CUSTOM_PRIVATE_PACKET": "GROUP_NOT_FOUND TOO_LONG EMPTY PEER_NOT_FOUND FAIL_SEND"
    " DISCONNECTED",
    "TOX_ERR_GROUP_INVITE_FRIEND": "GROUP_NOT_FOUND FRIEND_NOT_FOUND INVITE_FAIL FAIL_SEND DISCONNECTED",
    "TOX_ERR_GROUP_INVITE_ACCEPT": "BAD_INVITE INIT_FAILED TOO_LONG EMPTY PASSWORD FRIEND_NOT_FOUND FAIL_SEND"
    " NULL",
    "TOX_ERR_GROUP_SET_PASSWORD": "GROUP_NOT_FOUND PERMISSIONS TOO_LONG FAIL_SEND MALLOC DISCONNECTED",
    "TOX_ERR_GROUP_KICK_PEER": "GROUP_NOT_FOUND PEER_NOT_FOUND PERMISSIONS FAIL_ACTION FAIL_SEND SELF",
    "TOX_ERR_KEY_DERIVATION": "NULL FAILED",
    "TOX_ERR_ENCRYPTION": "NULL KEY_DERIVATION_FAILED FAILED",
    "TOX_ERR_DECRYPTION": "NULL INVALID_LENGTH BAD_FORMAT KEY_DERIVATION_FAILED FAILED",
    "TOX_ERR_GET_SALT": "NULL BAD_FORMAT",
}


def _enumeration(family: str, names: str) -> type[enum.IntEnum]:
    python_name = "_".join(word.capitalize() for word in family.split("_"))  # Tox_Err_Friend_Add, as in tox.h
    members = [f"{family}_OK", *(f"{family}_{name}" for name in names.split())]
    return enum.IntEnum(python_name, members, start=0)  # type: ignore[return-value]  # a class, not a member


CODES: Final = {family: _enumeration(family, names) for family, names in _NAMES.items()}


class ToxcoreUnusable(Exception):
    """No library, or one that lacks what the program needs; the message says what to install."""


class UseAfterFree(Exception):
    """A Tox object was used after it was closed."""


class ToxError(Exception):
    """toxcore refused a call. `code.name` is the name in tox.h."""

    code: enum.Enum

    def __init__(self, code: enum.Enum) -> None:
        super().__init__(code.name)
        self.code = code


class NoGroups(ToxError):
    """The library has none; `[tox] groups = false` lets the program run on it."""

    def __init__(self) -> None:
        Exception.__init__(self, "this libtoxcore has no groups: 0.2.19 or later has them")


class NewPortAlloc(ToxError):
    """No UDP or TCP port of the configured ones could be bound."""


class NewProxyBadHost(ToxError):
    """The proxy's name is none."""


class NewProxyNotFound(ToxError):
    """The proxy's name does not resolve."""


class NewLoadBadFormat(ToxError):
    """The saved identity is damaged, or none."""


class GetPortNotBound(ToxError):
    """There is no such socket: UDP is off, or no relay runs here."""


class FriendAddOwnKey(ToxError):
    """The address is our own."""


class FriendAddAlreadySent(ToxError):
    """A request went to this friend before, or it is a friend already."""


class FriendAddBadChecksum(ToxError):
    """The address was mistyped."""


class FriendCustomPacketFriendNotFound(ToxError):
    """The friend was removed."""


class FriendCustomPacketFriendNotConnected(ToxError):
    """The friend is offline."""


class FriendCustomPacketInvalid(ToxError):
    """The first byte is not one of a custom packet of this kind."""


class FriendCustomPacketSendq(ToxError):
    """The queue towards the friend is full: back-pressure, not failure."""


class GroupPeerQueryPeerNotFound(ToxError):
    """The peer has left."""


class GroupInviteAcceptFailSend(ToxError):
    """The friend who invites could not be told: it is offline."""


class GroupLeaveGroupNotFound(ToxError):
    """There is no group of that number."""


class GroupJoinBadChatId(ToxError):
    """We are in the group already, or the chat id is none."""


class GroupStateQueryGroupNotFound(ToxError):
    """There is no group of this number."""


class ConferenceTitleInvalidLength(ToxError):
    """A title is too long, or there is none."""


class GroupSendCustomPacketDisconnected(ToxError):
    """We are not connected to the group."""


class GroupSendCustomPacketGroupNotFound(ToxError):
    """We have left the group."""


class GroupSendCustomPacketFailSend(ToxError):
    """The queue towards some peer of the group is full."""


class GroupSendCustomPrivatePacketPeerNotFound(ToxError):
    """The peer has left."""


class GroupSendCustomPrivatePacketDisconnected(ToxError):
    """We are not connected to the group."""


class GroupSendCustomPrivatePacketGroupNotFound(ToxError):
    """We have left the group."""


class GroupSendCustomPrivatePacketFailSend(ToxError):
    """The queue towards the peer is full: back-pressure, not failure."""


class GroupLeaveFailSend(ToxError):
    """We have left, but could not say so: the others will miss us in a minute."""


class DecryptionFailed(ToxError):
    """Wrong passphrase, or damaged data."""


_classes = {cls.__name__: cls for cls in ToxError.__subclasses__()}


def from_code(code: enum.Enum) -> ToxError:
    """Return the exception for one member of a toxcore error enumeration, ours or pytox's."""
    name = "".join(word.capitalize() for word in code.name.removeprefix("TOX_ERR_").split("_"))
    if (cls := _classes.get(name)) is None:
        cls = _classes[name] = type(name, (ToxError,), {"__module__": __name__})
    return cls(code)


def raise_code(family: str, number: int) -> NoReturn:
    """Raise the exception for `number` of the enumeration `family` ("TOX_ERR_FRIEND_ADD")."""
    try:
        code: enum.Enum = CODES[family](number)
    except ValueError:  # a name that a later toxcore added
        code = _enumeration(family, "UNKNOWN")[f"{family}_UNKNOWN"]
    raise from_code(code)
