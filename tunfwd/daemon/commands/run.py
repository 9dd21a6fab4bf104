"""What `tunfwd run` asks for: that the daemon serves a device of another network."""

import os
import stat
from ipaddress import IPv4Interface, IPv6Interface

from tunfwd.common.errors import UserError
from tunfwd.control import api, passed
from tunfwd.control.dispatch import Dispatcher
from tunfwd.daemon.commands.doctor import NOT_NAMED
from tunfwd.daemon.datapath.guests import MAX_GUESTS, Place
from tunfwd.daemon.wiring import Daemon
from tunfwd.tun.device import DeviceError, PassedDevice


class RunCommands:
    """The one method."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def register(self, dispatcher: Dispatcher) -> None:
        """Have the method answered."""
        dispatcher.add(api.RUN, self._run)

    async def _run(self, wanted: api.Run) -> api.RunResult:
        guests, admission = self._daemon.guests, self._daemon.datapath.admission
        if not (admission is None or admission.permits(passed.user())):
            raise UserError("denied", NOT_NAMED)
        if guests.count >= MAX_GUESTS:
            raise UserError("failed", f"{MAX_GUESTS} programs are run already")
        descriptors = passed.take()  # closed here from now on, or by the guest
        try:
            tun, life = descriptors
            _check_life(life)
            device = PassedDevice(tun, wanted.mtu, udp_segmentation=wanted.udp_segmentation)
        except (ValueError, DeviceError) as error:
            for descriptor in descriptors:
                os.close(descriptor)
            what = str(error) if isinstance(error, DeviceError) else "a device and a socket are to be passed"
            raise UserError("usage", what) from None
        place = self._place()
        guests.admit(device, life, place)
        own4, own6 = place.own
        resolver = self._daemon.resolver_inside
        return {
            "address": str(own4),
            "address6": str(own6),
            "resolver": [] if resolver is None else [str(one) for one in self._daemon.resolvers_inside],
            "domain": self._daemon.names.domain,
        }

    def _place(self) -> Place:
        daemon = self._daemon
        own, translate = daemon.contacts.own.among_friends, daemon.translate
        range4, range6 = translate.inside, daemon.own6.network
        address = range4[1] if own.address is None else translate.of(own.address)
        resolver = daemon.resolver_inside
        four, six = daemon.resolvers_inside
        return Place(
            (
                IPv4Interface((address, range4.prefixlen)),
                IPv6Interface((own.address6, range6.prefixlen)),
            ),
            (four.packed, six.packed),
            None if resolver is None else resolver.answer,
        )


def _check_life(descriptor: int) -> None:
    """Raise ValueError unless it is of what can be waited for."""
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode)):
        raise ValueError("neither a socket nor a pipe")
