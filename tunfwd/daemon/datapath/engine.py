"""The engine: one round of work, whatever woke it.

    TUN device -> netstack -> outbound, inbound -> sessions -> Tox
    Tox -> sessions -> outbound, inbound -> netstack -> TUN device

Four things wake it: frames from the TUN device, packets from toxcore, sockets to services, and deadlines.
Each hands over what it has, in a pass of the loop; then `round` carries it all the way: events first, then
frames and packets out. Nothing in a round waits. What toxcore's queue refuses is tried again after its next
iteration, and what the device refuses when it is writable; until then the source of it is not read.

Contacts take turns (scheduler.py). Until its turn a contact's lossy packets wait in its inbox, which is
bounded: what is too much is dropped before it costs anything, and a link slows down.

A mistake of ours that comes to light in any of this is the loss of the one that it was made for, and logged:
a contact's session begins anew (`_attend`), a local connection is reset (`_hand_out`). Nobody else notices.
"""

from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Final, Protocol, TypeVarTuple

import trio

from tunfwd.common.timers import Timers
from tunfwd.common.values import Reason
from tunfwd.daemon.datapath import connections
from tunfwd.daemon.datapath.fanout import FanOut
from tunfwd.daemon.datapath.inbound import InboundFlows
from tunfwd.daemon.datapath.nameserver import NameServer
from tunfwd.daemon.datapath.outbound import OutboundFlows
from tunfwd.daemon.datapath.pings import Pings
from tunfwd.daemon.datapath.scheduler import TURN, Scheduler
from tunfwd.daemon.peers import Peer, Peers
from tunfwd.faults import note, survives
from tunfwd.forwarding import events as session_events
from tunfwd.forwarding.flow import Mapping
from tunfwd.forwarding.states import FlowState
from tunfwd.loop import NEVER, READABLE, WRITABLE, Loop, current_time
from tunfwd.netstack import events as stack_events
from tunfwd.netstack.stack import Stack
from tunfwd.netstack.types import Frame
from tunfwd.tox.contacts import Contact, ContactOffline
from tunfwd.tun.device import Device, DeviceLost
from tunfwd.tun.nodevice import NoDevice

FAREWELL: Final = 1.0  # s at most that an end takes, for contacts to hear of it
RECOVERY: Final = 1.0  # s until a contact is served again whose session failed
TURNS: Final = 256  # of peers in one round, before other tasks get theirs
MAX_INBOX: Final = 512  # lossy packets of a contact that wait; a socket's buffer of default size has fewer
FLOOD: Final = 5000.0  # packets/s of a contact to no avail, that are half of all it sends or more
FLOOD_BURST: Final = 4096.0  # such packets beyond that rate: they were on their way when a stream ended
FLOOD_INTERVAL: Final = 0.05  # s; how often it is looked for
MAX_BATCH: Final = 64  # lossy packets taken in at a time: what arrives together costs one acknowledgement
NO_CONNECTION: Final = (
    stack_events.Datagram,
    stack_events.Broadcast,
    stack_events.DatagramRefused,
    stack_events.EchoRequest,
)

Ts = TypeVarTuple("Ts")


class MappingHandler(Protocol):
    """Hears of the mappings that contacts and sessions make and end."""

    def offered(self, peer: Peer, mapping: Mapping) -> None:
        """A contact offers something that was not accepted before, and may have withdrawn it since."""

    def changed(self, peer: Peer, mapping: Mapping) -> None:
        """A mapping has a new state."""


class Observer(Protocol):
    """Sees what contacts and the engine say to each other, and changes nothing of it."""

    def came(self, peer: Peer) -> None:
        """There is a new contact."""

    def left(self, peer: Peer) -> None:
        """A contact is no more."""

    def ended(self) -> None:
        """The daemon has parted from everybody."""

    def moved(self, peer: Peer) -> None:
        """A contact is online, offline, or reached by another path."""

    def lossless(self, peer: Peer, data: bytes) -> None:
        """A packet came."""

    def taking_in(self, peer: Peer, count: int) -> None:
        """So many lossy packets are about to be taken in."""

    def served(self, peer: Peer) -> None:
        """A contact had its turn."""

    def sending(self, peer: Peer) -> Contact:
        """Return to whom packets are about to be sent: the contact, or what stands in for it."""


