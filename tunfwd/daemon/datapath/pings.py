"""Round trips to contacts: for `tunfwd ping`, and for an ordinary ping of a virtual address."""

from collections.abc import Callable, Iterable
from typing import Final

import trio

from tunfwd.common.values import Random
from tunfwd.daemon.datapath.scheduler import Scheduler
from tunfwd.daemon.peers import ASK, Peer
from tunfwd.loop import current_time
from tunfwd.netstack.events import EchoRequest
from tunfwd.netstack.stack import Stack

MAX_WAITING: Final = 1024  # unanswered pings; the oldest give way
AGAIN: Final = 1.0  # s until an unanswered Ping is followed by another: it goes in a lossy packet


class Pings:
    """Sends pings, and tells whoever waits for the answer."""

    def __init__(self, stack: Stack, scheduler: Scheduler, random: Random) -> None:
        self._stack = stack
        self._scheduler = scheduler
        self._random = random
        self._waiting: dict[int, Callable[[], None]] = {}
        self._greeted: dict[Peer, trio.Event] = {}

    async def ping(self, peer: Peer) -> float | None:
        """Return the round trip in seconds; None where the contact is no tunfwd, or does not answer pings.

        Waits without limit for the answer.
        """
        round_trips: list[float] = []
        answered = trio.Event()

        def send() -> bool:
            sent = current_time()

            def done() -> None:
                round_trips.append(current_time() - sent)
                answered.set()

            return self._send(peer, done)

        if not send():
            # It may only not have said yet what it can do; our Hello, on its way by now, asks.
            greeted = self._greeted.setdefault(peer, trio.Event())
            self._scheduler.wake()
            await greeted.wait()
            if not send():
                return None
        while True:
            self._scheduler.wake()
            with trio.move_on_after(AGAIN):
                await answered.wait()
                return round_trips[0]
            send()

    async def ask_the_silent(self, peers: Iterable[Peer]) -> None:
        """Ask contacts that are relied on for a word when none has come for a while, until cancelled.

        What runs and rests sends nothing, and toxcore tells late that a contact is dead.
        """
        while True:
            await trio.sleep(ASK)
            now = current_time()
            for peer in peers:
                if peer.packets:  # since the engine looked last
                    peer.heard = now
                if now - peer.heard >= ASK and peer.session.is_online and peer.is_relied_on:
                    self._send(peer, _nothing)
            self._scheduler.wake()

    def echo(self, peer: Peer, request: EchoRequest, stack: Stack | None = None) -> None:
        """Somebody here pings a virtual address: answer when the contact has, or for it if it cannot.

        `stack` is where the request came from, if that is another.
        """
        asked = self._stack if stack is None else stack
        if not self._send(peer, lambda: asked.answer_echo(request)):
            asked.answer_echo(request)

    def _send(self, peer: Peer, answered: Callable[[], None]) -> bool:
        token = self._random.getrandbits(64)
        sent = peer.session.ping(token, current_time())
        self._scheduler.touch(peer)
        if sent:
            self._waiting[token] = answered
            if len(self._waiting) > MAX_WAITING:
                del self._waiting[next(iter(self._waiting))]
        return sent

    def answered(self, token: int) -> None:
        """A contact has answered."""
        if done := self._waiting.pop(token, None):
            done()

    def introduced(self, peer: Peer) -> None:
        """A contact has said what it can do."""
        if (greeted := self._greeted.pop(peer, None)) is not None:
            greeted.set()


def _nothing() -> None:
    """That an answer came is all that there was to know."""
