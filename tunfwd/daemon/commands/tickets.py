"""What the control socket can ask about tickets: those that we give out, and those that we are given."""

from collections.abc import Sequence
from typing import Final, Literal

from tunfwd.common.errors import UserError
from tunfwd.common.notation import PortSpec
from tunfwd.common.ports import joined, read_ports
from tunfwd.common.text import clean
from tunfwd.control import api
from tunfwd.control.dispatch import Dispatcher
from tunfwd.daemon.commands.entries import Entries
from tunfwd.daemon.commands.friends import FriendCommands
from tunfwd.daemon.commands.rooms import RoomCommands
from tunfwd.daemon.commands.status import contact_entry
from tunfwd.daemon.commands.targets import Targets
from tunfwd.daemon.commands.together import places_of
from tunfwd.daemon.contacts.offers import protocol_named, read_service, service, service_text
from tunfwd.daemon.contacts.rooms import room_id
from tunfwd.daemon.peers import Peer
from tunfwd.daemon.storage.state import Invite, Join, group_id, room_of
from tunfwd.daemon.wiring import Daemon
from tunfwd.forwarding.flow import Mapping, Origin
from tunfwd.forwarding.states import MappingState
from tunfwd.services.target import Target
from tunfwd.tox.binding.errors import FriendAddBadChecksum, ToxError
from tunfwd.tox.contacts import NONE, Group, RoomState
from tunfwd.tox.settings import USUAL_TCP_PORTS, NetworkNode
from tunfwd.wire import ticket as tickets
from tunfwd.wire.packets import Direction
from tunfwd.wire.ticket import Inviter, Node, Ports, Ticket

MAX_NODES: Final = 16  # of tickets, that we join the network by

Stage = Literal["asked", "connected", "offered", "reachable"]


