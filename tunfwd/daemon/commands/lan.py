"""Whether answers to broadcasts come through: tried, as rules are not for everybody to read.

What a contact answers to a broadcast is nothing that the kernel's connection tracking expects. A firewall
that drops all but what is established loses it, though what programs send to the contact itself is answered.
"""

import secrets
import socket
from typing import Final

import trio

from tunfwd.control import api
from tunfwd.daemon.datapath.datapath import Datapath
from tunfwd.netstack.types import Endpoint

PATIENCE: Final = 0.5  # s
TRIES: Final = 3
DISCARD: Final = 9  # RFC 863: the port from which it comes


async def check(datapath: Datapath) -> api.Check:
    """Send a datagram by the device from a virtual address to a socket of ours, and say whether it came."""
    own = datapath.own4
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        try:
            await listener.bind((str(own.ip), 0))
        except OSError:  # which the check of the device explains
            return _result(True, "not tried: our address is not there")
        address, port = listener.getsockname()
        ends = Endpoint(own.network[-2].packed, DISCARD), Endpoint(socket.inet_aton(address), port)
        for _ in range(TRIES):
            token = secrets.token_bytes(8)
            datapath.stack.send_datagram(*ends, token)
            datapath.engine.round()
            with trio.move_on_after(PATIENCE):
                while await listener.recv(100) != token:
                    pass
                return _result(True, "answers of contacts to broadcasts come through")
    name = datapath.device.name
    return _result(
        False,
        f"a firewall drops what contacts answer to broadcasts, so that games find no servers: "
        f"let new UDP in by {name}",
    )


def _result(fine: bool, detail: str) -> api.Check:
    return {"name": "games", "ok": True, "level": "ok" if fine else "warning", "detail": detail}
