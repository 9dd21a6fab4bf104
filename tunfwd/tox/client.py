"""A Tox node driven by the loop: one instance, one thread.

Each round calls toxcore's `iterate`, from within which the handler gets its events, then `Handler.iterated`.
The next comes when toxcore's UDP socket is readable, its own interval is over, or `wake` is called; pacing.py
says when exactly, and why.
"""

import contextlib
import itertools
import logging
import time
from functools import partial
from random import SystemRandom
from types import TracebackType
from typing import Any, Final, Self

import trio

from tunfwd.events import event
from tunfwd.faults import persists, survives
from tunfwd.loop import NEVER, READABLE, Loop, current_time
from tunfwd.tox import probing, version
from tunfwd.tox.binding import enums
from tunfwd.tox.binding.errors import (
    GetPortNotBound,
    NewLoadBadFormat,
    NewPortAlloc,
    NewProxyBadHost,
    NewProxyNotFound,
)
from tunfwd.tox.binding.instance import Tox_Ptr
from tunfwd.tox.binding.library import Library, choose
from tunfwd.tox.binding.opening import MODE
from tunfwd.tox.conferences import Conferences
from tunfwd.tox.contacts import NONE, TCP
from tunfwd.tox.events import Events, Receivers
from tunfwd.tox.friends import Friends
from tunfwd.tox.groups import Groups
from tunfwd.tox.handler import Handler
from tunfwd.tox.identity import Damaged, Identity, IdentityError, read_passphrase, relays_of
from tunfwd.tox.joining import Joining
from tunfwd.tox.pacing import Pacing
from tunfwd.tox.policing import Policing, SocketGate
from tunfwd.tox.reunion import LAST_PORT, Reunion
from tunfwd.tox.settings import Settings
from tunfwd.tox.sockets import (
    Activity,
    SettingUnusable,
    descriptors,
    is_routable,
    port_trouble,
    resolve,
)

log = logging.getLogger(__name__)

CHECK_INTERVAL: Final = 5.0
"""Seconds between looks at what toxcore does not tell: how members are reached, who uses our relay."""
REUNION_INTERVAL: Final = 1.0  # s between writes of what friends tell of themselves
SAVE_DELAY: Final = 2.0  # s from a change that toxcore made by itself to the file
SAVE_RETRY: Final = 60.0  # s until an identity that could not be written is tried again
CHORES_INTERVAL: Final = 0.05  # s between looks at what waits, that packets need not pay for
INTRODUCTIONS: Final = (0.2, 0.8, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)  # s between; toxcore forgets a key in time


