"""Whether answers to broadcasts come through: tried, as rules are not for everybody to read.

What a contact answers to a broadcast is nothing that the kernel's connection tracking expects. A firewall
that drops all but what is established loses it, though what programs send to the contact itself is answered.
With `[lan] capture` answers are for the address by which broadcasts leave this machine, too.
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


async def check(datapath: Datapath, *, captures: bool = False) -> api.Check:
    """Send datagrams by the device from a virtual address to sockets of ours, and say whether they came."""
    addresses = [str(datapath.own4.ip)]
    if captures and (outward := _outward()) is not None:
        addresses.append(outward)
    for address in addresses:
        try:
            came = await _comes_through(datapath, address)
        except OSError:  # which the check of the device explains
            return _result(True, "not tried: our address is not there")
        if not came:
            return _result(
                False,
                f"a firewall drops what contacts answer to broadcasts, so that games find no servers: "
                f"let new UDP to {address} in by {datapath.device.name}",
            )
    return _result(True, f"answers of contacts to broadcasts come through, to {' and '.join(addresses)}")


def _outward() -> str | None:
    """Return the address that a broadcast has which no program has bound to another."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            asking.connect(("255.255.255.255", DISCARD))  # which sends nothing
        except OSError:
            return None  # they leave by no other interface
        return str(asking.getsockname()[0])


async def _comes_through(datapath: Datapath, address: str) -> bool:
    """Whether what a contact sends to an address of this machine gets there. Raises OSError."""
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        await listener.bind((address, 0))
        _, port = listener.getsockname()
        source = Endpoint(datapath.own4.network[-2].packed, DISCARD)
        for _ in range(TRIES):
            token = secrets.token_bytes(8)
            datapath.stack.send_datagram(source, Endpoint(socket.inet_aton(address), port), token)
            datapath.engine.round()
            with trio.move_on_after(PATIENCE):
                while await listener.recv(100) != token:
                    pass
                return True
    return False


def _result(fine: bool, detail: str) -> api.Check:
    return {"name": "games", "ok": True, "level": "ok" if fine else "warning", "detail": detail}
