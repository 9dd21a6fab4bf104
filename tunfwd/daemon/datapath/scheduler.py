"""Says whose session is to be served, and for how long.

Whoever does something to a session calls `touch`, in a round of the engine or between two; `wake` has a
round done that nothing else would start. The rest is for engine.py, which does the rounds: it takes peers
from here, one turn at a time.

Contacts take turns. A turn ends when its time is over, whatever is left: in each round all who are not behind
go first, then one of those who are. So a contact that sends more than we can take in gets the time that the
others leave, and each of them waits for one turn of it at most.
"""

from collections.abc import Callable
from time import perf_counter
from typing import Final

from tunfwd.daemon.peers import Peer
from tunfwd.faults import survives

TURN: Final = 0.0005  # s of one contact, while others have something to do; half of an idle round trip
TURN_ALONE: Final = 0.01  # s of one contact, while no other has
COMPANY: Final = 0.25  # s that another contact's last turn counts
REST: Final = 1.0  # turns that who is behind waits after one, while others have something to do
REST_FLOODING: Final = 9.0  # the same for who sends far more than is of any use


class Scheduler:
    """The peers to be served, and those who are behind."""

    def __init__(
        self, clock: Callable[[], float] = perf_counter, wake: Callable[[], object] = lambda: None
    ) -> None:
        """`clock` measures turns, in s; `wake` has a pass of the loop soon, and so a round."""
        self._clock = clock
        self._wake = wake
        self._pending: set[Peer] = set()
        """Peers whose session has events or packets, or may have."""
        self._in_round = False
        """Whether a round is under way, which sees to all that is pending."""
        self.is_requested = False
        """Whether a round is wanted."""
        self._behind: dict[Peer, float] = {}
        """Whose last turn was too short for them, and when the next may be."""
        self._behind_may_go = False
        """Whether none of those had a turn in this round."""
        self._afterwards: list[Callable[[], object]] = []
        self._flooding: set[Peer] = set()
        self._last: Peer | None = None
        """Whose turn was the last."""
        self._company_until = 0.0
        self._turn_began = 0.0
        self.is_alone = False
        """Whether no other has had a turn for a while, but the one whose turn it is."""

    def touch(self, peer: Peer) -> None:
        """Have the peer's session served, in this round or one soon."""
        self._pending.add(peer)
        if not self._in_round and not self.is_requested:
            self.wake()

    def wake(self) -> None:
        """Have a round soon."""
        self.is_requested = True
        self._wake()

    def afterwards(self, work: Callable[[], object]) -> None:
        """Have something done at the end of a round, when all has left that somebody waits for."""
        self._afterwards.append(work)

    # -- for the engine: rounds

    def expect_round(self, peer: Peer) -> None:
        """Have the peer's session served in the round that is about to be done."""
        self._pending.add(peer)

    def begin_round(self) -> None:
        """Note that all that is pending is seen to from now on."""
        self._in_round = self._behind_may_go = True
        self.is_requested = False

    def end_round(self) -> None:
        """Note that nobody sees to what comes from now on, but another round."""
        self._in_round = False
        if self._pending or (self._behind and self.has_work):
            self.wake()

    def catch_up(self) -> None:
        """Do what was put off until all had left."""
        if self._afterwards:
            works, self._afterwards = self._afterwards, []
            for work in works:
                survives("what was put off", work)

    @property
    def has_work(self) -> bool:
        """Whether a round would serve somebody now."""
        if self._pending:
            return True
        return bool(self._behind) and min(self._behind.values()) <= self._clock()

    def next_round(self) -> float | None:
        """Return in how many seconds who is behind may have a turn; None: nobody is."""
        return min(self._behind.values()) - self._clock() if self._behind else None

    # -- for the engine: turns

    def next_turn(self) -> tuple[Peer, float] | None:
        """Return whose turn it is in this round, and until when, by the clock; None: nobody's.

        Of those who are behind one has a turn in a round, whose last is longest ago.
        """
        pending, behind = self._pending, self._behind
        while pending:
            peer = pending.pop()
            if peer not in behind:
                break
        else:
            ready = self._ready() if behind and self._behind_may_go else None
            if ready is None:
                return None
            peer = ready
            del behind[peer]
            self._behind_may_go = False
        now = self._turn_began = self._clock()
        if peer is not self._last:
            self._last = peer
            self._company_until = now + COMPANY
        self.is_alone = now >= self._company_until
        return peer, now + (TURN_ALONE if self.is_alone else TURN)

    def _ready(self) -> Peer | None:
        now = self._clock()
        return next((peer for peer, ready_at in self._behind.items() if ready_at <= now), None)

    def served(self, peer: Peer) -> None:
        """Note that all is about to be sent that the session has so far; what comes later is touched anew."""
        self._pending.discard(peer)

    def too_short(self, peer: Peer) -> None:
        """Note that the turn has ended before all was done."""
        ended = self._clock()
        rest = 0.0 if self.is_alone else REST_FLOODING if peer in self._flooding else REST
        self._behind[peer] = ended + rest * (ended - self._turn_began)

    # -- for the engine: peers

    def lags(self, peer: Peer) -> bool:
        """Whether the peer's last turn was too short."""
        return peer in self._behind

    def set_flooding(self, peers: set[Peer]) -> None:
        """Have these wait longer between turns, and no others."""
        self._flooding = peers

    def let_all_go(self) -> None:
        """Have nobody wait for a turn any more."""
        self._behind.clear()

    def forget(self, peer: Peer) -> None:
        """A contact is no more."""
        self._pending.discard(peer)
        self._behind.pop(peer, None)
        self._flooding.discard(peer)
