"""Keeps others from passing for contacts, and lets only some users reach contacts: `[network] users`.

A table of nf_tables that has an owner (nftables.py) goes with the daemon, however that ends; so does the
device.

What comes from a virtual address comes in by the device, or by the loopback where the address is our own. By
any other interface it is a neighbour's, who thereby passes for a contact: TCP fails, as answers go into the
device, but a service that is asked by UDP believes it. The kernel's own means, rp_filter, is often off (0) or
loose (2), and IPv6 has none.

What programs here send into the device is judged by the user who opened the socket, answers excepted:
services are open to contacts whoever runs them.
"""

import contextlib
import pwd
import struct
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from pyroute2.netlink.nfnetlink.nftsocket import Cmp, Meta, Regs

from tunfwd.tun.network import NetworkError
from tunfwd.tun.nftables import (
    LOOPBACK,
    NF_ACCEPT,
    NF_DROP,
    NF_INET_LOCAL_OUT,
    NF_INET_PRE_ROUTING,
    NF_IP_PRI_FILTER,
    NF_IP_PRI_RAW,
    NFPROTO_INET,
    NFT_PAYLOAD_NETWORK_HEADER,
    Chain,
    Expression,
    compare,
    expression,
    load,
    make_table,
    owner_socket,
    value,
    verdict,
)
from tunfwd.tun.upkeep import Interface, Layout

NFT_CT_DIRECTION: Final = 1  # linux/netfilter/nf_tables.h
NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_ADMIN_PROHIBITED = 2, 3
REPLY: Final = b"\1"  # IP_CT_DIR_REPLY
SOURCE: Final = {4: 12, 6: 8}  # bytes into the IP header
FAMILIES: Final = {4: b"\2", 6: b"\x0a"}  # NFPROTO_IPV4, NFPROTO_IPV6


def find_users(names: Iterable[str]) -> set[int]:
    """Return the numbers of users. Raises NetworkError for one that does not exist."""
    found = set()
    for name in names:
        try:
            found.add(pwd.getpwnam(name).pw_uid)
        except KeyError:
            raise NetworkError(f"[network] users: there is no user {name!r}") from None
    return found


@contextlib.contextmanager
def admitting(layout: Layout, users: Collection[int] | None) -> Iterator[str | None]:
    """Drop what neighbours send in the name of contacts; refuse what others than `users` send to contacts.

    The latter as forbidden by a firewall; None: everybody may. Takes CAP_NET_ADMIN to begin. Yields why this
    kernel cannot do it, or None. Raises NetworkError where it cannot, and there are `users`.
    """
    chains = [Chain("prerouting", NF_INET_PRE_ROUTING, NF_IP_PRI_RAW, [*_genuine(layout)])]
    if users is not None:
        chains.append(Chain("output", NF_INET_LOCAL_OUT, NF_IP_PRI_FILTER, [*_permitted(layout, users)]))
    with owner_socket() as owner:
        trouble = None
        try:
            make_table(owner, f"tunfwd-{layout.name}", NFPROTO_INET, chains)
        except OSError as error:
            trouble = f"takes nf_tables whose tables have owners (Linux 5.12): {error.strerror or error}"
            if users is not None:
                raise NetworkError(f"[network] users {trouble}") from error
        yield trouble


def _genuine(layout: Layout) -> Iterator[list[Expression]]:
    """Make the rules for what comes in, the rarest condition first."""
    for own in layout.addresses:
        yield [
            load("meta", Meta.NFT_META_NFPROTO),
            compare(Cmp.NFT_CMP_EQ, FAMILIES[own.version]),
            *_source_in(own),
            load("meta", Meta.NFT_META_IIF),
            compare(Cmp.NFT_CMP_NEQ, struct.pack("=I", layout.index)),
            compare(Cmp.NFT_CMP_NEQ, struct.pack("=I", LOOPBACK)),
            expression("counter"),
            verdict(NF_DROP),
        ]


def _permitted(layout: Layout, users: Collection[int]) -> Iterator[list[Expression]]:
    """Make the rules for what goes out; without a socket, `meta skuid` ends a rule without a match."""
    user, accept = load("meta", Meta.NFT_META_SKUID), verdict(NF_ACCEPT)
    yield [
        load("meta", Meta.NFT_META_OIF),
        compare(Cmp.NFT_CMP_NEQ, struct.pack("=I", layout.index)),
        accept,
    ]
    yield [load("ct", NFT_CT_DIRECTION), compare(Cmp.NFT_CMP_EQ, REPLY), accept]
    for number in sorted(users):
        yield [user, compare(Cmp.NFT_CMP_EQ, struct.pack("=I", number)), accept]
    reject = {"type": NFT_REJECT_ICMPX_UNREACH, "icmp_code": NFT_REJECT_ICMPX_ADMIN_PROHIBITED}
    yield [user, expression("reject", **reject)]


def _source_in(own: Interface) -> Iterator[Expression]:
    """Match the source address with the network, in register 1."""
    register, network = int(Regs.NFT_REG_1), own.network
    size = len(own.packed)
    where = {"base": NFT_PAYLOAD_NETWORK_HEADER, "offset": SOURCE[own.version], "len": size}
    yield expression("payload", dreg=register, **where)
    mask, nothing = value(network.netmask.packed), value(bytes(size))
    yield expression("bitwise", sreg=register, dreg=register, len=size, mask=mask, xor=nothing)
    yield compare(Cmp.NFT_CMP_EQ, network.network_address.packed)
