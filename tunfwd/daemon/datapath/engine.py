"""The engine: one round of work, whatever woke it.

    TUN device -> netstack -> callers, serving -> sessions -> Tox
    Tox -> sessions -> callers, serving -> netstack -> TUN device

Four things wake it: frames from the TUN device, packets from toxcore, sockets to services, and deadlines.
Each hands over what it has, then `round` carries it all the way: events first, then packets and frames out.
Nothing in a round waits. What toxcore's queue refuses is tried again after its next iteration, and what the
device refuses when it is writable; until then the source of it is not read.

Contacts take turns. Lossy packets wait in the contact's inbox, and a turn ends when its time is over,
whatever is left: in each round all who are not behind go first, then one of those who are. So a contact that
sends more than we can take in gets the time that the others leave, and each of them waits for one turn of it
at most. Its inbox is bounded: what is too much is dropped before it costs anything, and a link slows down.

A mistake of ours that comes to light in any of this is the loss of the one that it was made for, and logged:
a contact's session begins anew (`_attend`), a local connection is reset (`_hand_out`). Nobody else notices.
"""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import Protocol, TypeVarTuple

import trio

from tunfwd.common.timers import Timers
from tunfwd.common.values import Reason
from tunfwd.daemon.datapath.inbound import Serving
from tunfwd.daemon.datapath.outbound import Callers
from tunfwd.daemon.datapath.pings import Pings
from tunfwd.daemon.datapath.switch import Switch
from tunfwd.daemon.peers import Peer, Peers
from tunfwd.faults import note, survives
from tunfwd.forwarding import events as session_events
from tunfwd.forwarding.flow import Mapping
from tunfwd.forwarding.states import FlowState
from tunfwd.netstack import events as stack_events
from tunfwd.netstack.types import Frame
from tunfwd.tox.contacts import ContactOffline
from tunfwd.tun.device import Device, DeviceLost

FAREWELL = 1.0  # s at most that an end takes, for contacts to hear of it
REST = 1.0  # s until a contact is looked after again whose session failed
TURNS = 256  # of peers in one round, before other tasks get theirs
TURN = 0.0005  # s of one contact, while others have something to do; half of an idle round trip
TURN_ALONE = 0.01  # s of one contact, while no other has
COMPANY = 0.25  # s that another contact's last turn counts
REST, REST_FLOODING = 1.0, 9.0  # turns that who is behind waits after one, while others have something to do
MAX_INBOX = 512  # lossy packets of a contact that wait; a socket buffer of Linux's default size holds fewer
FLOOD = 5000.0  # packets/s of a contact to no avail, that are half of all it sends or more
FLOOD_INTERVAL = 0.05  # s; how often it is looked for
MAX_BATCH = 64  # lossy packets taken in at a time: what arrives together costs one acknowledgement

Ts = TypeVarTuple("Ts")


class MappingHandler(Protocol):
    """Hears of the mappings that contacts and sessions make and end."""

    def offered(self, peer: Peer, mapping: Mapping) -> None:
        """A contact offers something that was not accepted before, and may have withdrawn it since."""

    def changed(self, peer: Peer, mapping: Mapping) -> None:
        """A mapping has a new state."""


