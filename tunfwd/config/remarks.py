"""What is allowed in a configuration, and is hardly what its writer means."""

from collections.abc import Iterator
from ipaddress import IPv4Network


def public_range(network: IPv4Network | None) -> Iterator[str]:
    """Say that hosts of the Internet have the addresses that contacts are given."""
    if network is not None and network.is_global:
        yield (
            f"[network] range {network} is of public addresses: hosts of the Internet that have them are out "
            "of reach while the daemon runs; take a range of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16"
        )
