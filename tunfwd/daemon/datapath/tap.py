"""Lets traces see a contact's packets, in an engine that knows nothing of it.

While there is a trace, the engine is of a class that overrides what is to be seen; without one it is what it
was, so that being able to look costs nothing.
"""

from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Final, Literal, cast

from tunfwd.daemon.datapath.engine import Engine
from tunfwd.daemon.datapath.trace import Trace
from tunfwd.daemon.peers import Peer, Peers
from tunfwd.faults import survives
from tunfwd.loop import current_time
from tunfwd.tox.contacts import TCP, UDP, Contact

TRACE: Final = "a trace"

Start = Callable[[Peer], Trace]


class Tap:
    """The traces of an engine."""

    def __init__(self, engine: Engine, peers: Peers) -> None:
        self._engine = engine
        self._peers = peers
        self._start: Start | None = None
        self._followed: dict[Peer, Trace] = {}
        self.traces: dict[Peer, list[Trace]] = {}

    def add(self, peer: Peer, trace: Trace) -> None:
        """Have a trace see what goes on with a contact, until it is over."""
        now = current_time()
        if peer.session.is_online:
            trace.state(state_of(peer), now)
            trace.look(peer.session.link, now)
        self.traces.setdefault(peer, []).append(trace)
        self._switch()

    def sweep(self, peer: Peer) -> None:
        """Forget the traces of a contact that are over."""
        left = [trace for trace in self.traces.get(peer, ()) if trace.over is None]
        if left:
            self.traces[peer] = left
        else:
            self.traces.pop(peer, None)
        self._switch()

    def end(self, peer: Peer, reason: str) -> None:
        """End the traces of a contact."""
        self._followed.pop(peer, None)
        for trace in self.traces.get(peer, ()):
            trace.end(reason, current_time())
        self.sweep(peer)

    def follow_all(self, start: Start) -> None:
        """Begin a trace for every contact there is, and for each that comes."""
        self._start = start
        for peer in self._peers:
            self.came(peer)
        self._switch()

    def follow_none(self, reason: str) -> None:
        """End those traces; others go on."""
        self._start = None
        followed, self._followed = self._followed, {}
        for peer, trace in followed.items():
            trace.end(reason, current_time())
            self.sweep(peer)
        self._switch()

    def came(self, peer: Peer) -> None:
        """There is a new contact."""
        if self._start is not None:
            trace = self._followed[peer] = self._start(peer)
            self.add(peer, trace)

    def _switch(self) -> None:
        engine = self._engine
        if self.traces or self._start is not None:
            engine.__class__ = TappedEngine
            cast(TappedEngine, engine).tap = self
        else:
            engine.__class__ = Engine


class TappedEngine(Engine):
    """An engine whose packets are seen."""

    tap: Tap

    def add(self, peer: Peer) -> None:
        """See Engine."""
        super().add(peer)
        self.tap.came(peer)

    def remove(self, peer: Peer) -> None:
        """See Engine."""
        tap = self.tap
        super().remove(peer)
        tap.end(peer, "contact_removed")

    def leave(self) -> None:
        """See Engine: it is the end, of traces, too."""
        super().leave()
        for peer in list(self.tap.traces):
            self.tap.end(peer, "daemon_ended")

    def online(self, peer: Peer) -> None:
        """See Engine."""
        super().online(peer)
        self._tell_state(peer)

    def offline(self, peer: Peer) -> None:
        """See Engine."""
        super().offline(peer)
        self._tell_state(peer)

    def moved(self, peer: Peer) -> None:
        """See Engine."""
        super().moved(peer)
        self._tell_state(peer)

    def lossless(self, peer: Peer, data: bytes) -> None:
        """See Engine."""
        for trace in self.tap.traces.get(peer, ()):
            survives(TRACE, partial(trace.received, lossless=True), data, current_time())
        super().lossless(peer, data)

    def _take_in(self, peer: Peer, count: int) -> None:
        if traces := self.tap.traces.get(peer):
            link, now, inbox = peer.session.link, current_time(), peer.inbox
            for trace in traces:
                survives(TRACE, trace.begin, link, now)
                for packet in islice(inbox, count):
                    survives(TRACE, trace.received, packet, now)
        super()._take_in(peer, count)

    def _serve_until(self, peer: Peer, until: float = float("inf")) -> bool:
        done = super()._serve_until(peer, until)
        if traces := self.tap.traces.get(peer):
            link, now = peer.session.link, current_time()
            for trace in traces:
                survives(TRACE, trace.look, link, now)
            if any(trace.over is not None for trace in traces):
                self.tap.sweep(peer)
        return done

    def _send(self, peer: Peer) -> None:
        traces = self.tap.traces.get(peer)
        if not traces:
            super()._send(peer)
            return
        for trace in traces:
            survives(TRACE, trace.begin, peer.session.link, current_time())
        contact = peer.contact
        peer.contact = _Overheard(contact, traces)
        try:
            super()._send(peer)
        finally:
            peer.contact = contact

    def _tell_state(self, peer: Peer) -> None:
        for trace in self.tap.traces.get(peer, ()):
            trace.state(state_of(peer), current_time())


class _Overheard(Contact):
    """Stands in for a contact while packets are sent to it."""

    __slots__ = ("_contact", "_traces")

    def __init__(self, contact: Contact, traces: list[Trace]) -> None:
        self._contact = contact
        self._traces = traces

    def send_lossless(self, packet: bytes) -> bool:
        """See Contact."""
        taken = self._contact.send_lossless(packet)
        for trace in self._traces if taken else ():
            survives(TRACE, partial(trace.sent, lossless=True), packet, current_time())
        return taken

    def send_lossy(self, packet: bytes) -> bool:
        """See Contact. What is lost here already has been sent, as the link sees it."""
        for trace in self._traces:
            survives(TRACE, trace.sent, packet, current_time())
        return self._contact.send_lossy(packet)

    def remember_node(self, key: bytes) -> None:
        """See Contact."""
        self._contact.remember_node(key)


def state_of(peer: Peer) -> Literal["offline", "direct", "relay"]:
    """Return how a contact is reached."""
    if not peer.session.is_online:
        return "offline"
    match peer.contact.connection:
        case connection if connection is UDP:
            return "direct"
        case connection if connection is TCP:
            return "relay"
    return "offline"
