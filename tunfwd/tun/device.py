"""The TUN device: whole IP packets between the kernel and this process, up to 64 KB at a time.

Opened by daemon, which hands what is read to the netstack and writes what the netstack answers. Every frame,
either way, is a 10-byte virtio_net_hdr (little-endian; linux/virtio_net.h) followed by one IP packet. The
kernel leaves TCP segmentation and checksums to that header, so a frame may be a super-segment far above the
MTU, and a checksum in it may be partial.

The device is not persistent: the kernel removes it, its addresses and its routes with the last descriptor,
however the process ends.
"""

import errno
import fcntl
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Final

import pytun

from tunfwd.tun.privileges import PrivilegeError

FRAME_LIMIT: Final = 10 + 40 + 65_535  # bytes: virtio_net_hdr and the largest IPv6 packet
# Per read: how long the netstack is kept from answering. With 4 MB, a byte beside a full transfer took twice
# as long as with 256 KB, and the transfer was up to a tenth faster.
READ_FRAMES: Final = 256
READ_BYTES: Final = 256 << 10
SMALL_FRAME: Final = 4096  # bytes; a larger one is of bulk, and more of it is to be expected
LOOK_AGAIN: Final = 16  # calls after which more than one frame is looked for

# ioctl requests, linux/if_tun.h
TUNSETOFFLOAD: Final = 0x400454D0
TUNSETVNETHDRSZ: Final = 0x400454D8
TUNSETVNETLE: Final = 0x400454DC
TUNGETIFF: Final = 0x800454D2
TUNGETVNETHDRSZ: Final = 0x800454D7
IFREQ: Final = struct.Struct("@16sH22x")  # struct ifreq of netdevice(7), with the flags
FRAMED: Final = pytun.IFF_TUN | pytun.IFF_NO_PI | pytun.IFF_VNET_HDR


class Offload(IntFlag):
    """What the kernel may leave to the reader of a frame; TUN_F_* of linux/if_tun.h."""

    NONE = 0
    CSUM = 0x01
    TSO4 = 0x02
    TSO6 = 0x04
    TSO_ECN = 0x08
    USO4 = 0x20
    USO6 = 0x40


TSO: Final = Offload.CSUM | Offload.TSO4 | Offload.TSO6 | Offload.TSO_ECN
OFFLOADS: Final = (TSO | Offload.USO4 | Offload.USO6, TSO, Offload.NONE)
"""The best first; USO is of Linux 6.2."""


class DeviceError(Exception):
    """The device cannot be opened as asked; the message is for the user."""


class DeviceLost(Exception):
    """The device is gone from under us: somebody deleted it."""


@dataclass(slots=True)
class Statistics:
    """Counts since the device was opened. Bytes are IP packets without the virtio_net_hdr."""

    frames_read: int = 0
    bytes_read: int = 0
    frames_written: int = 0
    bytes_written: int = 0
    dropped_invalid: int = 0
    """The kernel found the frame malformed."""
    dropped_down: int = 0
    """The interface was down."""
    dropped_memory: int = 0
    """The kernel had no memory for it."""


