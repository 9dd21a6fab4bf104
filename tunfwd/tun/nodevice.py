"""What a daemon has in place of a TUN device without one: nothing comes, and what is written is lost."""

import os
from collections.abc import Sequence

from tunfwd.tun.device import Offload, Statistics


class NoDevice:
    """In place of a `Device`; never lost."""

    name = ""
    offload = Offload.NONE

    def __init__(self, mtu: int = 1500) -> None:
        self.mtu = mtu
        self._never = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.statistics = Statistics()

    def fileno(self) -> int:
        """See Device: of something that is never readable."""
        return self._never

    def read(self) -> list[bytes]:
        """See Device."""
        return []

    def write(self, frame: Sequence[bytes | bytearray | memoryview]) -> bool:
        """See Device."""
        return True

    def close(self) -> None:
        """See Device."""
        if self._never >= 0:
            os.close(self._never)
            self._never = -1
