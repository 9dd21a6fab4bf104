"""The tickets that we have given out: whom each lets in, for how long, and to what.

A token is kept as a hash, and compared in constant time; how many wrong ones are looked at is bounded, for
each key and for all, so that nobody finds one by trying. Used by tickets.py.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from hmac import compare_digest
from typing import Final, Literal

from tunfwd.common.budget import Budget
from tunfwd.common.errors import UserError
from tunfwd.common.names import KEY_PREFIX
from tunfwd.control.api import Source
from tunfwd.daemon.storage.state import ContactId, Content, Invite, Joined
from tunfwd.wire.packets import TOKEN

MAX_INVITES: Final = 256  # that stand at once
KEPT: Final = 7 * 86400  # s that one is shown after its end
KEY_GUESSES: Final = 8, 450.0  # wrong tokens of one key that are looked at, and s for each further one
ALL_GUESSES: Final = 256, 0.25  # of all keys
MAX_GUESSERS: Final = 1024  # keys whose guesses are counted apart

Standing = Literal["open", "spent", "expired"]
Verdict = Literal["valid", "unknown", "spent", "expired", "unread"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a token is worth."""

    verdict: Verdict
    """"unread": too many wrong ones came before it."""
    invite: Invite | None = None


class Invites:
    """All that stand, and those that have ended of late."""

    def __init__(
        self, content: Content, save: Callable[[], None], clock: Callable[[], float] = time.time
    ) -> None:
        """`save` writes `content`, soon; `clock` returns the seconds since 1970."""
        self._content = content
        self._save = save
        self.clock = clock
        self._all_guesses = Budget(*ALL_GUESSES)
        self._guesses: dict[str, Budget] = {}  # by key, the one that guessed longest ago first
        self.wrong = 0
        """Wrong tokens."""
        self.unread = 0
        """Tokens that were not looked at."""

    def __iter__(self) -> Iterator[Invite]:
        self._forget_old()
        return iter(list(self._content.invites))

    def standing(self, invite: Invite) -> Standing:
        """Return whether an invite lets in anybody new."""
        if len(invite.joined) >= invite.uses:
            return "spent"
        return "expired" if self.clock() >= invite.expires else "open"

    # -- what a person does

    def create(
        self,
        *,
        uses: int,
        seconds: float,
        ports: list[str],
        name: str = "",
        target: str | None = None,
        source: Source = "auto",
        group: ContactId | None = None,
    ) -> tuple[Invite, bytes]:
        """Make an invite; return it with its token, which is not kept."""
        self._forget_old()
        if len(self._content.invites) >= MAX_INVITES:
            raise UserError(
                "failed", f"{MAX_INVITES} invites stand already; end some: tunfwd invites revoke ID"
            )
        token = secrets.token_bytes(TOKEN)
        known = {invite.id for invite in self._content.invites}
        while (identifier := secrets.token_hex(4)) in known:
            pass
        expires = int(self.clock() + seconds)
        invite = Invite(identifier, _digest(token), uses, expires, ports, name, target, source, group)
        self._content.invites.append(invite)
        self._save()
        return invite, token

    def revoke(self, text: str) -> Invite:
        """End an invite, named by its id or the beginning of it, or by its name. Raises UserError."""
        found = [invite for invite in self if invite.name and invite.name == text] or [
            invite for invite in self if len(text) >= KEY_PREFIX and invite.id.startswith(text.lower())
        ]
        if not found:
            raise UserError("not_found", f"no invite {text!r}; `tunfwd invites` lists them")
        if len(found) > 1:
            ids = ", ".join(invite.id for invite in found)
            raise UserError("ambiguous", f"{text!r} may be any of {ids}; give an id")
        self._content.invites.remove(found[0])
        self._save()
        return found[0]

    def revoke_all(self) -> list[Invite]:
        """End all that stand, as their tickets lead to nobody any more; return them."""
        ended = [invite for invite in self if self.standing(invite) == "open"]
        self._content.invites = [invite for invite in self._content.invites if invite not in ended]
        if ended:
            self._save()
        return ended

    def _forget_old(self) -> None:
        """Forget those that ended long ago, and where there are too many, those that ended first."""
        now, invites = self.clock(), self._content.invites
        kept = [
            invite for invite in invites if self.standing(invite) == "open" or now < invite.expires + KEPT
        ]
        over = [invite for invite in kept if self.standing(invite) != "open"]
        for invite in over[: max(0, len(kept) - MAX_INVITES + 1)]:
            kept.remove(invite)
        if len(kept) < len(invites):
            self._content.invites = kept
            self._save()

    # -- who comes with a token

    def judge(self, key: str, token: bytes, now: float) -> Judgement:
        """Find the invite of a token that the owner of a key has; `now` is for how often that may be."""
        guesses = self._guesses.pop(key, None) or Budget(*KEY_GUESSES)
        if max(guesses.ready_at(), self._all_guesses.ready_at()) > now:
            self._note(key, guesses, now)
            self.unread += 1
            return Judgement("unread")
        digest = _digest(token)
        found = None
        for invite in self._content.invites:  # all of them, so that time tells nothing
            if compare_digest(invite.digest, digest):
                found = invite
        if found is None:
            guesses.spend(now)
            self._all_guesses.spend(now)
            self.wrong += 1
        self._note(key, guesses, now)
        if found is None:
            return Judgement("unknown")
        standing = self.standing(found)
        if standing == "open" or any(one.contact == key for one in found.joined):
            return Judgement("valid", found)
        return Judgement(standing, found)

    def _note(self, key: str, guesses: Budget, now: float) -> None:
        if not guesses.is_full(now):
            self._guesses[key] = guesses
            if len(self._guesses) > MAX_GUESSERS:
                del self._guesses[next(iter(self._guesses))]

    def let_in(self, invite: Invite, contact: ContactId) -> bool:
        """Note who has come by an invite; False where that is known."""
        if any(one.contact == contact for one in invite.joined):
            return False
        joined = [*invite.joined, Joined(contact, int(self.clock()))]
        self._content.invites[self._content.invites.index(invite)] = replace(invite, joined=joined)
        self._save()
        return True


def _digest(token: bytes) -> str:
    """Return what is kept of a token: random as it is, nothing has to make trying slow."""
    return blake2b(token, digest_size=32, person=b"tunfwd ticket").hexdigest()
