"""Has systemd-resolved, where it runs, ask the daemon's resolver for names of contacts, and for them alone.

Once, at start. resolved lets root do it, and sees over the bus who joined that, but no capabilities: so
the bus is joined by a process that is root still. resolved keeps what a link was given for as long as that
is there, also when it is started anew itself. By D-Bus; a bus that does not answer costs a moment, and never
the daemon.
"""

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeAlias

from jeepney import DBusAddress, DBusErrorResponse, MessageType, new_method_call
from jeepney.io.blocking import DBusConnection, open_dbus_connection

BUS: Final = "/run/dbus/system_bus_socket"
BUS_VARIABLE: Final = "DBUS_SYSTEM_BUS_ADDRESS"
PATIENCE: Final = 2.0  # s for each answer
Bus: TypeAlias = DBusConnection
NAME: Final = "org.freedesktop.resolve1"

_RESOLVED: Final = DBusAddress("/org/freedesktop/resolve1", NAME, "org.freedesktop.resolve1.Manager")
_BUS: Final = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")


def is_ours() -> bool:
    """Whether the system's services have the network that this process has, as far as it may know: root may.

    They name interfaces by number, which in another network is another interface.
    """
    try:
        return os.stat("/proc/1/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino
    except OSError:
        return False


class NotTold(Exception):
    """resolved has not taken it; the message says why."""


def join() -> Bus | None:
    """Return the bus for `tell`, joined as the user that this process is; None where there is no resolved.

    Raises NotTold.
    """
    if not (os.environ.get(BUS_VARIABLE) or os.path.exists(BUS)):
        return None
    with _explained():
        bus = open_dbus_connection("SYSTEM")
        try:
            (there,) = _call(bus, _BUS, "NameHasOwner", "s", (NAME,))
        except BaseException:
            bus.close()
            raise
        if there:
            return bus
        bus.close()
    return None


def tell(bus: Bus, index: int, servers: Iterable[IPv4Address | IPv6Address], domains: Iterable[str]) -> None:
    """Have what is asked about `domains` go to `servers` by the interface of this index, and nothing else.

    Leaves the bus. Raises NotTold.
    """
    addresses = [(socket.AF_INET if one.version == 4 else socket.AF_INET6, one.packed) for one in servers]
    with contextlib.closing(bus), _explained():
        _call(bus, _RESOLVED, "SetLinkDNS", "ia(iay)", (index, addresses))
        _call(bus, _RESOLVED, "SetLinkDomains", "ia(sb)", (index, [(one, True) for one in domains]))
        _call(bus, _RESOLVED, "SetLinkDefaultRoute", "ib", (index, False))


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (OSError, TimeoutError, EOFError, ValueError, KeyError) as error:
        raise NotTold(f"the system's bus: {error}") from error
    except DBusErrorResponse as refusal:
        raise NotTold(f"{refusal.name}: {refusal.data[0] if refusal.data else ''}") from refusal


def _call(
    bus: Bus, where: DBusAddress, method: str, signature: str, body: tuple[object, ...]
) -> tuple[object, ...]:
    reply = bus.send_and_get_reply(new_method_call(where, method, signature, body), timeout=PATIENCE)
    if reply.header.message_type is MessageType.error:
        raise DBusErrorResponse(reply)
    return tuple(reply.body)
