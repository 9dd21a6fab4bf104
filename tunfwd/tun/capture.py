"""Copies broadcasts that leave by other interfaces into the device: `[lan] capture`.

A program that asks 255.255.255.255, or a multicast group, is routed to the default interface, unless it binds
to our address. So the kernel copies such datagrams of this machine, and takes none: they leave as before. The
table has an owner (nftables.py), and ends with the daemon. IPv4 only: what answers a copy of IPv6 does not
arrive.
"""

import contextlib
import socket
import struct
from collections.abc import Collection, Iterator
from typing import Final

from pyroute2.netlink.nfnetlink.nftsocket import Cmp, Meta, Regs

from tunfwd.tun.nftables import (
    LOOPBACK,
    NF_INET_LOCAL_OUT,
    NF_IP_PRI_FILTER,
    NFPROTO_IPV4,
    NFT_PAYLOAD_TRANSPORT_HEADER,
    Chain,
    Expression,
    compare,
    expression,
    load,
    make_table,
    owner_socket,
    value,
)
from tunfwd.tun.upkeep import Layout

RTN_BROADCAST, RTN_MULTICAST = 3, 5  # linux/rtnetlink.h
NFTA_FIB_F_DADDR: Final = 2  # linux/netfilter/nf_tables.h
ADDRESS_TYPE: Final = {"NFT_FIB_RESULT_UNSPEC", "NFT_FIB_RESULT_OIF"}
"""NFT_FIB_RESULT_ADDRTYPE, which is 3, as pyroute2 spells numbers here: by their bits."""
DESTINATION_PORT: Final = {"base": NFT_PAYLOAD_TRANSPORT_HEADER, "offset": 2, "len": 2}
RATE, BURST = 100, 200  # copies a second of each kind
AFTER_FILTERS: Final = NF_IP_PRI_FILTER + 10  # what a firewall here drops is not copied


@contextlib.contextmanager
def capturing(layout: Layout, denied: Collection[int]) -> Iterator[str | None]:
    """Copy what is for all, but for UDP ports that are `denied`. Takes CAP_NET_ADMIN to begin.

    Yields why this kernel cannot do it, or None.
    """
    with owner_socket() as owner:
        trouble = None
        rules = [_copy(layout, kind, denied) for kind in (RTN_BROADCAST, RTN_MULTICAST)]
        chain = Chain("output", NF_INET_LOCAL_OUT, AFTER_FILTERS, rules)
        try:
            make_table(owner, f"tunfwd-{layout.name}-lan", NFPROTO_IPV4, [chain])
        except OSError as error:
            trouble = f"takes nf_tables with dup, fib and owners (Linux 5.12): {error.strerror or error}"
        yield trouble


def _copy(layout: Layout, kind: int, denied: Collection[int]) -> list[Expression]:
    register = int(Regs.NFT_REG_1)
    rule = [load("meta", Meta.NFT_META_OIF)]
    rule += [compare(Cmp.NFT_CMP_NEQ, struct.pack("=I", index)) for index in (layout.index, LOOPBACK)]
    rule += [
        load("meta", Meta.NFT_META_L4PROTO),
        compare(Cmp.NFT_CMP_EQ, bytes((socket.IPPROTO_UDP,))),
        expression("payload", dreg=register, **DESTINATION_PORT),
    ]
    rule += [compare(Cmp.NFT_CMP_NEQ, struct.pack("!H", port)) for port in sorted(denied)]
    return [
        *rule,
        expression("fib", dreg=register, result=ADDRESS_TYPE, flags=NFTA_FIB_F_DADDR),
        compare(Cmp.NFT_CMP_EQ, struct.pack("=I", kind)),
        expression("limit", rate=RATE, unit=1, burst=BURST, type=0, flags=0),
        expression("counter"),
        expression("immediate", dreg=register, data=value(layout.ipv4.network[2].packed)),
        expression("immediate", dreg=int(Regs.NFT_REG_2), data=value(struct.pack("=I", layout.index))),
        expression("dup", sreg_addr=register, sreg_dev=int(Regs.NFT_REG_2)),
    ]
