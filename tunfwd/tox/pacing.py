"""When to go round toxcore's loop, and when to offer it lossless packets. Used by client.py; sends nothing.

toxcore paces its lossless packets with credits. From outside one sees only that a packet is refused (SENDQ)
once the credits are spent. What goes on inside (net_crypto.c, send_crypto_packets; measured with 0.2.20):

- Each round of `tox_iterate` adds rate x (time since the last round) credits, at most about four rounds'
  worth plus 64. An idle connection holds 64 to 68 and has the least rate there is, 4 packets/s.
- Every 50 ms or more the rate is set anew: 1.2 x what was sent over the last twelve such windows and did not
  stay in the queue. That is a slow start: from 64 packets it grows 1.7 to 1.8 fold a second, so that
  1372-byte packets go at 0.5 MB/s in the first second, at 8 MB/s in the sixth, and past 100 MB/s, where the
  machine and not toxcore is the limit, after twelve. A second of silence ends it: back to 64 packets.
- A round that finds no credit at all counts as congestion, although nothing was lost: for the next second
  the factor is 0.9 instead of 1.2. So whoever spends all credits and then calls `tox_iterate` before another
  one is due stops the growth. Rounds whenever a packet comes in, or every 5 ms at a rate below 200 packets/s,
  do that each time: the rate falls to 4 packets/s and stays there.

Hence, for friends, once a packet is refused, no round before toxcore's own interval is over (it is just long
enough for one credit); rounds as often as wanted from then on; and the next packet only when several credits
are due, which keeps those silences few, but not so many that one burst overruns the peer's socket buffer.

Groups have none of this: toxcore sends lossless packets to a member as they come, keeps up to 8191 of them,
and sends what got lost again when asked to, or all of it after two seconds. What is offered too fast overruns
a socket buffer, and the member may never catch up, until it is dropped after a minute. So the rate to a
member is bounded here. The receiving side is given only one packet a round of those that had to wait for a
lost one: after each lossless packet of a group comes another round at once.
"""

from collections.abc import Callable
from typing import Final, Protocol

ROUND: Final = 0.004  # s between rounds while something goes on that no socket announces
CALM: Final = 0.05  # s; the longest interval toxcore asks for, when it has nothing to do
IDLE: Final = 0.2
"""Seconds between rounds then, if UDP announces everything: toxcore's own timers run a second or more."""
CREDITS: Final = 4  # packets to wait for before a full queue is tried again
BURST: Final = 100  # packets; a socket buffer of Linux's default size holds 180 of toxcore's largest
GROUP_BURST: Final = 40  # lossless packets to a member of a group in each ROUND: 4 MB/s of 500 bytes
GROUP_STUCK: Final = 0.5  # s until a member's queue is tried again that holds all it can
SHORTEST: Final = 0.001  # s; the resolution of toxcore's clock
LONGEST: Final = 2.0  # s; at toxcore's least rate 8 credits, enough to climb from it
LINGER: Final = 1.0  # s after its last packet that a relayed contact counts as active


class Queue(Protocol):
    """A lossless queue towards a contact."""

    full: bool
    """Refused a packet; not to be offered another until this is False again."""
    accepted: int
    """Packets taken since it was last full."""
    tried: float
    """When it was last full, and began to be offered packets again."""
    wait: float
    """Seconds from then to the next try."""


class Pacing:
    """The clock of one client's loop."""

    def __init__(self) -> None:
        self.relayed = False
        """Set by a contact behind a relay for each packet: there is no socket to wait for."""
        self.lossless = False
        """Set by a friend for each lossless packet: toxcore may have to send it again, and says when."""
        self.backlog = False
        """Set by a lossless packet of a group: toxcore hands out one stored packet a round after a loss."""
        self.all_udp = False
        """Whether there is UDP, and no contact is reached through a relay."""
        self._relayed_until = 0.0
        self._lossless_until = 0.0
        self._interval = CALM
        self._asked_at = -CALM
        self._refused: list[Queue] = []
        self._spent: list[Queue] = []
        self._waiting: list[Queue] = []
        self._quiet_until = 0.0

    def refused(self, queue: Queue) -> None:
        """Note that a queue refused a packet."""
        queue.full = True
        self._refused.append(queue)

    def spent(self, queue: Queue, wait: float) -> None:
        """Close a queue that must not take more for `wait` seconds, though it would."""
        queue.full = True
        queue.wait = wait
        self._spent.append(queue)

    def release(self, now: float) -> None:
        """Open the queues whose time has come; call before the handler may fill them."""
        waiting, self._waiting = self._waiting, []
        for queue in waiting:
            if queue.tried + queue.wait <= now:
                queue.full = False
            else:
                self._waiting.append(queue)

    def interval(self, now: float, ask: Callable[[], float]) -> float:
        """Return toxcore's own interval, in seconds, which `ask` asks it for.

        It then looks at all files of all friends (256 each), which takes longer than the round itself where
        there are many. Without lossless packets of ours it has hardly ever anything to tell.
        """
        if self.lossless:
            self.lossless = False
            self._lossless_until = now + LINGER
        if now < self._lossless_until or now >= self._asked_at + CALM:
            self._interval = ask()
            self._asked_at = now
        return self._interval

    def next_round(self, now: float, interval: float) -> tuple[float, float]:
        """Return when the next round may be, whatever happens, and when it must be.

        `interval` is toxcore's own, in seconds.
        """
        for queue in self._refused:
            queue.wait = max(interval, _wait(queue, now))
            self._quiet_until = now + interval
        for queue in (*self._refused, *self._spent):
            queue.tried = now
            queue.accepted = 0
            self._waiting.append(queue)
        self._refused.clear()
        self._spent.clear()
        if self.relayed:
            self.relayed = False
            self._relayed_until = now + LINGER
        if self.backlog:
            self.backlog = False
            latest = now
        elif now < self._relayed_until:
            latest = now + ROUND
        elif self.all_udp and interval >= CALM:
            latest = now + IDLE
        else:
            latest = now + max(interval, ROUND)
        if self._waiting:
            latest = min(latest, *(queue.tried + queue.wait for queue in self._waiting))
        return self._quiet_until, max(latest, self._quiet_until)


def _wait(queue: Queue, now: float) -> float:
    """Return how long until a full queue has a few credits, going by what it took since it was last full."""
    if not queue.accepted:
        return min(2 * queue.wait, LONGEST)
    elapsed = now - queue.tried
    if elapsed > LONGEST:  # it was idle: what it took says nothing of the rate
        return ROUND
    per_packet = max(elapsed, SHORTEST) / queue.accepted
    return max(SHORTEST, min(max(CREDITS * per_packet, ROUND), BURST * per_packet, LONGEST))