class TicketCommands:
    """The handlers of `share`, `join`, `invite.*`, `friend.block` and their like."""

    def __init__(
        self,
        daemon: Daemon,
        room_commands: RoomCommands,
        friends: FriendCommands,
        entries: Entries,
        targets: Targets,
    ) -> None:
        self._targets = targets
        self._client = daemon.client
        self._contacts = daemon.contacts
        self._tickets = daemon.contacts.tickets
        self._peers = daemon.datapath.peers
        self._rooms = daemon.rooms
        self._room_commands = room_commands
        self._friends = friends
        self._services = daemon.datapath.services
        self._entries = entries
        self._nodes = 0

    def register(self, dispatcher: Dispatcher) -> None:
        """Have the dispatcher know them."""
        dispatcher.add(api.SHARE, self._share)
        dispatcher.add(api.GROUP_SHARE, self._share_group)
        dispatcher.add(api.INVITE_LIST, self._list)
        dispatcher.add(api.INVITE_REVOKE, self._revoke)
        dispatcher.add(api.JOIN, self._join)
        dispatcher.add(api.JOIN_STATUS, self._status)
        dispatcher.add(api.NEW_ADDRESS, self._new_address)

    # -- tickets that we give out

    async def _share(self, params: api.Share) -> api.InviteResult:
        specs, target = params.specs, service(params.target)
        ranges = _ranges_of(specs)
        texts = [f"{one.first}-{one.last}/{one.protocol.name.lower()}" for one in ranges]
        invite, token = self._tickets.invites.create(
            uses=params.uses,
            seconds=params.seconds,
            ports=texts,
            name=params.name or "",
            target=service_text(target),
            source=params.source,
        )
        if target is None and params.source == "auto":
            for protocol, port in places_of(specs):
                self._services.decide_anew(protocol, port)
        ticket = self._ticket(token, invite, ports=tuple(ranges), name=params.name or "")
        made = self._made(invite, ticket)
        await self._targets.tell(target, made["invite"]["offers"])
        return made

    async def _share_group(self, params: api.GroupShare) -> api.InviteResult:
        group = self._rooms.find(params.group, "group")
        assert isinstance(group, Group)
        password = self._client.groups.password(group)
        name = _cut(self._rooms.name(group))
        shared = tickets.Group(group.id, name, not group.public, bool(password))
        if not params.with_password:
            password = ""
        if not group.public:
            invite, token = self._tickets.invites.create(
                uses=params.uses, seconds=params.seconds, ports=[], group=room_id(group)
            )
            return self._made(invite, self._ticket(token, invite, group=shared, password=password))
        text = tickets.encode(Ticket(node=self._node(), group=shared, password=password))
        entry: api.InviteEntry = {
            "id": None,
            "ticket": text,
            "uses": None,
            "expires": None,
            "offers": [],
            "name": "",
            "group": self._rooms.name(group),
            "state": "open",
            "joined": [],
        }
        return {"invite": entry, "network": self._network}

    def _ticket(
        self,
        token: bytes,
        invite: Invite,
        *,
        ports: tuple[Ports, ...] = (),
        name: str = "",
        group: tickets.Group | None = None,
        password: str = "",
    ) -> Ticket:
        return Ticket(
            Inviter(bytes.fromhex(self._client.address), token),
            ports,
            name,
            _cut(clean(self._client.name)),
            self._node(),
            group,
            password,
            invite.expires,
        )

    def _node(self) -> Node | None:
        """Return a node that we are told to join by: who comes may have none, and ours may not be public."""
        for node in self._client.settings.network_nodes:
            fits = len(node.hosts[0].encode()) <= tickets.MAX_HOST
            if node.origin == "bootstrap" and node.udp_port is not None and fits:
                return Node(node.hosts[0], node.udp_port, node.key)
        return None

    def _made(self, invite: Invite, ticket: Ticket) -> api.InviteResult:
        return {
            "invite": {**self._entry(invite), "ticket": tickets.encode(ticket)},
            "network": self._network,
        }

    @property
    def _network(self) -> Literal["online", "offline"]:
        return "offline" if self._client.connection is NONE else "online"

    async def _list(self, _: api.Nothing) -> api.InvitesResult:
        return {"invites": [self._entry(invite) for invite in self._tickets.invites]}

    async def _revoke(self, params: api.InviteRevoke) -> api.InviteResult:
        return {"invite": self._entry(self._tickets.invites.revoke(params.id))}

    def _entry(self, invite: Invite) -> api.InviteEntry:
        target = read_service(invite.target)
        group = None if invite.group is None else self._client.groups.get(room_of(invite.group))
        return {
            "id": invite.id,
            "uses": invite.uses,
            "expires": invite.expires,
            "offers": [
                self._offer_entry(invite, spec, target) for text in invite.ports for spec in read_ports(text)
            ],
            "name": clean(invite.name),
            "group": None
            if invite.group is None
            else self._rooms.name(group)
            if group is not None
            else invite.group.rstrip("/"),
            "state": self._tickets.invites.standing(invite),
            "joined": [
                {"name": "" if peer is None else peer.name, "public_key": one.contact, "at": one.at}
                for one in invite.joined
                for peer in (self._tickets.peer_of(one.contact),)
            ],
        }

    def _offer_entry(self, invite: Invite, spec: PortSpec, target: Target | None) -> api.InviteOffer:
        where = target or Target(None, spec.port)
        seen = self._entries.look(where, invite.source, protocol_named(spec.protocol))
        return {
            "protocol": spec.protocol,
            "port": spec.port,
            "name": clean(invite.name),
            "target": str(where),
            "sees": seen.sees,
            "trouble": seen.trouble,
        }

    async def _new_address(self, _: api.Nothing) -> api.NewAddressResult:
        self._client.change_address()
        return {"address": self._client.address, "revoked": len(self._tickets.invites.revoke_all())}

    # -- tickets that we are given

    async def _join(self, params: api.Join) -> api.JoinResult:
        ticket = params.ticket
        if ticket.inviter is None:
            self._use_node(ticket.node)
            return self._join_public(ticket, params)
        key = ticket.inviter.address[: tickets.KEY]
        if key == self._client.public_key:
            raise UserError("usage", "this is a ticket of our own: give it to whom you share with")
        if self._tickets.is_blocked(key):
            digits = key.hex()[:8].upper()
            raise UserError("denied", f"who made it is blocked here; `tunfwd friend unblock {digits}`")
        peer = self._inviter(ticket)
        if not self._has_all(ticket, peer):
            self._require_life(ticket)
        self._tickets.joins.require_room()
        if params.name is not None and ticket.group is None:
            self._friends.require_new_name(params.name, key.hex().upper())
        self._use_node(ticket.node)
        peer = self._befriend(ticket, ticket.inviter, params.name if ticket.group is None else None)
        group = None if ticket.group is None else group_id(ticket.group.chat_id)
        self._tickets.joins.begin(
            peer,
            Join(
                peer.id,
                ticket.inviter.address.hex().upper(),
                ticket.inviter.token.hex(),
                group=group,
                group_name=params.name if group is not None else None,
                password=params.password or ticket.password,
            ),
            [(one.protocol, port) for one in ticket.ports for port in range(one.first, one.last + 1)],
            ticket.name,
        )
        return self._progress(ticket)

    def _require_life(self, ticket: Ticket) -> None:
        """Raise UserError where a ticket is out of date, as far as the clock here is right."""
        if ticket.expires is not None and (ago := self._tickets.invites.clock() - ticket.expires) >= 0:
            past = f"{ago / 3600:.0f} h" if ago >= 5400 else f"{ago / 60:.0f} min"
            raise UserError("failed", f"this ticket ended {past} ago, by the clock here; ask for another")

    def _befriend(self, ticket: Ticket, inviter: Inviter, name: str | None) -> Peer:
        """Ask who made a ticket to be a friend, with its token; also who is one already, and may not know."""
        friends, message = self._client.friends, self._tickets.message(inviter.token)
        friend = friends.get(inviter.address[: tickets.KEY])
        try:
            if friend is None:
                friend = friends.add(inviter.address, message)
                friend.nickname = friend.nickname or clean(ticket.nickname)
            elif not friend.online:
                friends.ask(friend, inviter.address, message)
        except FriendAddBadChecksum:
            raise UserError("usage", "the address in the ticket has a mistake in it") from None
        except ToxError as error:
            raise UserError("failed", f"toxcore: {error}") from None
        peer = self._contacts.added(friend, name)
        if name is not None and peer.name != name:
            self._contacts.rename(peer, name)
        return peer

    def _use_node(self, node: Node | None) -> None:
        """Join the network by the node of a ticket, too."""
        known = {record.node.key for record in self._client.joining.records}
        if node is not None and node.key not in known and self._nodes < MAX_NODES:
            self._nodes += 1
            tcp_ports = tuple(dict.fromkeys((node.port, *USUAL_TCP_PORTS)))
            self._client.joining.add([NetworkNode(node.key, (node.host,), node.port, tcp_ports, "bootstrap")])

    def _join_public(self, ticket: Ticket, params: api.Join) -> api.JoinResult:
        shared = ticket.group
        assert shared is not None
        group = self._client.groups.get(shared.chat_id)
        password = params.password or ticket.password
        if shared.locked and not password:
            raise UserError("usage", "this group takes a password; give it with --password-file")
        if params.name is not None:
            self._rooms.require_free(params.name, "group", group)
        if group is None or group.state is RoomState.LOST:
            try:
                group = self._client.groups.join(shared.chat_id, password)
            except ToxError as error:
                raise UserError("failed", f"the group cannot be joined: {error}") from None
        group.name = group.name or clean(shared.name)  # until its state arrives
        if params.name is not None:
            self._contacts.rename_room(group, params.name)
        return self._progress(ticket)

    # -- how far it has come

    async def _status(self, params: api.JoinStatus) -> api.JoinResult:
        ticket = params.ticket
        if ticket.inviter is not None and self._tickets.joins.is_refused(ticket.inviter.token):
            peer = self._inviter(ticket)
            who = "who made it" if peer is None else peer.label
            raise UserError(
                "denied", f"{who} does not take this ticket: it is spent, expired or revoked; ask for another"
            )
        return self._progress(ticket)

    def _inviter(self, ticket: Ticket) -> Peer | None:
        if ticket.inviter is None:
            return None
        friend = self._client.friends.get(ticket.inviter.address[: tickets.KEY])
        return None if friend is None else self._peers.of(friend)

    def _has_all(self, ticket: Ticket, peer: Peer | None) -> bool:
        """Whether we have joined by a ticket before."""
        if ticket.group is not None:
            group = self._client.groups.get(ticket.group.chat_id)
            return group is not None and group.state is RoomState.JOINED
        return peer is not None and len(_mappings(ticket, peer)) == _count(ticket)

    def _progress(self, ticket: Ticket) -> api.JoinResult:
        peer = self._inviter(ticket)
        stage, missing = self._stage(ticket, peer)
        group = None if ticket.group is None else self._client.groups.get(ticket.group.chat_id)
        return {
            "contact": None if peer is None else contact_entry(peer),
            "mappings": []
            if peer is None
            else [self._entries.mapping(peer, mapping) for mapping in _mappings(ticket, peer)],
            "group": None if group is None else self._room_commands.entry(group),
            "stage": stage,
            "missing": missing,
        }

    def _stage(self, ticket: Ticket, peer: Peer | None) -> tuple[Stage, str | None]:
        """Return how far it has come, and what there is to wait for."""
        if ticket.group is not None:
            group = self._client.groups.get(ticket.group.chat_id)
            if group is not None and group.state is RoomState.JOINED:
                return "reachable", None
            if group is not None and group.state is RoomState.LOST:
                return "asked", f"the group does not let us in: {clean(group.reason)}"
        if self._network == "offline" and not (peer is not None and peer.session.is_online):
            return "asked", "we are not connected to the Tox network yet; see `tunfwd doctor`"
        if ticket.inviter is None:
            return "asked", "no member of the group has been found yet"
        if peer is None:
            return "asked", "who made the ticket is no friend any more"
        if not peer.session.is_online:
            return "asked", f"{peer.label} is not there, or the ticket is spent or was revoked"
        if ticket.group is not None:
            return "connected", f"{peer.label} has not invited us into the group yet"
        return self._stage_of_ports(ticket, peer)

    def _stage_of_ports(self, ticket: Ticket, peer: Peer) -> tuple[Stage, str | None]:
        mappings = _mappings(ticket, peer)
        if (gone := _count(ticket) - len(mappings)) > 0:
            return "connected", f"{gone} of the ports are not offered by {peer.label} any more"
        states = [mapping.state for mapping in mappings]
        if MappingState.WAITING in states:
            return "connected", f"{peer.label} has not offered all of it yet"
        if any(state not in (MappingState.RUNNING, MappingState.READY) for state in states):
            return "offered", f"{peer.label} has not confirmed all of it yet"
        return "reachable", None


