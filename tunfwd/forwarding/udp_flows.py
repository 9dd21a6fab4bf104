"""UDP flows by when they were last used: how long each may rest, and which one gives way to a new one.

As conntrack has it (nf_conntrack_proto_udp.c): a question that nobody answered is over after `BRIEF_IDLE`,
and what has carried both ways may rest for `idle`, so that a server may speak first after a long silence. Of
flows that were one question and its answer, as a resolver makes them by the hundred, only the last `ANSWERED`
may. A flow that still carries both ways after `STREAM_AGE` is a stream: it gives way only where all others
are streams, too.

Only the using side ends a flow for having rested. The serving side would do it while a question from the
same port is on its way, which is then nobody's: so it lets every flow rest as long as a stream, and `GRACE`
longer. Where it has a shorter `idle`, or is another program, such a question is asked again by a new flow
(outbound.py).
"""

from collections import OrderedDict
from typing import Final

from tunfwd.forwarding.flow import Flow
from tunfwd.forwarding.states import Role

DEFAULT_IDLE: Final = 300.0  # s; RFC 4787 4.3 recommends 5 minutes or more
BRIEF_IDLE: Final = 30.0  # s; nf_conntrack_udp_timeout
STREAM_AGE: Final = 2.0  # s; a reply within it is an answer
ANSWERED: Final = 256  # flows that were one question and its answer, and may rest longer than BRIEF_IDLE
UNASKED_IDLE: Final = 5.0  # s; of a question to all, which most do not answer
GRACE: Final = 5.0  # s; longer than a datagram is on its way, and the Kill after it


class _Use:
    """What a flow that is no stream has carried."""

    __slots__ = ("began", "idle", "received", "sent", "used")

    def __init__(self, began: float, idle: float) -> None:
        self.began = began
        self.idle = idle
        self.used = began
        self.received = False
        self.sent = False


class UdpFlows:
    """The UDP flows of one contact that one side has begun."""

    __slots__ = ("_brief", "_brief_idle", "_limit", "_streams", "idle")

    def __init__(self, role: Role, idle: float, limit: int) -> None:
        """There are `limit` flows at most.

        `idle` is how long a stream may rest, in seconds, for the using side; nothing may rest longer.
        """
        self._limit = limit
        self.idle = idle if role is Role.USING else idle + GRACE
        self._brief_idle = min(BRIEF_IDLE, idle) if role is Role.USING else self.idle
        self._brief: OrderedDict[Flow, _Use] = OrderedDict()  # the least recently used first
        self._streams: OrderedDict[Flow, None] = OrderedDict()  # the same

    def __len__(self) -> int:
        return len(self._brief) + len(self._streams)

    @property
    def is_full(self) -> bool:
        """Whether one has to give way to a new one."""
        return len(self) >= self._limit

    def add(self, flow: Flow, now: float) -> None:
        """Count a flow that begins."""
        self._brief[flow] = _Use(now, self._brief_idle)

    def rest_briefly(self, flow: Flow) -> None:
        """Have a flow rest for `UNASKED_IDLE` at most, until it is answered."""
        if (use := self._brief.get(flow)) is not None:
            use.idle = min(use.idle, UNASKED_IDLE)

    def discard(self, flow: Flow) -> None:
        """Forget a flow that is over, if it was one of these."""
        self._brief.pop(flow, None)
        self._streams.pop(flow, None)

    def used(self, flow: Flow, now: float, *, sent: bool) -> float:
        """Note that a datagram was sent, or else received. Return how long the flow may rest from now on."""
        if flow in self._streams:
            self._streams.move_to_end(flow)
            return self.idle
        use = self._brief[flow]
        use.used = now
        if sent:
            use.sent = True
        else:
            use.received = True
        if not (use.sent and use.received):
            self._brief.move_to_end(flow)
            return use.idle
        if now - use.began >= STREAM_AGE:
            del self._brief[flow]
            self._streams[flow] = None
        else:
            self._brief.move_to_end(flow)
        return self.idle

    def first_to_go(self, now: float) -> Flow | None:
        """Return the flow that gives way to a new one; None if there is room for all of them."""
        for flow, use in self._brief.items():
            crowded = len(self._brief) > ANSWERED and now - use.used >= self._brief_idle
            return flow if self.is_full or crowded else None
        for flow in self._streams:
            return flow if self.is_full else None
        return None