class Device:
    """An open TUN device."""

    def __init__(self, tun: "pytun.TunTapDevice | _Passed", mtu: int) -> None:
        self._tun = tun
        self._fd: int = tun.fileno()
        self.name: str = tun.name
        self.mtu = mtu
        """Bytes of an IP packet that is no super-segment."""
        self.offload = Offload.NONE
        self.statistics = Statistics()
        self._calm = 0
        """How often in a row `read` has found one frame, and no second one."""

    @classmethod
    def open(cls, name: str, mtu: int = 1500) -> "Device":
        """Create a device. A `name` that is taken gives way to the next free number, as in tunfwd0, tunfwd1.

        Never takes over a device that exists, not even an unused one: it is somebody else's. Raises
        PrivilegeError if this process may not create one, and DeviceError for a name or an MTU that cannot be
        had.
        """
        tun = _create(name)
        try:
            tun.mtu = mtu
        except OSError as error:
            tun.close()
            raise DeviceError(f"the TUN device cannot have an MTU of {mtu}: {error.strerror}") from error
        device = cls(tun, mtu)
        try:
            device._configure_frames()
        except BaseException:
            device.close()
            raise
        return device

    def _configure_frames(self) -> None:
        os.set_inheritable(self._fd, False)
        os.set_blocking(self._fd, False)
        fcntl.ioctl(self._fd, TUNSETVNETHDRSZ, struct.pack("@i", 10))
        fcntl.ioctl(self._fd, TUNSETVNETLE, struct.pack("@i", 1))
        for offload in OFFLOADS:
            try:
                fcntl.ioctl(self._fd, TUNSETOFFLOAD, int(offload))
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
            else:
                self.offload = offload
                return

    def fileno(self) -> int:
        """Return the descriptor, for waiting on it."""
        return self._fd

    def read(self) -> list[bytes]:
        """Return frames that are waiting: all of them, or the first READ_FRAMES or READ_BYTES.

        Where one small frame came at a time of late, only that one: to look in vain for a second costs more
        than the rest. If there is one, the device is still readable; now and then it is looked for.
        """
        frames: list[bytes] = []
        size = 0
        fd = self._fd
        try:
            while len(frames) < READ_FRAMES and size < READ_BYTES:
                frame = os.read(fd, FRAME_LIMIT)
                frames.append(frame)
                size += len(frame)
                if self._calm and size < SMALL_FRAME and len(frames) == 1:
                    self._calm = (self._calm + 1) % LOOK_AGAIN
                    break
            else:
                self._calm = 0
        except BlockingIOError:
            self._calm = 1 if len(frames) == 1 else 0
        except OSError as error:
            raise DeviceLost(f"the TUN device {self.name} is gone: {error.strerror}") from error
        self.statistics.frames_read += len(frames)
        self.statistics.bytes_read += size - 10 * len(frames)
        return frames

    def write(self, frame: Sequence[bytes | bytearray | memoryview]) -> bool:
        """Hand one frame, in pieces, to the kernel. False if it has to wait until that is writable.

        True means done with. A frame that the kernel rejects would be rejected again, and one that finds the
        interface down or memory short is lost as on any interface: these are counted and dropped.
        """
        try:
            written = os.writev(self._fd, frame)
        except BlockingIOError:
            return False
        except OSError as error:
            match error.errno:
                case errno.EINVAL | errno.E2BIG | errno.EMSGSIZE:
                    self.statistics.dropped_invalid += 1
                    return True
                case errno.EIO:
                    self.statistics.dropped_down += 1
                    return True
                case errno.ENOBUFS | errno.ENOMEM:  # the descriptor stays writable: to wait would be to spin
                    self.statistics.dropped_memory += 1
                    return True
            raise DeviceLost(f"the TUN device {self.name} is gone: {error.strerror}") from error
        self.statistics.frames_written += 1
        self.statistics.bytes_written += written - 10
        return True

    def close(self) -> None:
        """Close the device, and with it the interface. Nobody may wait for it any more."""
        if self._fd < 0:
            return
        self._fd = -1
        self._tun.close()


class PassedDevice(Device):
    """A device that another process has opened, set up as `Device.open` does, and passed to this one."""

    def __init__(self, descriptor: int, mtu: int, *, udp_segmentation: bool) -> None:
        """The descriptor is closed with it. Raises DeviceError where it is no such device, and stays open."""
        try:
            request = fcntl.ioctl(descriptor, TUNGETIFF, bytes(IFREQ.size))
            header = fcntl.ioctl(descriptor, TUNGETVNETHDRSZ, struct.pack("@i", 0))
            os.set_blocking(descriptor, False)
        except OSError as error:
            raise DeviceError(f"no TUN device was passed: {error.strerror}") from error
        name, flags = IFREQ.unpack(request)
        if flags & FRAMED != FRAMED or struct.unpack("@i", header) != (10,) or not 68 <= mtu <= 65_535:
            raise DeviceError("the TUN device that was passed has other frames")
        super().__init__(_Passed(descriptor, name.rstrip(b"\0").decode("ascii", "replace")), mtu)
        self.offload = Offload.USO4 if udp_segmentation else Offload.NONE


@dataclass(slots=True)
class _Passed:
    """What is left to do with one that is open and set up."""

    descriptor: int
    name: str

    def fileno(self) -> int:
        return self.descriptor

    def close(self) -> None:
        os.close(self.descriptor)


def _create(name: str) -> pytun.TunTapDevice:
    flags = pytun.IFF_TUN | pytun.IFF_NO_PI | pytun.IFF_VNET_HDR | pytun.IFF_TUN_EXCL
    try:
        return pytun.TunTapDevice(name=name, flags=flags)
    except OSError as error:
        match error.errno:
            case errno.EBUSY if (family := name.rstrip("0123456789")) != name:
                return _create(family + "%d")  # the kernel puts the lowest free number
            case errno.EBUSY:
                raise DeviceError(f"an interface named {name} exists already") from error
            case errno.EPERM | errno.EACCES | errno.ENOENT | errno.ENODEV | errno.ENXIO:
                raise PrivilegeError(f"no TUN device can be created: {error.strerror}") from error
            case errno.EMFILE | errno.ENFILE | errno.ENOMEM:
                raise DeviceError(f"no TUN device {name} can be created: {error.strerror}") from error
        raise DeviceError(f"{name!r} is no name for an interface") from error
    except ValueError as error:  # a NUL, or what is not Unicode
        raise DeviceError(f"{name!r} is no name for an interface") from error