class Engine:
    """Moves everything between the TUN device, the contacts' sessions and the services."""

    def __init__(
        self,
        device: Device,
        switch: Switch,
        mappings: MappingHandler,
        callers: Callers,
        serving: Serving,
        pings: Pings,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        """`clock` measures turns, in s."""
        self._device = device
        self._stack = switch.stack
        self._switch = switch
        self._mappings = mappings
        self._callers = callers
        self._serving = serving
        self._pings = pings
        self._peers: Peers = switch.peers
        self._deadlines: Timers[Peer] = Timers()
        self._blocked: set[Peer] = set()
        self._clock = clock
        self._late: dict[Peer, float] = {}  # whose last turn was too short for them, and when the next may be
        self._last: Peer | None = None  # whose turn was the last
        self._company_until = 0.0
        self._looked_at = 0.0  # for floods
        self._flooding: set[Peer] = set()
        self._frames: deque[Frame] = deque()
        self._alarm = trio.CancelScope()
        self.lost: DeviceLost | None = None
        """Why there is no TUN device any more."""
        self.device_lost = trio.Event()

    # What wakes it.

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled. Without the TUN device, when that is deleted, which `device_lost` tells."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_device)
            nursery.start_soon(self._keep_time)
            nursery.start_soon(self._work_off)
            task_status.started()

    async def _read_device(self) -> None:
        while self.lost is None:
            if self._frames:
                await self._device.wait_writable()
            else:
                await self._device.wait_readable()
                self._read_frames()
            self.round()
            await trio.lowlevel.checkpoint()

    def _read_frames(self) -> None:
        if self._frames or self.lost is not None:
            return
        try:
            frames = self._device.read()
        except DeviceLost as lost:
            self._lose_device(lost)
        else:
            self._stack.receive(frames, trio.current_time())

    def _lose_device(self, lost: DeviceLost) -> None:
        self.lost = lost
        self.device_lost.set()

    async def _keep_time(self) -> None:
        while True:
            with trio.CancelScope(deadline=self._next_deadline()) as self._alarm:
                await trio.sleep_forever()
            self._read_frames()  # what came before is not to wait for an Ack that it could take along
            now = trio.current_time()
            self._stack.handle_timeout(now)
            for peer in self._deadlines.expire(now):
                self._attend(peer, peer.session.handle_timeout, now)
                self._switch.dirty.add(peer)
            self.round()

    async def _work_off(self) -> None:
        """Do a round for whoever asked for one with `wake`, once for all that asked meanwhile."""
        while True:
            await self._switch.work.wait()
            self._switch.work = trio.Event()
            self.round()

    def offline(self, peer: Peer) -> None:
        """The contact has gone."""
        now = trio.current_time()
        peer.offline_since = now
        peer.blocked = False
        self._blocked.discard(peer)
        if peer not in self._late:  # what came before, perhaps the contact's farewell
            self._attend(peer, self._take_in, peer, len(peer.inbox))
        peer.inbox.clear()
        self._attend(peer, peer.session.offline, now)
        self._switch.touch(peer)

    def part(self, peer: Peer) -> None:
        """The contact has gone, and what is under way will not go on."""
        self._attend(peer, peer.session.leave, trio.current_time())
        self._switch.touch(peer)

    def online(self, peer: Peer) -> None:
        """The contact is there."""
        peer.offline_since = None
        self._attend(peer, peer.session.online, trio.current_time())
        self._switch.touch(peer)

    def moved(self, peer: Peer) -> None:
        """The contact is reached by another path."""
        self._attend(peer, peer.session.path_changed, trio.current_time())
        self._switch.touch(peer)

    def lossless(self, peer: Peer, data: bytes) -> None:
        """A packet came."""
        peer.packets += 1
        self._attend(peer, peer.session.receive_lossless, data, trio.current_time())
        self._switch.dirty.add(peer)

    def public(self, peer: Peer, data: bytes) -> None:
        """A packet came that a member of a group sent to all in it."""
        peer.packets += 1
        self._attend(peer, peer.session.receive_public, data, trio.current_time())
        self._switch.dirty.add(peer)

    def lossy(self, peer: Peer, data: bytes) -> None:
        """A lossy packet came: it waits for the contact's turn."""
        peer.packets += 1
        if len(peer.inbox) < MAX_INBOX:
            peer.inbox.append(data)
            self._switch.dirty.add(peer)
        else:
            peer.session.counters["inbox_full"] += 1

    def iterated(self) -> None:
        """toxcore has done a round of its own: its queues may have room."""
        for peer in self._blocked:
            peer.blocked = False
        self._switch.dirty |= self._blocked
        self._blocked.clear()
        if self._switch.dirty:
            self.round()

    def flooding(self) -> list[Peer] | None:
        """Return who sends far more than is of any use; None where it is not yet time to look again."""
        now = trio.current_time()
        interval = now - self._looked_at
        if interval < FLOOD_INTERVAL:
            return None
        self._looked_at = now
        found = []
        for peer in self._peers:
            if peer.packets >= FLOOD * interval:
                wasted, peer.wasted = peer.session.wasted - peer.wasted, peer.session.wasted
                if wasted >= FLOOD * interval and 2 * wasted >= peer.packets:
                    found.append(peer)
            peer.packets = 0
        self._flooding = set(found)
        return found

    # What must not happen.

    def _attend(self, peer: Peer, work: Callable[[*Ts], object], *arguments: *Ts) -> None:
        """Do something for one contact; if it fails, its session begins anew, and its flows are reset."""
        if survives(peer.label, work, *arguments):
            return
        now = trio.current_time()
        peer.inbox.clear()
        for flow in peer.session.fail(now):
            if end := self._switch.ends.pop(flow, None):
                survives("the local end of a flow", end.flow_ended, Reason.LOST)
        self._deadlines.set(peer, now + REST)  # not at once: what fails every time is not to keep us busy

    def _hand_out(self, event: stack_events.Event) -> None:
        """Do what an event of the netstack asks for; if it fails, the connection it is of is reset."""
        if not survives("a local connection", self._on_stack_event, event):
            survives("a local connection, on being reset", self._switch.fail, event)

    # A round of work.

    def round(self) -> None:
        """Carry on everything that can be carried on."""
        stack, switch, late = self._stack, self._switch, self._late
        switch.attended = late_too = True
        for _ in range(TURNS):
            while (event := stack.next_event()) is not None:
                self._hand_out(event)
            peer = self._next_peer(late_too=late_too)
            if peer is None:
                break
            if peer in late:
                del late[peer]
                late_too = False
            self._attend(peer, self._look_after, peer)
        switch.attended = False
        if switch.dirty or (late and min(late.values()) <= self._clock()):
            switch.wake()
        self._write_frames()
        deadline = self._next_deadline()
        if deadline != self._alarm.deadline:
            self._alarm.deadline = deadline

    def _on_stack_event(self, event: stack_events.Event) -> None:
        if self._switch.stream_event(event):
            return
        match event:
            case stack_events.Incoming():
                self._callers.incoming(event.connection)
            case stack_events.Datagram():
                relay = self._switch.datagram_services.get((event.destination, event.source))
                if relay is not None:
                    relay.received(bytes(event.payload))
                else:
                    self._callers.datagram(event)
            case stack_events.DatagramRefused():
                relay = self._switch.datagram_services.get((event.source, event.destination))
                if relay is not None:
                    relay.refused()
            case stack_events.Fault(error):
                note("the netstack", error)
                self._switch.fail(event)
            case stack_events.EchoRequest():
                peer = self._peers.at(event.destination)
                if peer is not None:
                    self._pings.echo(peer, event)

    def _next_peer(self, *, late_too: bool) -> Peer | None:
        """Return whose turn it is; of those who are behind, the one whose turn is longest ago."""
        dirty, late = self._switch.dirty, self._late
        while dirty:
            peer = dirty.pop()
            if peer not in late:
                return peer
        if late and late_too:
            now = self._clock()
            return next((peer for peer, ready_at in late.items() if ready_at <= now), None)
        return None

    def _look_after(self, peer: Peer) -> None:
        """Look after a peer for as long as it may take."""
        began = self._clock()
        if peer is not self._last:
            self._last = peer
            self._company_until = began + COMPANY
        alone = began >= self._company_until
        if not self._serve_until(peer, began + (TURN_ALONE if alone else TURN)):
            ended = self._clock()
            rest = 0.0 if alone else REST_FLOODING if peer in self._flooding else REST
            self._late[peer] = ended + rest * (ended - began)

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
        with suppress(ContactOffline):  # toxcore is about to say so
            self._send(peer)
        self._set_deadline(peer)
        return done

    def _take_in(self, peer: Peer, count: int) -> None:
        """Give the session lossy packets that wait."""
        inbox, session, now = peer.inbox, peer.session, trio.current_time()
        for _ in range(min(count, len(inbox))):
            session.receive_lossy(inbox.popleft(), now)

    def _do_events(self, peer: Peer, until: float) -> bool:
        """Do what the session asks for; False where the time is over before that."""
        while (event := peer.session.next_event()) is not None:
            self._on_session_event(peer, event)
            if self._clock() > until:
                return not (peer.session.has_events or peer.inbox)
        return not peer.inbox or self._clock() <= until

    @property
    def is_behind(self) -> bool:
        """Whether somebody's turn was too short."""
        return bool(self._late)

    def _on_session_event(self, peer: Peer, event: session_events.Event) -> None:
        ends = self._switch.ends
        match event:
            case session_events.Readable(flow):
                if end := ends.get(flow):
                    end.flow_readable()
            case session_events.Writable(flow):
                if end := ends.get(flow):
                    end.flow_writable()
            case session_events.DatagramArrived(flow, payload):
                if end := ends.get(flow):
                    end.flow_datagram(payload)
            case session_events.Opened(flow):
                if end := ends.get(flow):
                    end.flow_opened()
            case session_events.Failed(flow, reason):
                if end := ends.get(flow):
                    end.flow_failed(reason)
            case session_events.FlowEnded(flow, ended):
                if end := ends.get(flow):
                    end.flow_ended(ended)
            case session_events.ServiceWanted(flow):
                if flow.state is not FlowState.CLOSED:  # the contact has thought better of it
                    self._serving.wanted(peer, flow)
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

    def _send(self, peer: Peer) -> None:
        session, contact = peer.session, peer.contact
        for lossy in session.lossy_to_send(trio.current_time()):
            contact.send_lossy(lossy)
        if peer.blocked:
            return
        while (packet := session.next_packet()) is not None:
            if not contact.send_lossless(packet):
                session.put_back(packet)
                peer.blocked = True
                self._blocked.add(peer)
                return
        # Sending may have made room that somebody waits for.
        if session.has_events:
            self._switch.touch(peer)

    def _write_frames(self) -> None:
        frames, device = self._frames, self._device
        if not frames:
            frames.extend(self._stack.packets_to_send(trio.current_time()))
        try:
            while frames and self.lost is None:
                if not device.write(frames[0]):
                    return
                frames.popleft()
        except DeviceLost as lost:
            self._lose_device(lost)
        if self.lost is not None:
            frames.clear()

    # Deadlines.

    def _set_deadline(self, peer: Peer) -> None:
        deadline = peer.session.next_timeout()
        if deadline is None:
            self._deadlines.cancel(peer)
        else:
            self._deadlines.set(peer, deadline)

    def _next_deadline(self) -> float:
        stack = float("inf") if self._frames else self._stack.next_timeout()
        peers = self._deadlines.next()
        deadline = min(
            float("inf") if stack is None else stack,
            float("inf") if peers is None else peers,
        )
        if self._late:
            deadline = min(deadline, trio.current_time() + min(self._late.values()) - self._clock())
        return deadline

    # The end.

    def leave(self) -> None:
        """Part from everybody: applications and services here get a reset, not silence; contacts are told.

        The kernel would close the sockets to services in order, as if what was cut off had been all.
        """
        now = trio.current_time()
        self._late.clear()
        for peer in self._peers:
            peer.inbox.clear()
            self._attend(peer, peer.session.close, now)
            self._attend(peer, self._serve_until, peer)
        self.round()

    async def end(self) -> None:
        """Leave, and give Tox the moment that it takes until the contacts have heard of it."""
        self.leave()
        with trio.move_on_after(FAREWELL):
            while leaving := [peer for peer in self._peers if peer.session.is_closing]:
                await trio.sleep(FAREWELL / 10)
                for peer in leaving:
                    peer.session.close_again(trio.current_time())
                    self._switch.touch(peer)

    def add(self, peer: Peer) -> None:
        """Look after a new contact."""
        self._peers.add(peer)
        self._switch.touch(peer)

    def remove(self, peer: Peer) -> None:
        """A contact is no more; it is offline already."""
        self._attend(peer, peer.session.leave, trio.current_time())
        self._attend(peer, self._serve_until, peer)
        self._switch.dirty.discard(peer)
        self._late.pop(peer, None)
        self._flooding.discard(peer)
        self._blocked.discard(peer)
        self._deadlines.cancel(peer)
        self._peers.remove(peer)
