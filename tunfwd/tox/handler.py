"""What the client tells the program: the engine above implements `Handler`.

Subclassed, `Handler` ignores each event that is not overridden.
"""

from tunfwd.tox.contacts import Contact, FriendRequest, Invitation, Member, Room


class Handler:
    """Events, in the order they happen, each from within toxcore's iteration.

    Methods must not block. They may send, and use the client; they must not close it. What they raise is
    logged, once toxcore has told the other events of its round; what `iterated` raises ends `Client.run`.
    """

    def contact_online(self, contact: Contact) -> None:
        """A contact can be reached; `contact.connection` says how."""

    def contact_offline(self, contact: Contact) -> None:
        """A contact is gone, and with it whatever was queued for it. It may come back at once."""

    def contact_left(self, contact: Contact) -> None:
        """A contact that has gone offline said goodbye, or was put out: it does not come back soon."""

    def member_gone(self, member: Member) -> None:
        """A member has left its group for good, after `contact_left`: with this key it never comes back."""

    def contact_connection(self, contact: Contact) -> None:
        """A contact that stays online is reached in another way."""

    def contact_renamed(self, contact: Contact) -> None:
        """`contact.nickname` changed."""

    def contact_removed(self, contact: Contact) -> None:
        """A contact was removed, or its group left; after `contact_offline`, where it was online."""

    def lossless(self, contact: Contact, data: bytes) -> None:
        """A packet that came in order."""

    def lossy(self, contact: Contact, data: bytes) -> None:
        """A packet that may have lost companions."""

    def public(self, member: Member, data: bytes) -> None:
        """A packet that a member sent to the whole group."""

    def friend_request(self, request: FriendRequest) -> bool:
        """Someone asks to be a friend. False: the request is to be held in `client.friends.requests`."""
        return False

    def invitation(self, invitation: Invitation) -> None:
        """A friend invites us to a room; held in the `invitations` of `client.groups` or `.conferences`."""

    def room_changed(self, room: Room) -> None:
        """A room's `state`, `reason` or `name` changed, or a conference's members; or we have left it."""

    def iterated(self) -> None:
        """A round is over: queues may have space again, and what came in can be answered at once."""
