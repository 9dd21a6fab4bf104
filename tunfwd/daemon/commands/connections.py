"""What the control socket can ask about connections: who is joined to what, at this moment."""

from ipaddress import ip_address

import trio

from tunfwd.common.text import clean
from tunfwd.control import api
from tunfwd.control.dispatch import Dispatcher
from tunfwd.daemon.contacts.offers import protocol_name
from tunfwd.daemon.datapath.datapath import Datapath
from tunfwd.daemon.datapath.outbound import OutboundDatagrams, OutboundStream
from tunfwd.daemon.peers import Peer
from tunfwd.forwarding.flow import Flow
from tunfwd.forwarding.states import Role
from tunfwd.netstack.types import Endpoint


class ConnectionCommands:
    """The handler of `connections`."""

    def __init__(self, datapath: Datapath) -> None:
        self._peers = datapath.peers

    def register(self, dispatcher: Dispatcher) -> None:
        """Have the dispatcher know it."""
        dispatcher.add(api.CONNECTIONS, self._list)

    async def _list(self, _: api.Nothing) -> api.ConnectionsResult:
        flows = [
            (peer, flow)
            for peer in self._peers
            for mapping in peer.session.mappings
            for flow in mapping.flows
        ]
        flows.sort(key=lambda found: found[1].since)
        return {"connections": [_entry(peer, flow) for peer, flow in flows]}


def _entry(peer: Peer, flow: Flow) -> api.ConnectionEntry:
    mapping = flow.mapping
    source, target = _ends(peer, flow)
    return {
        "contact": peer.label,
        "direction": "in" if flow.role is Role.SERVING else "out",
        "protocol": protocol_name(flow.protocol),
        "port": mapping.port,
        "name": clean(mapping.name),
        "id": peer.id_of(mapping),
        "source": source,
        "target": target,
        "state": "open" if flow.is_open else "connecting",
        "seconds": int(trio.current_time() - flow.since),
        "tx_bytes": flow.tx_bytes,
        "rx_bytes": flow.rx_bytes,
    }


def _ends(peer: Peer, flow: Flow) -> tuple[str, str]:
    """Return who connects, and to what."""
    address, mapping = peer.shown_address or str(peer.address6), flow.mapping
    if flow.role is Role.SERVING:
        return address, str(peer.target_of(mapping))
    match flow.end:
        case OutboundStream() | OutboundDatagrams() as end:
            if (ends := end.ends) is not None:
                return _text(ends[0]), _text(ends[1])
    return "-", f"{address}:{peer.details_of(mapping).local_port or mapping.port}"


def _text(endpoint: Endpoint) -> str:
    address = ip_address(endpoint.address)
    return f"{address}:{endpoint.port}" if address.version == 4 else f"[{address}]:{endpoint.port}"
