"""What a daemon answers, in the tests of the command line."""

from typing import Any, Final

KEY: Final = bytes(range(32)).hex().upper()
ADDRESS: Final = KEY + "00000000" + "0000"  # nospam 0; the bytes of this key cancel out in the checksum
CONTACT: Final[dict[str, Any]] = {
    "name": "alice",
    "public_key": KEY,
    "kind": "friend",
    "via": "friend",
    "address": "10.77.3.9",
    "address6": "fd74:756e:6677::9",
    "link": "direct",
    "offline_seconds": None,
    "ports": 1,
    "connections": 2,
    "tx_bytes": 1_250,
    "rx_bytes": 0,
    "extended": True,
    "features": ["many", "link"],
}
MAPPING: Final[dict[str, Any]] = {
    "id": "1a2b3c4d",
    "contact": "alice",
    "protocol": "tcp",
    "address": "10.77.3.9",
    "address6": "fd74:756e:6677::9",
    "port": 8080,
    "name": "web",
    "state": "running",
    "connections": 2,
    "rx_bytes": 123_456_789,
    "tx_bytes": 999,
    "drops": 0,
    "target": None,
    "origin": "remote",
    "direction": "server",
}
IDENTITY: Final[dict[str, Any]] = {
    "address": ADDRESS,
    "public_key": KEY,
    "dht_key": KEY,
    "udp_port": 33445,
    "nickname": "bob",
    "virtual_address": "10.77.0.1",
    "virtual_address6": "fd74:756e:6677::1",
    "interface": "tunfwd0",
    "version": "9.9",
    "toxcore": "0.2.20",
}
