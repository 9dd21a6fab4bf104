"""What groups and conferences have in common: those we are in, and the invitations to others."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from tunfwd.tox.contacts import Friend, Invitation, Room

MAX_INVITATIONS: Final = 32  # of one friend; the oldest gives way

AnyRoom = TypeVar("AnyRoom", bound=Room)


class NoSuchInvitation(LookupError):
    """We are not invited there."""


class RoomList(Generic[AnyRoom]):
    """The rooms of one kind."""

    def __init__(self) -> None:
        self._by_number: dict[int, AnyRoom] = {}
        self._invited: dict[bytes, Invitation] = {}
        """All invitations, by the room's id, oldest first."""
        self._not_before: dict[bytes, float] = {}
        """When those of them may be told that may not be accepted yet; time.monotonic()."""
        self.dropped_invitations = 0
        """Invitations that gave way to newer ones of the same friend."""

    def __iter__(self) -> Iterator[AnyRoom]:
        return iter(list(self._by_number.values()))

    def __len__(self) -> int:
        return len(self._by_number)

    def get(self, identifier: bytes) -> AnyRoom | None:
        """Find a room by its id."""
        return next((room for room in self if room.id == identifier), None)

    @property
    def invitations(self) -> list[Invitation]:
        """Where friends invite us to, oldest first; at most 32 of each, gone with the process."""
        return [held for held in self._invited.values() if held.id not in self._not_before]

    @abstractmethod
    def accept(self, identifier: bytes) -> AnyRoom:
        """Accept an invitation. Raises NoSuchInvitation, ToxError."""

    def decline(self, identifier: bytes) -> None:
        """Forget an invitation. Raises NoSuchInvitation."""
        self._pending(identifier)
        del self._invited[identifier]

    @abstractmethod
    def invite(self, room: AnyRoom, friend: Friend) -> None:
        """Invite a friend who is online. Raises ToxError."""

    @abstractmethod
    def leave(self, room: AnyRoom) -> None:
        """Leave a room for good."""

    def _pending(self, identifier: bytes) -> Invitation:
        """Return the invitation to a room. Raises NoSuchInvitation."""
        invitation = self._invited.get(identifier)
        if invitation is None or identifier in self._not_before:
            raise NoSuchInvitation(f"no invitation to {identifier.hex().upper()} is pending")
        return invitation

    def _hold(self, invitation: Invitation, not_before: float | None = None) -> None:
        """Hold an invitation; a newer one to the same room replaces it."""
        self._invited.pop(invitation.id, None)
        self._not_before.pop(invitation.id, None)
        self._invited[invitation.id] = invitation
        if not_before is not None:
            self._not_before[invitation.id] = not_before
        theirs = [held.id for held in self._invited.values() if held.friend is invitation.friend]
        if len(theirs) > MAX_INVITATIONS:
            del self._invited[theirs[0]]
            self._not_before.pop(theirs[0], None)
            self.dropped_invitations += 1
