"""How people write ports, targets and keys: on the command line, in the configuration, on the control socket.

Each reader takes what a person typed and returns the value, or raises ValueError with a reason that follows
the name of the thing: "'80/sctp': the protocol is tcp or udp".
"""

import re
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Annotated, Final, Literal

from tunfwd.common.schema import INTEGER_BITS, Parse

Protocol = Literal["tcp", "udp"]
PROTOCOLS: Final[tuple[Protocol, ...]] = ("tcp", "udp")

KEY_DIGITS: Final = 64  # hex digits of a 32-byte public key
ADDRESS_DIGITS: Final = 76  # hex digits of a Tox address: key, 4 bytes of nospam, 2 of checksum

_HEX = re.compile(r"[0-9a-fA-F]+")
_LABEL = r"[0-9A-Za-z_](?:[0-9A-Za-z_-]{0,61}[0-9A-Za-z_])?"  # RFC 1035 2.3.4: 63 octets
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")


@dataclass(frozen=True, slots=True)
class PortSpec:
    """A port as typed: "8080/tcp". `explicit` is False where the protocol was left out and tcp was taken."""

    port: int
    protocol: Protocol
    explicit: bool = True

    def __str__(self) -> str:
        return f"{self.port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a service lives, as its owner wrote it. The host is a name or an address without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_port(text: str | int) -> int:
    """Read a port number, 1 to 65535."""
    # isascii: "²" and "٣" are digits to Python
    if isinstance(text, str) and not (text.isascii() and text.isdigit() and len(text) <= 5):
        raise ValueError(f"{text!r} is not a port: a port is a number from 1 to 65535")
    if isinstance(text, int) and text.bit_length() > INTEGER_BITS:
        raise ValueError("so large a number is not a port: a port is a number from 1 to 65535")
    if not 1 <= int(text) <= 65535:
        raise ValueError(f"{text} is not a port: a port is a number from 1 to 65535")
    return int(text)


def read_target(text: str) -> Target:
    """Read "HOST:PORT", with an IPv6 address in brackets."""
    if "://" in text:
        raise ValueError(f"{text!r} is a URL: write HOST:PORT alone, as in 127.0.0.1:80 or [::1]:80")
    host, colon, number = text.rpartition(":")
    if not colon or not host:
        raise ValueError(f"{text!r} is not HOST:PORT, as in 127.0.0.1:80 or [::1]:80")
    port = read_port(number)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            IPv6Address(host.replace("%", "/"))  # a scope belongs to one machine, and is refused
        except ValueError:
            raise ValueError(f"{text!r}: {host!r} is not an IPv6 address") from None
    elif ":" in host:
        raise ValueError(f"{text!r}: write an IPv6 address in brackets, as in [::1]:80")
    elif len(host) > 253 or not _HOST.fullmatch(host):
        raise ValueError(f"{text!r}: {host!r} is not a host name or address")
    return Target(host, port)


def read_host(text: str) -> str:
    """Read a host's name, or its address without brackets."""
    try:
        return str(ip_address(text))
    except ValueError:
        pass
    if len(text) > 253 or not _HOST.fullmatch(text) or text.rstrip(".").rpartition(".")[2].isdigit():
        raise ValueError(f"{text!r} is not a host name or address")
    return text


def read_key(text: str) -> bytes:
    """Return the 32 bytes of a public key, from its 64 hex digits or from the 76 of a Tox address."""
    digits = text.strip()
    if not _HEX.fullmatch(digits) or len(digits) not in (KEY_DIGITS, ADDRESS_DIGITS):
        raise ValueError(f"{text!r} is not a public key: {KEY_DIGITS} hex digits")
    return bytes.fromhex(digits[:KEY_DIGITS])


def read_address(text: str) -> str:
    """Read a Tox address in upper-case hex; its last two bytes are the XOR of the others, in pairs."""
    digits = text.strip().removeprefix("tox:")
    if not _HEX.fullmatch(digits) or len(digits) != ADDRESS_DIGITS:
        raise ValueError(
            f"{text!r} is not a Tox address: {ADDRESS_DIGITS} hex digits, as `tunfwd id` prints them"
        )
    data = bytes.fromhex(digits)
    even = odd = 0
    for i in range(0, len(data), 2):
        even ^= data[i]
        odd ^= data[i + 1]
    if even or odd:
        raise ValueError(f"{text!r} has a wrong digit: its checksum does not fit; copy it again")
    return digits.upper()


Port = Annotated[int, Parse(int, read_port)]
TargetText = Annotated[Target, Parse(str, read_target)]
Key = Annotated[bytes, Parse(str, read_key)]
