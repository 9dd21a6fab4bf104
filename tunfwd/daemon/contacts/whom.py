"""Which rules mean nobody who is known here: a word for the log and for doctor, as they do nothing.

A rule may be for somebody who comes later; but a name that is spelled otherwise looks just like that.
"""

from collections.abc import Iterable, Iterator

from tunfwd.config.rules import unusable
from tunfwd.daemon.contacts.offers import Policy
from tunfwd.daemon.contacts.rooms import Rooms, id_text
from tunfwd.daemon.peers import Peer
from tunfwd.forwarding.policy import Party, means


def for_nobody(policy: Policy, peers: Iterable[Peer], rooms: Rooms) -> Iterator[str]:
    """Say of each such rule why.

    What can never mean anybody, or fits a name that a contact chose, is explained where rules are read.
    """
    known = list(peers)
    friends = [peer.party for peer in known if peer.party.group is None]
    groups = [
        Party("", group=id_text(room), group_name=rooms.name(room) if rooms.is_named(room) else None)
        for room in rooms
        if room.kind == "group"
    ]
    explained = {pattern for peer in known for pattern in policy.mistaken(peer)}
    for pattern in policy.patterns:
        if pattern in explained or not pattern.strip("*") or unusable(pattern) is not None:
            continue
        group, of_group, _ = pattern.partition("/")
        if not pattern.startswith("group:"):
            if not any(means(pattern, party) for party in friends):
                yield f'the rule for "{pattern}" means nobody now: no friend has that name or key'
        elif not any(means(f"{group}/*" if of_group else group, party) for party in groups):
            yield f'the rule for "{pattern}" means nobody now: there is no such group here'
