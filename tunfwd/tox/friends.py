"""Friends, and those who would like to be.

Fed by client.py with toxcore's events about friends; tells the handler. Whatever changes the list of friends
is on disk when the method returns.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Final

from tunfwd.common.budget import Budget
from tunfwd.common.text import clean as clean_text
from tunfwd.common.text import clean_bytes as clean
from tunfwd.tox.binding.enums import Tox_Connection
from tunfwd.tox.binding.errors import ToxError
from tunfwd.tox.binding.instance import Tox_Ptr
from tunfwd.tox.contacts import NAME_LIMIT, NONE, UDP, Friend, FriendRequest
from tunfwd.tox.handler import Handler
from tunfwd.tox.pacing import Pacing
from tunfwd.tox.reunion import Reunion
from tunfwd.wire.ticket import read_message

log = logging.getLogger(__name__)

MAX_REQUESTS: Final = 256
"""Requests that wait for a person; the one heard of longest ago gives way, and is heard of again."""
REQUEST_LIFE: Final = (
    7 * 86400.0
)  # s that a request waits since it was last heard of; toxcore repeats it all the while
REMEMBERED: Final = 32  # keys; of which toxcore remembers that it has told of their requests
HEARINGS: Final = 32, 2.0  # of them that it is made to forget at once, and s for each further one
MAX_MESSAGE: Final = 1016  # bytes; TOX_MAX_FRIEND_REQUEST_LENGTH
MESSAGE_LIMIT: Final = 256  # characters of a request's message that are kept


class NoSuchRequest(LookupError):
    """Nobody with this key asks to be a friend."""


def parse_address(text: str) -> bytes:
    """Read a Tox address: 76 hex digits. Raises ValueError; toxcore checks the checksum."""
    text = text.strip().removeprefix("tox:")
    try:
        address = bytes.fromhex(text)
    except ValueError:
        address = b""
    if len(address) != 38:
        raise ValueError(f"{text!r} is not a Tox address: 76 hexadecimal digits are expected")
    return address


class Friends:
    """The list of friends and the pending requests."""

    def __init__(
        self,
        tox: Tox_Ptr,
        pacing: Pacing,
        reunion: Reunion,
        handler: Handler,
        save: Callable[[], object],
    ) -> None:
        self._tox = tox
        self._pacing = pacing
        self._reunion = reunion
        self._handler = handler
        self._save = save
        self._by_number: dict[int, Friend] = {}
        self._by_key: dict[bytes, Friend] = {}
        self._requests: dict[bytes, FriendRequest] = {}  # the one heard of longest ago first
        self._unheard: deque[bytes] = deque(maxlen=REMEMBERED)  # whose next request toxcore would not tell of
        self._hearings = Budget(*HEARINGS)
        self.dropped_requests = 0
        """Requests that gave way to newer ones, or were too old."""
        for number in tox.friend_list:
            self._register(number)

    def __iter__(self) -> Iterator[Friend]:
        return iter(list(self._by_key.values()))

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: bytes) -> Friend | None:
        """Find a friend by its long-term key."""
        return self._by_key.get(key)

    def by_number(self, number: int) -> Friend:
        """Find a friend by toxcore's number."""
        return self._by_number[number]

    @property
    def requests(self) -> list[FriendRequest]:
        """Who asks to be a friend, the one heard of longest ago first; bounded, gone with the process."""
        return list(self._requests.values())

    # What a person, or a rule, decides

    def add(self, address: bytes, message: str = "") -> Friend:
        """Add a friend by its 38-byte address, and ask it until it accepts. Raises errors.FriendAdd…."""
        number = self._tox.friend_add(address, message.encode()[:MAX_MESSAGE] or b"Hello")
        return self._added(number, address[:32])

    def ask(self, friend: Friend, address: bytes, message: str) -> None:
        """Ask a friend once more who is offline: the friendship may be unknown over there, or over.

        It stays the same contact. Raises errors.FriendAdd….
        """
        self._tox.friend_delete(friend.number)
        del self._by_number[friend.number]
        try:
            friend.number = self._tox.friend_add(address, message.encode()[:MAX_MESSAGE] or b"Hello")
        except ToxError:
            friend.number = self._tox.friend_add_norequest(friend.key)
            raise
        finally:
            self._by_number[friend.number] = friend
            self._save()

    def accept(self, key: bytes) -> Friend:
        """Accept a pending request. Raises NoSuchRequest."""
        if key not in self._requests:
            raise NoSuchRequest(f"no request from {key.hex().upper()} is pending")
        return self.add_key(key)

    def add_key(self, key: bytes) -> Friend:
        """Add a friend who adds us as well, without a request. Raises errors.FriendAdd…."""
        return self._added(self._tox.friend_add_norequest(key), key)

    def reject(self, key: bytes) -> None:
        """Forget a pending request; the other side is not told. Raises NoSuchRequest."""
        if self._requests.pop(key, None) is None:
            raise NoSuchRequest(f"no request from {key.hex().upper()} is pending")

    def remove(self, friend: Friend) -> None:
        """Remove a friend, without telling it."""
        self._tox.friend_delete(friend.number)
        del self._by_number[friend.number], self._by_key[friend.key]
        self._reunion.forget(friend.key)
        if friend.connection is not NONE:
            friend.connection = NONE
            self._handler.contact_offline(friend)
        self._handler.contact_removed(friend)
        self._save()

    def _added(self, number: int, key: bytes) -> Friend:
        self._requests.pop(key, None)
        friend = self._register(number)
        self._save()
        return friend

    def _register(self, number: int) -> Friend:
        key = self._tox.friend_get_public_key(number)
        nickname = clean(self._tox.friend_get_name(number), NAME_LIMIT)
        friend = Friend(self._tox, self._pacing, self._reunion, number, key, nickname)
        self._by_number[number] = self._by_key[key] = friend
        return friend

    # toxcore's events

    def on_request(self, key: bytes, message: bytes) -> None:
        """Hold a request for a person, unless a rule or the ticket in it decides about it."""
        token, text = read_message(message.decode("utf-8", "replace"))
        request = FriendRequest(key, clean_text(text, MESSAGE_LIMIT), time.monotonic(), token)
        known = self._requests.get(key)
        if known is not None and token is None:
            self.hold(replace(known, heard=request.heard))
        elif not self._handler.friend_request(request):
            self.hold(request)

    def hold(self, request: FriendRequest) -> None:
        """Have a request wait for a person."""
        self._requests.pop(request.key, None)
        self._requests[request.key] = request
        self._unheard.append(request.key)
        if len(self._requests) > MAX_REQUESTS:
            # toxcore tells of it anew when it is repeated: it knows the last 32 that it has told of.
            del self._requests[next(iter(self._requests))]
            self.dropped_requests += 1

    def expire_requests(self, now: float) -> None:
        """Forget requests not heard of for long; whoever still asks is told of anew.

        `now` is of time.monotonic().
        """
        while self._unheard and self._hearings.spend(now):
            self._hear_again(self._unheard.popleft())
        while self._requests:
            request = next(iter(self._requests.values()))
            if now - request.heard < REQUEST_LIFE:
                return
            del self._requests[request.key]
            self.dropped_requests += 1
            self._hear_again(request.key)

    def _hear_again(self, key: bytes) -> None:
        """Have toxcore tell of the next request of a key, which may come with a ticket that this one had not.

        It does not tell twice of the last 32 keys, except those of friends that were deleted.
        """
        with suppress(ToxError):
            self._tox.friend_delete(self._tox.friend_add_norequest(key))

    def on_name(self, number: int, name: bytes) -> None:
        """Note a friend's new name."""
        friend = self._by_number[number]
        nickname = clean(name, NAME_LIMIT)
        if nickname != friend.nickname:
            friend.nickname = nickname
            self._handler.contact_renamed(friend)

    def on_connection(self, number: int, connection: Tox_Connection) -> None:
        """Note that a friend came, went, or is reached in another way."""
        friend = self._by_number[number]
        before, friend.connection = friend.connection, connection
        if before is connection:
            return
        if connection is NONE:
            friend.reset_queue()
            self._handler.contact_offline(friend)
        elif before is NONE:
            friend.online_since = time.monotonic()
            self._reunion.meet()
            self._handler.contact_online(friend)
        else:
            self._handler.contact_connection(friend)

    def on_lossless(self, number: int, data: bytes) -> None:
        """Pass a packet on."""
        friend = self._by_number[number]
        if friend.connection is not UDP:
            self._pacing.relayed = True
        self._handler.lossless(friend, data)

    def on_lossy(self, number: int, data: bytes) -> None:
        """Pass a packet on."""
        friend = self._by_number[number]
        if friend.connection is not UDP:
            self._pacing.relayed = True
        self._handler.lossy(friend, data)
