"""Lets traces see a contact's packets, in an engine that knows nothing of them.

While there is a trace, the engine has an observer; without one it asks whether it has, and nothing else.
"""

from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Final, Literal

from tunfwd.daemon.datapath.engine import Engine
from tunfwd.daemon.datapath.trace import Trace
from tunfwd.daemon.peers import Peer, Peers
from tunfwd.faults import survives
from tunfwd.loop import current_time
from tunfwd.tox.contacts import TCP, UDP, Contact

TRACE: Final = "a trace"

Start = Callable[[Peer], Trace]


class Tap:
    """The traces of an engine: its observer, while there are any."""

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

    def _switch(self) -> None:
        self._engine.observer = self if self.traces or self._start is not None else None

    # -- what the engine tells

    def came(self, peer: Peer) -> None:
        """See Observer."""
        if self._start is not None:
            trace = self._followed[peer] = self._start(peer)
            self.add(peer, trace)

    def left(self, peer: Peer) -> None:
        """See Observer."""
        self.end(peer, "contact_removed")

    def ended(self) -> None:
        """See Observer: it is the end of traces, too."""
        for peer in list(self.traces):
            self.end(peer, "daemon_ended")

    def moved(self, peer: Peer) -> None:
        """See Observer."""
        for trace in self.traces.get(peer, ()):
            trace.state(state_of(peer), current_time())

    def lossless(self, peer: Peer, data: bytes) -> None:
        """See Observer."""
        for trace in self.traces.get(peer, ()):
            survives(TRACE, partial(trace.received, lossless=True), data, current_time())

    def taking_in(self, peer: Peer, count: int) -> None:
        """See Observer."""
        if traces := self.traces.get(peer):
            link, now, inbox = peer.session.link, current_time(), peer.inbox
            for trace in traces:
                survives(TRACE, trace.begin, link, now)
                for packet in islice(inbox, count):
                    survives(TRACE, trace.received, packet, now)

    def served(self, peer: Peer) -> None:
        """See Observer."""
        if traces := self.traces.get(peer):
            link, now = peer.session.link, current_time()
            for trace in traces:
                survives(TRACE, trace.look, link, now)
            if any(trace.over is not None for trace in traces):
                self.sweep(peer)

    def sending(self, peer: Peer) -> Contact:
        """See Observer."""
        traces = self.traces.get(peer)
        if not traces:
            return peer.contact
        for trace in traces:
            survives(TRACE, trace.begin, peer.session.link, current_time())
        return _Overheard(peer.contact, traces)


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
