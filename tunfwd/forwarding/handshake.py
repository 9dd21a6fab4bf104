"""Hello: whether the contact speaks the extensions, which of them are in force, and whether it began anew.

Decides, and never sends: a Hello that is to be sent is returned, and `carriage` sends it. In the order of an
online period: `online`, `greet` or `broadcast`, `receive`, `repeat`, `offline`. Here is also how long a link
outlives a contact that is offline, and how long a session rests after a failure of our own.
"""

from dataclasses import dataclass
from typing import Final

from tunfwd.common.budget import Budget
from tunfwd.forwarding.clock import Clock
from tunfwd.wire.packets import Feature, Hello

HELLO_INTERVAL: Final = 2.0
"""s; a Hello within it of ours answers or crossed it: two programs do not answer each other forever."""
EPOCHS: Final = (16, 2.0)
"""Hellos with a new epoch, each of which ends a link and begins one, and s for each further one."""
REPEAT: Final[tuple[float, ...]] = (3.0, 48.0)
"""s until an unanswered Hello is repeated, doubled up to the last; the first is above HELLO_INTERVAL."""
PAUSE: Final[tuple[float, ...]] = (1.0, 60.0)
"""s that a failed session rests: doubled each time, until it goes well for the longest."""
RUN: Final = (
    0xFFFFFFFF_00000000  # of an epoch: the same as long as the program runs; below it, links are counted
)


def next_epoch(epoch: int) -> int:
    """Return the epoch that, in the same run, says that nothing of before goes on."""
    return epoch & RUN | (epoch + 1) & ~RUN


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a Hello of the contact means."""

    new_epoch: bool
    """Whether the contact has begun anew: nothing of before goes on."""
    new_run: bool
    """Whether its program has been started anew, and has forgotten what it decided."""
    unasked: bool
    """Whether it is no answer: the contact wants ours, and our Offers."""
    repeated: bool
    """Whether our first Hello, and what we said after it, may not have been heard."""

    @property
    def is_question(self) -> bool:
        """Whether our Hello is the answer that is due."""
        return self.new_epoch or self.unasked


class Handshake:
    """Where we and one contact stand with each other's Hello."""

    __slots__ = (
        "_answers",
        "_clock",
        "_epochs",
        "_failed_at",
        "_features",
        "_has_failed",
        "_hello_sent_at",
        "_patience",
        "_pause",
        "_peer_epoch",
        "epoch",
        "features",
        "is_online",
        "outage_ends",
        "repeat_at",
        "resumes_at",
    )

    def __init__(self, clock: Clock, epoch: int, features: Feature) -> None:
        """`features` are those that we offer; in force are those that the contact has, too."""
        self.epoch = epoch
        """This run of ours, and this link of it, as the contact knows it."""
        self.is_online = False
        self.features = Feature(0)
        """Those in force; none while the contact is plain."""
        self.outage_ends: float | None = None
        """Until when a link waits for a contact that is offline."""
        self.repeat_at: float | None = None
        """When our Hello is repeated, while none has come in this online period."""
        self.resumes_at: float | None = None
        """When the session goes on that has failed."""
        self._clock = clock
        self._features = features
        self._peer_epoch: int | None = None
        self._hello_sent_at: float | None = None  # in this online period
        self._answers = 0  # that may come to Hellos of ours, in this online period
        self._patience = 0.0  # s until the Hello is repeated that goes unanswered; 0 where it is not
        self._epochs = Budget(*EPOCHS)
        self._has_failed = False
        self._failed_at = -PAUSE[1]
        self._pause = 0.0

    @property
    def has_met(self) -> bool:
        """Whether the contact is known to say Hello, or may have said it while we rested."""
        return self._peer_epoch is not None or self._has_failed

    @property
    def has_greeted(self) -> bool:
        """Whether we have said Hello since the contact came online."""
        return self._hello_sent_at is not None

    # -- what leaves -------------------------------------------------------------------------------------

    def greet(self) -> Hello | None:
        """Return our first Hello of this online period, or None: it goes ahead of all else that we say."""
        if self._hello_sent_at is not None:
            return None
        hello = self.ask()
        self._expect()
        return hello

    def ask(self) -> Hello:
        """Return a Hello that wants one for an answer."""
        self._answers += 1
        return self.answer()

    def answer(self) -> Hello:
        """Return a Hello."""
        self._hello_sent_at = self._clock.now
        return Hello(self._features, self.epoch)

    def broadcast(self) -> None:
        """Note that the owner has said Hello, to the contact and others at once."""
        if self._hello_sent_at is None:
            self._hello_sent_at = self._clock.now
            self._answers += 1
            if self.has_met:  # of all the others nobody expects one
                self._expect()

    def _expect(self) -> None:
        """Have our first Hello of an online period repeated until one comes.

        What the contact said while it was offline to us is lost, and our Hello may be the answer to it in the
        contact's eyes, and so go unanswered. A later one will not.
        """
        self._patience = REPEAT[0]
        self.repeat_at = self._clock.now + self._patience

    def repeat(self) -> Hello:
        """Return the Hello that is due at `repeat_at`."""
        self._patience *= 2
        self.repeat_at = self._clock.now + self._patience if self._patience <= REPEAT[1] else None
        return self.ask()

    # -- what arrives ------------------------------------------------------------------------------------

    def receive(self, hello: Hello) -> Arrival | None:
        """Take in the contact's Hello; None where its epoch changes too often, and it has no effect."""
        now, known = self._clock.now, self._peer_epoch
        new_epoch = known is not None and known != hello.epoch
        if new_epoch and not self._epochs.spend(now):
            return None
        self._peer_epoch = hello.epoch
        sent_at = self._hello_sent_at
        crossed = sent_at is not None and now - sent_at < HELLO_INTERVAL
        arrival = Arrival(
            new_epoch=new_epoch,
            new_run=known is not None and known & RUN != hello.epoch & RUN,
            unasked=not self._answers and not crossed,
            repeated=self._patience > REPEAT[0],
        )
        self._answers = max(0, self._answers - 1)
        self._patience, self.repeat_at = 0.0, None
        return arrival

    def agree(self, features: Feature) -> None:
        """Put those of the contact's features in force that we offer, too."""
        self.features = features & self._features

    # -- the contact comes and goes ----------------------------------------------------------------------

    def online(self) -> None:
        """Begin an online period."""
        self.is_online = True
        self.outage_ends = None
        self._hello_sent_at = None
        self._answers = 0
        self._patience, self.repeat_at = 0.0, None

    def offline(self) -> None:
        """End the online period, or the rest after a failure."""
        self.is_online = False
        self.resumes_at = self.repeat_at = None

    def begin_anew(self) -> None:
        """Take the next epoch: nothing of before goes on."""
        self.epoch = next_epoch(self.epoch)

    def fail(self) -> None:
        """Rest for a while as if the contact were offline, and longer the more often this happens."""
        now, (first, longest) = self._clock.now, PAUSE
        was_online = self.is_online or self.resumes_at is not None
        went_well = now - self._failed_at - self._pause  # s since it resumed
        self._pause = first if went_well >= longest else min(2 * self._pause, longest)
        self._failed_at, self._has_failed = now, True
        self.offline()
        self.features = Feature(0)
        self.outage_ends = None
        self.resumes_at = now + self._pause if was_online else None
        self.begin_anew()
