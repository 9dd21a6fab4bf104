"""What the control socket can ask of the daemon: each method of `control.api`, and its answer."""

from tunfwd.control.dispatch import Dispatcher
from tunfwd.daemon.commands.bans import BanCommands
from tunfwd.daemon.commands.blocks import BlockCommands
from tunfwd.daemon.commands.changes import ChangeCommands
from tunfwd.daemon.commands.connections import ConnectionCommands
from tunfwd.daemon.commands.doctor import Health, RootlessHealth
from tunfwd.daemon.commands.entries import Entries
from tunfwd.daemon.commands.events import EventCommands
from tunfwd.daemon.commands.friends import FriendCommands
from tunfwd.daemon.commands.nodes import NodeCommands
from tunfwd.daemon.commands.offers import OfferCommands
from tunfwd.daemon.commands.rooms import RoomCommands
from tunfwd.daemon.commands.run import RunCommands
from tunfwd.daemon.commands.status import Checked, Family, StatusCommands
from tunfwd.daemon.commands.targets import Targets
from tunfwd.daemon.commands.tickets import TicketCommands
from tunfwd.daemon.commands.trace import TraceCommands
from tunfwd.daemon.storage.kept import Storage
from tunfwd.daemon.wiring import Daemon


def dispatcher(
    daemon: Daemon, storage: Storage, health: Health | RootlessHealth, nodes: NodeCommands, *more: Checked
) -> Dispatcher:
    """Return what the control server calls."""
    datapath, rooms = daemon.datapath, RoomCommands(daemon.contacts, daemon.datapath.peers)
    refusals = daemon.offers.refusals
    entries = Entries(datapath.peers, daemon.rooms, datapath.services, daemon.names, refusals)
    friends = FriendCommands(daemon.contacts, datapath.peers, nodes)
    targets = Targets(datapath.services)
    offers = OfferCommands(datapath, daemon.offers, daemon.rooms, entries, targets)
    commands: tuple[Family, ...] = (
        StatusCommands(daemon, storage, health, rooms, nodes, entries, targets, more),
        friends,
        EventCommands(daemon.events),
        TraceCommands(daemon.tap, datapath.peers),
        BlockCommands(daemon.contacts, datapath.peers),
        TicketCommands(daemon, rooms, friends, entries, targets),
        offers,
        ChangeCommands(datapath, daemon.offers, daemon.rooms, entries, offers, daemon.changes, targets),
        ConnectionCommands(datapath),
        rooms,
        BanCommands(daemon.contacts, datapath.peers, rooms),
        nodes,
        RunCommands(daemon),
        *more,
    )
    made = Dispatcher(storage.save)
    for family in commands:
        family.register(made)
    return made
