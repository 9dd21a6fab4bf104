"""The enumerations of tox.h the program uses, named and spelled as pytox and tox.h have them.

Members compare equal to toxcore's numbers, and `.name` is the same whichever binding they came from.
"""

from enum import IntEnum


class Tox_Connection(IntEnum):
    """How a contact, or the network, is reached."""

    TOX_CONNECTION_NONE = 0
    TOX_CONNECTION_TCP = 1
    TOX_CONNECTION_UDP = 2


class Tox_Proxy_Type(IntEnum):
    """The proxy everything goes through."""

    TOX_PROXY_TYPE_NONE = 0
    TOX_PROXY_TYPE_HTTP = 1
    TOX_PROXY_TYPE_SOCKS5 = 2


class Tox_Savedata_Type(IntEnum):
    """What an instance starts from."""

    TOX_SAVEDATA_TYPE_NONE = 0
    TOX_SAVEDATA_TYPE_TOX_SAVE = 1
    TOX_SAVEDATA_TYPE_SECRET_KEY = 2


class Tox_Conference_Type(IntEnum):
    """What an invitation to a conference is for."""

    TOX_CONFERENCE_TYPE_TEXT = 0
    TOX_CONFERENCE_TYPE_AV = 1


class Tox_Group_Privacy_State(IntEnum):
    """Whether a group is announced in the DHT, so that its chat id alone lets one in."""

    TOX_GROUP_PRIVACY_STATE_PUBLIC = 0
    TOX_GROUP_PRIVACY_STATE_PRIVATE = 1


class Tox_Group_Role(IntEnum):
    """What a peer may do in a group."""

    TOX_GROUP_ROLE_FOUNDER = 0
    TOX_GROUP_ROLE_MODERATOR = 1
    TOX_GROUP_ROLE_USER = 2
    TOX_GROUP_ROLE_OBSERVER = 3


class Tox_Group_Exit_Type(IntEnum):
    """Why a peer is gone from a group."""

    TOX_GROUP_EXIT_TYPE_QUIT = 0
    TOX_GROUP_EXIT_TYPE_TIMEOUT = 1
    TOX_GROUP_EXIT_TYPE_DISCONNECTED = 2
    TOX_GROUP_EXIT_TYPE_SELF_DISCONNECTED = 3
    TOX_GROUP_EXIT_TYPE_KICK = 4
    TOX_GROUP_EXIT_TYPE_SYNC_ERROR = 5


class Tox_Group_Join_Fail(IntEnum):
    """Why a group did not let us in."""

    TOX_GROUP_JOIN_FAIL_PEER_LIMIT = 0
    TOX_GROUP_JOIN_FAIL_INVALID_PASSWORD = 1
    TOX_GROUP_JOIN_FAIL_UNKNOWN = 2


class Tox_Group_Mod_Event(IntEnum):
    """What a moderator did to a peer."""

    TOX_GROUP_MOD_EVENT_KICK = 0
    TOX_GROUP_MOD_EVENT_OBSERVER = 1
    TOX_GROUP_MOD_EVENT_USER = 2
    TOX_GROUP_MOD_EVENT_MODERATOR = 3
