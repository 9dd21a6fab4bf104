"""Looks whether all is as it should be: at the kernel, for `tunfwd doctor`, not at our own memory."""

import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final

from tunfwd.control import api
from tunfwd.daemon.process.confinement import Confinement
from tunfwd.tun.keeper import Keeper
from tunfwd.tun.upkeep import Layout, inspect

UNGUARDED: Final = (
    "neighbours may send services UDP in the name of contacts; keep rp_filter at 1. To drop that "
)
NOT_NAMED: Final = "your programs do not reach contacts: [network] users does not name you"


@dataclass(frozen=True, slots=True)
class Capture:
    """What has become of `[lan] capture`."""

    wanted: bool = False
    trouble: str | None = None
    """Why this kernel cannot do it."""

    @property
    def works(self) -> bool:
        """Whether broadcasts are copied."""
        return self.wanted and self.trouble is None


class Health:
    """Of the device, the process that keeps it, and this process."""

    def __init__(
        self,
        layout: Layout,
        keeper: Keeper,
        confinement: Confinement,
        unguarded: str | None,
        capture: Capture,
    ) -> None:
        """`unguarded` is why neighbours can pass for contacts, if they can."""
        self._unguarded = unguarded
        self._capture = capture
        self._layout = layout
        self._keeper = keeper
        self._user = _user_name()
        self._confinement = confinement

    @property
    def captures(self) -> bool:
        """Whether broadcasts are copied that leave by other interfaces."""
        return self._capture.works

    def checks(self) -> Iterator[api.Check]:
        """Look; blocks for a few milliseconds, so it belongs into a thread."""
        name, (ipv4, ipv6) = self._layout.name, self._layout.addresses
        problems = inspect(self._layout, self._keeper.sources)
        for problem in problems:
            yield _wrong("device", f"{name}: {problem}")
        if not problems:
            yield _check("device", fine=True, detail=f"{name} is up, with {ipv4.network} and {ipv6.network}")
        if not self._keeper.alive:
            detail = "has ended, so that what others change on the device is not put back: restart the daemon"
            yield _wrong("keeper", f"the process beside the daemon {detail}")
        if self._unguarded is None:
            detail = "what neighbours send in the name of contacts is dropped"
        else:
            detail = UNGUARDED + self._unguarded
        yield _check("neighbours", fine=self._unguarded is None, detail=detail)
        if self._capture.wanted:
            trouble = self._capture.trouble
            detail = trouble or "broadcasts that leave by other interfaces are copied to contacts"
            yield _check("capture", fine=trouble is None, detail=f"[lan] capture: {detail}")
        yield _check("confinement", fine=True, detail=f"user {self._user}, {self._confinement}")


class RootlessHealth:
    """Of a daemon without a device."""

    captures = False

    def __init__(self, network: IPv4Network, confinement: Confinement) -> None:
        self._network = network
        self._user = _user_name()
        self._confinement = confinement

    def checks(self) -> Iterator[api.Check]:
        """Look."""
        yield _check(
            "mode",
            fine=True,
            detail=f"without a device (--rootless): ports of contacts listen on {self._network}; a connection"
            " is made before the contact's service is known, and reset where that is not there",
        )
        yield _check("confinement", fine=True, detail=f"user {self._user}, {self._confinement}")


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _wrong(name: str, detail: str) -> api.Check:
    return {"name": name, "ok": False, "level": "error", "detail": detail}


def _check(name: str, *, fine: bool, detail: str) -> api.Check:
    return {"name": name, "ok": True, "level": "ok" if fine else "warning", "detail": detail}