def _ranges_of(specs: Sequence[PortSpec]) -> list[Ports]:
    """Return ports as a ticket has them. Raises UserError where they are too many ranges."""
    ranges = [
        Ports(protocol_named(protocol), first, last)
        for protocol in dict.fromkeys(spec.protocol for spec in specs)
        for first, last in joined(spec.port for spec in specs if spec.protocol == protocol)
    ]
    if len(ranges) > tickets.MAX_RANGES:
        raise UserError(
            "usage",
            f"{len(ranges)} separate ranges are too many for a ticket: {tickets.MAX_RANGES} at most",
        )
    return ranges


def _mappings(ticket: Ticket, peer: Peer) -> list[Mapping]:
    """Return what we have accepted of what a ticket names, in its order."""
    theirs = {
        (mapping.protocol, mapping.port): mapping
        for mapping in peer.session.mappings
        if (mapping.origin, mapping.direction) == (Origin.REMOTE, Direction.SERVER) and mapping.accepted
    }
    places = ((one.protocol, port) for one in ticket.ports for port in range(one.first, one.last + 1))
    return [theirs[place] for place in places if place in theirs]


def _count(ticket: Ticket) -> int:
    return sum(one.last - one.first + 1 for one in ticket.ports)


def _cut(text: str) -> str:
    """Return as much of a text as a ticket has room for."""
    return text.encode()[: tickets.MAX_NAME].decode(errors="ignore")
