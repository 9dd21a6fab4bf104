"""What we say of ourselves to contacts: our features, and an epoch under which they have not met us yet."""

from typing import Final

from tunfwd.common.values import Random
from tunfwd.daemon.storage.state import ContactId
from tunfwd.forwarding.handshake import next_epoch
from tunfwd.wire.packets import Feature, Hello

MAX_PARTED: Final = 1024  # contacts that were removed, of which we know what they may still believe in


class Greetings:
    """The Hello of this run, and the epochs of those who were removed in it."""

    def __init__(self, features: Feature, random: Random) -> None:
        self._random = random
        self.hello = Hello(features, random.getrandbits(64))
        """What we say to whom we have not met in this run of the daemon."""
        self._parted: dict[ContactId, int] = {}
        """Epochs for those who were removed, should they come back: they may still have our link."""

    def epoch_for(self, contact: ContactId) -> int:
        """Return the epoch of a new session."""
        return self._parted.pop(contact, self.hello.epoch)

    def part_from(self, contact: ContactId, epoch: int) -> None:
        """Note that a contact was removed whose session had that epoch."""
        self._parted[contact] = next_epoch(epoch)
        if len(self._parted) > MAX_PARTED:
            # Who comes back now may have been met before: we are to all as if we had started anew.
            self._parted.clear()
            self.hello = Hello(self.hello.features, self._random.getrandbits(64))