class Client:
    """A node, and what it knows. Made ready by the constructor, alive within `run`, closed by `close`.

    The constructor raises ToxcoreUnusable, IdentityError, SettingUnusable, or a ToxError.
    """

    def __init__(self, settings: Settings, handler: Handler, passphrase: bytes | None = None) -> None:
        """Be the node of `settings`. A `passphrase` stands in for passphrase_file."""
        self.settings = settings
        library = choose(settings.library)
        self.binding: str = settings.library if settings.library == "pytox" else MODE
        """How libtoxcore is called: "api", "abi" or "pytox"."""
        if settings.library == "builtin":
            version.require(version.inspect(), settings.groups)
        if passphrase is None and settings.passphrase_file:
            passphrase = read_passphrase(settings.passphrase_file)
        self._identity = Identity(settings.savedata, passphrase, library.encryption)
        self._reunion = Reunion(settings.savedata)
        older = descriptors()
        self._tox = self._identity.start(lambda savedata: self._start(library, savedata))
        self._handler = handler
        self._dirty = trio.Event()
        self._loop: Loop | None = None
        """What calls us, within `run`."""
        self._is_ready = False
        """Whether there is a reason to go round."""
        self._quiet_until = 0.0
        """Before this, on trio's clock, no reason counts …"""
        self._latest = 0.0
        """… and from this on none is needed."""
        self._chores_at = 0.0
        self.due = NEVER
        self._pacing = Pacing()

        self.udp_port = self._port("udp_port")
        """Our UDP port, None when UDP is off."""
        self.tcp_relay_port = self._port("tcp_port")
        """The port we relay at, None when we do not."""
        self._reunion.made(self._drawn, self.dht_key, self.udp_port)
        self._reunion.save()
        self._activity = Activity(descriptors() - older, self.udp_port, self.tcp_relay_port)
        if self.udp_port and self._activity.udp is None:
            log.warning("toxcore's UDP socket was not found: latency will be tens of milliseconds")
        self._gate = SocketGate(self._activity.udp)
        self.policing = Policing(self._gate)
        """Bounds what is received of contacts that flood; the handler feeds it."""
        self.joining = Joining(
            self._tox,
            settings.network_nodes,
            resolve=None if settings.proxy is not None else resolve,
            is_routable=partial(is_routable, ipv6=settings.ipv6, proxied=settings.proxy is not None),
            connected_relays=lambda: relays_of(self._tox.savedata),
            ask=None if settings.proxy is not None else probing.ask,
            udp=settings.udp,
            random=SystemRandom(),
        )
        """How we get into the network."""
        self.friends = Friends(self._tox, self._pacing, self._reunion, handler, self.save)
        self.groups = Groups(self._tox, self._pacing, handler, self.save, self.save_soon, self._nickname)
        self.conferences = Conferences(self._tox, handler, self.save, self.public_key)
        node: Any = self._tox
        node.receivers = Receivers(self._on_connection, self.friends, self.groups, self.conferences)
        if settings.name:
            self._tox.name = settings.name.encode()
        self.unsaved: str | None = None
        """Why the identity on disk is not as it is here, while that lasts."""
        if not self.save() and self._is_new:  # nobody may get to know us under keys that are lost at the end
            raise IdentityError(self.unsaved)

    def _start(self, library: Library, savedata: bytes | None) -> Tox_Ptr:
        settings = self.settings
        self._is_new = savedata is None
        with library.Tox_Options_Ptr() as options:
            options.ipv6_enabled = settings.ipv6
            options.udp_enabled = settings.udp and settings.proxy is None
            options.local_discovery_enabled = settings.local_discovery
            options.start_port = options.end_port = settings.udp_port
            if settings.udp_port == 0 and (first := self._reunion.first_port):
                options.start_port, options.end_port = first, LAST_PORT
            options.tcp_port = settings.tcp_relay_port
            with contextlib.suppress(AttributeError):  # a library without groups, which groups = false allows
                options.experimental_groups_persistence = True
            if settings.proxy is not None:
                kinds = enums.Tox_Proxy_Type
                http = settings.proxy.kind == "http"
                options.proxy_type = kinds.TOX_PROXY_TYPE_HTTP if http else kinds.TOX_PROXY_TYPE_SOCKS5
                options.proxy_host = settings.proxy.host
                options.proxy_port = settings.proxy.port
            if savedata is not None:
                options.savedata_type = enums.Tox_Savedata_Type.TOX_SAVEDATA_TYPE_TOX_SAVE
                options.savedata_data = savedata
            node: Any = type("Node", (Events, library.Tox_Ptr), {})
            try:
                with self._reunion.making() as self._drawn:
                    return node(options)  # type: ignore[no-any-return]
            except NewLoadBadFormat:
                raise Damaged("is damaged: toxcore does not take it") from None
            except NewPortAlloc:
                raise port_trouble(settings) from None
            except (NewProxyBadHost, NewProxyNotFound):
                raise SettingUnusable(f"[tox] proxy: {settings.proxy} does not resolve") from None

    def _port(self, which: str) -> int | None:
        try:
            return int(getattr(self._tox, which))
        except GetPortNotBound:
            return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        exc_traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Who we are

    @property
    def address(self) -> str:
        """What others add us by: 76 hex digits."""
        return self._tox.address.hex().upper()

    def change_address(self) -> None:
        """Be reached by another address: requests to the old ones are dropped. Friends notice nothing."""
        old = self._tox.nospam
        while self._tox.nospam == old:
            self._tox.nospam = SystemRandom().getrandbits(32)
        self.save()

    @property
    def public_key(self) -> bytes:
        """Our long-term key."""
        return self._tox.public_key

    @property
    def dht_key(self) -> bytes:
        """Our key as a node of the DHT, new after a crash; others bootstrap with it."""
        return self._tox.dht_id

    @property
    def connection(self) -> enums.Tox_Connection:
        """Whether, and how, we are connected to the network."""
        return enums.Tox_Connection(self._tox.connection_status)

    @property
    def name(self) -> str:
        """Our nickname."""
        return self._tox.name.decode("utf-8", "replace")

    @name.setter
    def name(self, name: str) -> None:
        self._tox.name = name.encode()
        self.save()

    def _nickname(self) -> str:
        return self.name or self.public_key.hex()[:8]  # groups admit nobody without a name

    # The loop

    async def run(
        self, loop: Loop | None = None, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Be a node until cancelled, or `Handler.iterated` raises. The identity is saved at the end.

        `loop` is run by somebody; without one we run our own.
        """
        self._loop = loop or Loop()
        async with trio.open_nursery() as nursery:
            for what, task in (
                ("joining the network", self.joining.run),
                ("introducing friends", self._introduce_friends),
                ("remembering friends", self._remember_friends),
                ("saving the identity", self._save_when_dirty),
                ("looking at connections", self._check_connections),
            ):
                nursery.start_soon(persists, f"a task of the node ({what})", task)
            if loop is None:
                await nursery.start(self._loop.run)
            self._is_ready = True
            try:
                self._loop.watch(self._activity.fileno(), READABLE, self)
                self.work()
                await self._loop.attend(self, task_status, first=True)
            finally:
                nursery.cancel_scope.cancel()
                self._loop.watch(self._activity.fileno(), None, self)
                self._loop = None
                self.save()

    def wake(self) -> None:
        """Go round at once: something is due that no packet announces."""
        self._is_ready = True
        if self._loop is not None:
            self._loop.wake()

    def ready(self, _events: int) -> None:
        """Go round: toxcore has something to receive; called by the loop."""
        self._is_ready = True
        self._activity.seen()

    def fail(self) -> None:
        """Go on: what an event makes fail is caught for each by itself."""

    def work(self) -> None:
        """Do a round, if there is a reason to; called by the loop."""
        if self._quiet_until and current_time() < self._quiet_until:
            return
        if not self._is_ready and current_time() < self._latest:
            if self._quiet_until:
                self._wait_until(0.0)  # from now on the socket counts again
            return
        self._is_ready = False
        self._iterate()
        now = time.monotonic()  # not trio's clock, which begins anew with each run of trio
        earliest, latest = self._pacing.next_round(now, self._pacing.interval(now, self._interval))
        now_here = current_time()
        self._latest = now_here + latest - now
        self._wait_until(now_here + earliest - now if earliest > now else 0.0)

    def _interval(self) -> float:
        return self._tox.iteration_interval / 1000

    def _wait_until(self, quiet_until: float) -> None:
        """Wait for the socket and for `_latest`, but for nothing before `quiet_until`; 0.0: at once."""
        if (quiet_until > 0.0) != (self._quiet_until > 0.0) and self._loop is not None:
            self._loop.watch(self._activity.fileno(), 0 if quiet_until else READABLE, self)
        self._quiet_until = quiet_until
        self.due = quiet_until or self._latest

    def _iterate(self) -> None:
        self.policing.before_iteration()
        survives("an event of toxcore", self._tox.iterate)
        now = time.monotonic()
        self._pacing.release(now)
        if now >= self._chores_at:
            self._chores_at = now + CHORES_INTERVAL
            survives("an invitation", self.groups.tell_invitations, now)
            survives("a friend request", self.friends.expire_requests, now)
        self._handler.iterated()

    def close(self) -> None:
        """Leave the network at once. The client is of no use afterwards."""
        self._reunion.end()
        self._gate.close()
        self._activity.close()
        self._tox.__exit__(None, None, None)

    # Getting and staying connected

    def _on_connection(self, connection: enums.Tox_Connection) -> None:
        """Note that we are connected to the network, or no longer."""
        online = connection is not NONE
        state = "connected to" if online else "disconnected from"
        log.info("%s the Tox network", state, extra=event("network", online=online))
        self.joining.connected(online)

    async def _introduce_friends(self) -> None:
        """Help toxcore to find friends where they were last."""
        for attempt in itertools.count():
            await trio.sleep(INTRODUCTIONS[min(attempt, len(INTRODUCTIONS) - 1)])
            for friend in self.friends:
                if not friend.online:
                    secret = self._tox.secret_key
                    survives("an introduction", self._reunion.introduce, friend.key, secret)

    async def _remember_friends(self) -> None:
        while True:
            await self._reunion.changed.wait()
            self._reunion.save()
            await trio.sleep(REUNION_INTERVAL)

    async def _check_connections(self) -> None:
        while True:
            await trio.sleep(CHECK_INTERVAL)
            if any(friend.online for friend in self.friends):
                self._reunion.meet()
            survives("a look at how members are reached", self.groups.check_connections)
            self._activity.refresh()
            members = (member for group in self.groups for member in group.by_peer.values())
            self._pacing.all_udp = self._activity.udp is not None and not any(
                contact.connection is TCP for contact in (*self.friends, *members)
            )

    # The identity on disk

    def save(self) -> bool:
        """Write the identity now; False where that failed. Then `unsaved` says why, and it is tried again."""
        try:
            self._identity.save(self._tox.savedata)
        except IdentityError as error:
            if str(error) != self.unsaved:
                log.error("%s", error)  # noqa: TRY400 the message says it all
            self.unsaved = str(error)
            self._dirty.set()
        else:
            if self.unsaved is not None:
                log.info("the identity is saved again")
            self.unsaved = None
        return self.unsaved is None

    def trouble_on_disk(self) -> str | None:
        """Look at the identity's file, and return what is wrong with it; may take a second, in any thread."""
        return self._identity.trouble()

    def save_soon(self) -> None:
        """Write the identity in a while: toxcore changed it."""
        self._dirty.set()

    async def _save_when_dirty(self) -> None:
        while True:
            await self._dirty.wait()
            await trio.sleep(SAVE_DELAY)
            self._dirty = trio.Event()
            if not self.save():
                await trio.sleep(SAVE_RETRY)