class Engine:
    """Moves everything between the TUN device, the contacts' sessions and the services."""

    def __init__(
        self,
        device: Device | NoDevice,
        stack: Stack,
        peers: Peers,
        scheduler: Scheduler,
        mappings: MappingHandler,
        outbound: OutboundFlows,
        inbound: InboundFlows,
        fan_out: FanOut,
        pings: Pings,
        nameserver: NameServer,
        loop: Loop,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        """`clock` measures turns, in s."""
        self._device = device
        self._stack = stack
        self._peers = peers
        self._scheduler = scheduler
        self._mappings = mappings
        self._outbound = outbound
        self._inbound = inbound
        self._fan_out = fan_out
        self._pings = pings
        self._nameserver = nameserver
        self._loop = loop
        self._deadlines: Timers[Peer] = Timers()
        self._blocked: set[Peer] = set()
        self._clock = clock
        self._looked_at = 0.0  # for floods
        self._frames: deque[Frame] = deque()
        """What the device has not taken."""
        self._is_running = False
        self._interest: int | None = None
        """What of the device the loop waits for; None: nothing."""
        self._has_news = False
        """Whether the device was ready and no round was done since."""
        self.due = NEVER
        """When there is something to do by itself, as the last round left it."""
        self.on_claim: Callable[[Peer, bytes], None] = lambda _peer, _token: None
        """Told of a contact that has a ticket of ours, by its token."""
        self.on_claim_answered: Callable[[Peer, bytes, bool], None] = lambda _peer, _token, _valid: None
        """Told what a contact says of a ticket of its, by its token."""
        self.observer: Observer | None = None
        self.lost: DeviceLost | None = None
        """Why there is no TUN device any more."""
        self.device_lost = trio.Event()

    # -- what wakes it

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled. Without the TUN device, when that is deleted, which `device_lost` tells."""
        self._is_running = True
        try:
            self._watch_device()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pings.ask_the_silent, self._peers)
                await self._loop.attend(self, task_status)
        finally:
            self._is_running = False
            self._watch_device()

    def _watch_device(self) -> None:
        """Wait for the device to be readable, or where it has not taken everything, to be writable."""
        interest: int | None = WRITABLE if self._frames else READABLE
        if not self._is_running or self.lost is not None:
            interest = None
        if interest != self._interest:
            self._interest = interest
            self._loop.watch(self._device.fileno(), interest, self)

    def ready(self, _events: int) -> None:
        """Read the device, or write what it had no room for; called by the loop."""
        self._has_news = True
        if self._frames:
            self._write_frames()
        else:
            self._read_frames()

    def fail(self) -> None:
        """Go on: what a frame could make fail is caught for each by itself."""

    def _read_frames(self) -> None:
        try:
            frames = self._device.read()
        except DeviceLost as lost:
            self._lose_device(lost)
        else:
            self._stack.receive(frames, current_time())

    def _lose_device(self, lost: DeviceLost) -> None:
        self.lost = lost
        self.device_lost.set()
        self._watch_device()

    def work(self) -> None:
        """Do what is due, and a round if there is anything to be done in it; called by the loop."""
        now = current_time()
        if self.due <= now:
            self._expire(now)
        elif not (self._has_news or self._scheduler.is_requested or self._scheduler.has_work):
            return
        self.round()

    def _expire(self, now: float) -> None:
        self._stack.handle_timeout(now)
        for peer in self._deadlines.expire(now):
            self._attend(peer, peer.session.handle_timeout, now)
            self._scheduler.expect_round(peer)

    def offline(self, peer: Peer) -> None:
        """The contact has gone."""
        now = current_time()
        peer.offline_since = now
        peer.blocked = False
        self._blocked.discard(peer)
        if not self._scheduler.lags(peer):  # what came before, perhaps the contact's farewell
            self._attend(peer, self._take_in, peer, len(peer.inbox))
        peer.inbox.clear()
        self._attend(peer, peer.session.offline, now)
        self._moved(peer)

    def part(self, peer: Peer) -> None:
        """The contact has gone, and what is under way will not go on."""
        self._attend(peer, peer.session.leave, current_time())
        self._scheduler.touch(peer)

    def online(self, peer: Peer) -> None:
        """The contact is there."""
        peer.offline_since = None
        peer.heard = current_time()
        self._attend(peer, peer.session.online, current_time())
        self._moved(peer)

    def moved(self, peer: Peer) -> None:
        """The contact is reached by another path."""
        self._attend(peer, peer.session.path_changed, current_time())
        self._moved(peer)

    def _moved(self, peer: Peer) -> None:
        self._scheduler.touch(peer)
        if self.observer is not None:
            self.observer.moved(peer)

    def lossless(self, peer: Peer, data: bytes) -> None:
        """A packet came."""
        peer.packets += 1
        if self.observer is not None:
            self.observer.lossless(peer, data)
        self._attend(peer, peer.session.receive_lossless, data, current_time())
        self._scheduler.expect_round(peer)

    def public(self, peer: Peer, data: bytes) -> None:
        """A packet came that a member of a group sent to all in it."""
        peer.packets += 1
        self._attend(peer, peer.session.receive_public, data, current_time())
        self._scheduler.expect_round(peer)

    def lossy(self, peer: Peer, data: bytes) -> None:
        """A lossy packet came: it waits for the contact's turn."""
        peer.packets += 1
        if len(peer.inbox) < MAX_INBOX:
            peer.inbox.append(data)
            self._scheduler.expect_round(peer)
        else:
            peer.session.counters["inbox_full"] += 1

    def iterated(self) -> None:
        """toxcore has done a round of its own: its queues may have room."""
        for peer in self._blocked:
            peer.blocked = False
            self._scheduler.expect_round(peer)
        self._blocked.clear()
        if self._scheduler.has_work:
            self.round()

    def flooding(self) -> list[Peer] | None:
        """Return who sends far more than is of any use; None where it is not yet time to look again."""
        now = current_time()
        interval = now - self._looked_at
        if interval < FLOOD_INTERVAL:
            return None
        self._looked_at = now
        found = []
        tolerated = FLOOD * interval
        for peer in self._peers:
            excess = peer.excess - tolerated
            if peer.packets >= tolerated:
                before, peer.wasted = peer.wasted, peer.session.wasted
                wasted = min(peer.wasted - before, peer.packets)  # the rest is from before, and was tolerated
                excess += wasted
                if excess >= FLOOD_BURST and 2 * wasted >= peer.packets:
                    found.append(peer)
            peer.excess = min(max(excess, 0.0), FLOOD_BURST)
            if peer.packets:
                peer.heard = now
            peer.packets = 0
        self._scheduler.set_flooding(set(found))
        return found

    # -- what must not happen

    def _attend(self, peer: Peer, work: Callable[[*Ts], object], *arguments: *Ts) -> None:
        """Do something for one contact; if it fails, its session begins anew, and its flows are reset."""
        try:
            work(*arguments)
        except Exception as fault:
            note(peer.label, fault)
        else:
            return
        now = current_time()
        peer.inbox.clear()
        for flow in peer.session.fail(now):
            end, flow.end = flow.end, None
            if end is not None:
                survives("the local end of a flow", end.flow_ended, Reason.LOST)
        self._deadlines.set(peer, now + RECOVERY)  # not at once: what fails every time is not to keep us busy

    def _hand_out(self, event: stack_events.Event) -> None:
        """Do what an event of the netstack asks for; if it fails, the connection it is of is reset."""
        try:
            self._on_stack_event(event)
        except Exception as fault:
            note("a local connection", fault)
        else:
            return
        if isinstance(event, NO_CONNECTION):
            return
        if event.connection is not None:
            survives("a local connection, on being reset", connections.fail, event.connection)

    # -- a round of work

    def round(self) -> None:
        """Carry on everything that can be carried on."""
        stack, scheduler = self._stack, self._scheduler
        self._has_news = False
        scheduler.begin_round()
        for _ in range(TURNS):
            while (event := stack.next_event()) is not None:
                self._hand_out(event)
            turn = scheduler.next_turn()
            if turn is None:
                break
            peer, until = turn
            self._attend(peer, self._serve_peer, peer, until)
        scheduler.end_round()
        if self._frames or stack.has_frames:
            self._write_frames()
        scheduler.catch_up()
        self.due = self._next_deadline()

    def _on_stack_event(self, event: stack_events.Event) -> None:
        match event:
            case stack_events.Readable():  # the usual one
                connections.hand_over(event)
            case stack_events.Incoming():
                if not self._nameserver.incoming(event.connection):
                    self._outbound.incoming(event.connection)
            case stack_events.Datagram():
                if not self._inbound.datagram(event) and not self._nameserver.datagram(event):
                    self._outbound.datagram(event)
            case stack_events.Broadcast():
                self._fan_out.broadcast(event)
            case stack_events.DatagramRefused():
                self._inbound.refused(event)
            case stack_events.EchoRequest():
                peer = self._peers.at(event.destination)
                if peer is not None:
                    self._pings.echo(peer, event)
            case stack_events.Fault(error, connection):
                note("the netstack", error)
                if connection is not None:
                    connections.fail(connection)
            case _:
                connections.hand_over(event)

    def _serve_peer(self, peer: Peer, until: float) -> None:
        """Serve a peer for as long as it may take."""
        if not self._serve_until(peer, until):
            self._scheduler.too_short(peer)

    def _serve_until(self, peer: Peer, until: float = float("inf")) -> bool:
        """Take in what came, do what the session asks for, send what it says; False: there is more to do."""
        done = self._do_events(peer, until)
        while done and peer.inbox:
            began = self._clock()
            self._take_in(peer, peer.batch)
            done = self._do_events(peer, until)
            took = self._clock() - began
            if took > TURN / 2:
                peer.batch = max(1, peer.batch // 2)
            elif took < TURN / 8:
                peer.batch = min(MAX_BATCH, 2 * peer.batch)
        self._scheduler.served(peer)
        if self._stack.has_frames:
            self._write_frames()  # first: a program waits for it, a contact for nothing but acknowledgements
        self._send(peer)
        self._set_deadline(peer)
        if self.observer is not None:
            self.observer.served(peer)
        return done

    def _take_in(self, peer: Peer, count: int) -> None:
        """Give the session lossy packets that wait."""
        if self.observer is not None:
            self.observer.taking_in(peer, count)
        inbox, session, now = peer.inbox, peer.session, current_time()
        for _ in range(min(count, len(inbox))):
            session.receive_lossy(inbox.popleft(), now)

    def _do_events(self, peer: Peer, until: float) -> bool:
        """Do what the session asks for; False where the time is over before that."""
        while (event := peer.session.next_event()) is not None:
            self._on_session_event(peer, event)
            if self._clock() > until:
                return not (peer.session.has_events or peer.inbox)
        return not peer.inbox or self._clock() <= until

    def _on_session_event(self, peer: Peer, event: session_events.Event) -> None:
        match event:
            case session_events.Readable(flow):
                if flow.end is not None:
                    flow.end.flow_readable()
            case session_events.Writable(flow):
                if flow.end is not None:
                    flow.end.flow_writable()
            case session_events.DatagramArrived(flow, payload):
                if flow.end is not None:
                    flow.end.flow_datagram(payload)
            case session_events.Opened(flow):
                if flow.end is not None:
                    flow.end.flow_opened()
            case session_events.Failed(flow, reason):
                if flow.end is not None:
                    flow.end.flow_failed(reason)
            case session_events.FlowEnded(flow, ended):
                if flow.end is not None:
                    flow.end.flow_ended(ended)
            case session_events.ServiceWanted(flow):
                if flow.state is not FlowState.CLOSED:  # the contact has thought better of it
                    self._inbound.wanted(peer, flow)
            case session_events.OfferArrived(mapping):
                self._mappings.offered(peer, mapping)
            case session_events.MappingChanged(mapping):
                self._mappings.changed(peer, mapping)
            case session_events.PongArrived(token):
                self._pings.answered(token)
            case session_events.HelloArrived():
                self._pings.introduced(peer)
            case session_events.NodeArrived(key):
                peer.contact.remember_node(key)
            case session_events.ClaimArrived(token):
                self.on_claim(peer, token)
            case session_events.ClaimAnswered(token, valid):
                self.on_claim_answered(peer, token, valid)

    def _send(self, peer: Peer) -> None:
        session = peer.session
        contact = peer.contact if self.observer is None else self.observer.sending(peer)
        try:
            for lossy in session.lossy_to_send(current_time(), brief=not self._scheduler.is_alone):
                contact.send_lossy(lossy)
            if peer.blocked:
                return
            while (packet := session.next_packet()) is not None:
                if not contact.send_lossless(packet):
                    session.put_back(packet)
                    peer.blocked = True
                    self._blocked.add(peer)
                    return
        except ContactOffline:  # toxcore is about to say so
            return
        # Sending may have made room that somebody waits for.
        if session.has_events:
            self._scheduler.touch(peer)

    def _write_frames(self) -> None:
        frames, device = self._frames, self._device
        if not frames:
            frames.extend(self._stack.packets_to_send(current_time()))
        try:
            while frames and self.lost is None:
                if not device.write(frames[0]):
                    return
                frames.popleft()
        except DeviceLost as lost:
            self._lose_device(lost)
        finally:
            if self.lost is not None:
                frames.clear()
            if frames or self._interest != READABLE:
                self._watch_device()

    # -- deadlines

    def _set_deadline(self, peer: Peer) -> None:
        deadline = peer.session.next_timeout()
        if deadline is None:
            self._deadlines.cancel(peer)
        else:
            self._deadlines.set(peer, deadline)

    def _next_deadline(self) -> float:
        deadline = NEVER
        stack = None if self._frames else self._stack.next_timeout()
        if stack is not None:
            deadline = stack
        peers = self._deadlines.next()
        if peers is not None and peers < deadline:
            deadline = peers
        behind = self._scheduler.next_round()
        return deadline if behind is None else min(deadline, current_time() + behind)

    # -- the end

    def leave(self) -> None:
        """Part from everybody: applications and services here get a reset, not silence; contacts are told.

        The kernel would close the sockets to services in order, as if what was cut off had been all.
        """
        now = current_time()
        self._scheduler.let_all_go()
        for peer in self._peers:
            peer.inbox.clear()
            self._attend(peer, peer.session.close, now)
            self._attend(peer, self._serve_until, peer)
        self.round()
        if self.observer is not None:
            self.observer.ended()

    async def end(self) -> None:
        """Leave, and give Tox the moment that it takes until the contacts have heard of it."""
        self.leave()
        with trio.move_on_after(FAREWELL):
            while leaving := [peer for peer in self._peers if peer.session.is_closing]:
                await trio.sleep(FAREWELL / 10)
                for peer in leaving:
                    peer.session.close_again(current_time())
                    self._scheduler.touch(peer)

    def add(self, peer: Peer) -> None:
        """Look after a new contact."""
        self._peers.add(peer)
        self._scheduler.touch(peer)
        if self.observer is not None:
            self.observer.came(peer)

    def remove(self, peer: Peer) -> None:
        """A contact is no more; it is offline already."""
        self._attend(peer, peer.session.leave, current_time())
        self._attend(peer, self._serve_until, peer)
        self._scheduler.forget(peer)
        self._blocked.discard(peer)
        self._deadlines.cancel(peer)
        self._peers.remove(peer)
        if self.observer is not None:
            self.observer.left(peer)
