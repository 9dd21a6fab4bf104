"""Keeps others from passing for contacts, and lets only some users reach contacts: `[network] users`.

A table of nf_tables that has an owner, our netlink socket: nobody else changes it, `nft flush ruleset` passes
it over, and it goes with the daemon, however that ends; so does the device. pyroute2 encodes the messages; it
reads no verdict on a batch, so that is done here.

What comes from a virtual address comes in by the device, or by the loopback where the address is our own. By
any other interface it is a neighbour's, who thereby passes for a contact: TCP fails, as answers go into the
device, but a service that is asked by UDP believes it. The kernel's own means, rp_filter, is often off (0) or
loose (2), and IPv6 has none.

What programs here send into the device is judged by the user who opened the socket, answers excepted:
services are open to contacts whoever runs them.
"""

import contextlib
import errno
import os
import pwd
import socket
import struct
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final, NamedTuple

from pyroute2.netlink import (
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_REQUEST,
    NLMSG_ERROR,
)
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES, nfgen_msg
from pyroute2.netlink.nfnetlink.nftsocket import (
    NFT_MSG_NEWCHAIN,
    NFT_MSG_NEWRULE,
    NFT_MSG_NEWTABLE,
    Cmp,
    Meta,
    Regs,
    nft_chain_msg,
    nft_rule_msg,
    nft_table_msg,
)

from tunfwd.tun.network import NetworkError
from tunfwd.tun.upkeep import Interface, Layout

NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 0x10, 0x11  # linux/netfilter/nfnetlink.h
NFPROTO_INET: Final = 1  # linux/netfilter.h
NFT_TABLE_F_OWNER: Final = 2  # linux/netfilter/nf_tables.h, Linux 5.12; so the rest
NFT_CT_DIRECTION: Final = 1
NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_ADMIN_PROHIBITED = 2, 3
NFT_PAYLOAD_NETWORK_HEADER: Final = 1
NF_INET_PRE_ROUTING, NF_INET_LOCAL_OUT = 0, 3
NF_DROP, NF_ACCEPT = 0, 1
NF_IP_PRI_RAW, NF_IP_PRI_FILTER = -300, 0  # linux/netfilter_ipv4.h; raw is before connections are tracked
REPLY: Final = b"\1"  # IP_CT_DIR_REPLY
LOOPBACK: Final = 1  # its index, in every network namespace
SOURCE: Final = {4: 12, 6: 8}  # bytes into the IP header
FAMILIES: Final = {4: b"\2", 6: b"\x0a"}  # NFPROTO_IPV4, NFPROTO_IPV6
TIMEOUT: Final = 5.0  # s for the kernel to answer

Expression = dict[str, Any]


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
    chains = [_Chain("prerouting", NF_INET_PRE_ROUTING, NF_IP_PRI_RAW, [*_genuine(layout)])]
    if users is not None:
        chains.append(_Chain("output", NF_INET_LOCAL_OUT, NF_IP_PRI_FILTER, [*_permitted(layout, users)]))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as owner:
        trouble = None
        try:
            owner.bind((0, 0))
            owner.settimeout(TIMEOUT)
            _transact(owner, _table(f"tunfwd-{layout.name}", chains))
        except OSError as error:
            trouble = f"takes nf_tables whose tables have owners (Linux 5.12): {error.strerror or error}"
            if users is not None:
                raise NetworkError(f"[network] users {trouble}") from error
        yield trouble


def _genuine(layout: Layout) -> Iterator[list[Expression]]:
    """Make the rules for what comes in, the rarest condition first."""
    for own in layout.addresses:
        yield [
            _load("meta", Meta.NFT_META_NFPROTO),
            _compare(Cmp.NFT_CMP_EQ, FAMILIES[own.version]),
            *_source_in(own),
            _load("meta", Meta.NFT_META_IIF),
            _compare(Cmp.NFT_CMP_NEQ, struct.pack("=I", layout.index)),
            _compare(Cmp.NFT_CMP_NEQ, struct.pack("=I", LOOPBACK)),
            _expression("counter"),
            _verdict(NF_DROP),
        ]


def _permitted(layout: Layout, users: Collection[int]) -> Iterator[list[Expression]]:
    """Make the rules for what goes out; without a socket, `meta skuid` ends a rule without a match."""
    user, accept = _load("meta", Meta.NFT_META_SKUID), _verdict(NF_ACCEPT)
    yield [
        _load("meta", Meta.NFT_META_OIF),
        _compare(Cmp.NFT_CMP_NEQ, struct.pack("=I", layout.index)),
        accept,
    ]
    yield [_load("ct", NFT_CT_DIRECTION), _compare(Cmp.NFT_CMP_EQ, REPLY), accept]
    for number in sorted(users):
        yield [user, _compare(Cmp.NFT_CMP_EQ, struct.pack("=I", number)), accept]
    reject = {"type": NFT_REJECT_ICMPX_UNREACH, "icmp_code": NFT_REJECT_ICMPX_ADMIN_PROHIBITED}
    yield [user, _expression("reject", **reject)]


class _Chain(NamedTuple):
    name: str
    hook: int
    priority: int
    rules: list[list[Expression]]


def _table(table: str, chains: Iterable[_Chain]) -> Iterator[bytes]:
    """Make the messages that set up the table."""
    yield _message(nft_table_msg, NFT_MSG_NEWTABLE, [("NAME", table), ("FLAGS", NFT_TABLE_F_OWNER)])
    for chain in chains:
        hook = {"attrs": [("NFTA_HOOK_HOOKNUM", chain.hook), ("NFTA_HOOK_PRIORITY", chain.priority)]}
        content = [("HOOK", hook), ("POLICY", NF_ACCEPT), ("TYPE", "filter")]
        yield _message(nft_chain_msg, NFT_MSG_NEWCHAIN, [("TABLE", table), ("NAME", chain.name), *content])
        for rule in chain.rules:
            content = [("TABLE", table), ("CHAIN", chain.name), ("EXPRESSIONS", rule)]
            yield _message(nft_rule_msg, NFT_MSG_NEWRULE, content)


def _message(kind: Any, number: int, attributes: list[tuple[str, Any]]) -> bytes:
    message = kind()
    message["attrs"] = [(kind.prefix + name, value) for name, value in attributes]
    message["nfgen_family"] = NFPROTO_INET
    flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND
    return _encoded(message, NFNL_SUBSYS_NFTABLES << 8 | number, flags)


def _encoded(message: Any, number: int, flags: int) -> bytes:
    message["header"]["type"] = number
    message["header"]["flags"] = flags
    message.encode()
    return bytes(message.data)


def _transact(owner: socket.socket, messages: Iterable[bytes]) -> None:
    """Have the kernel do all of it or nothing. Raises OSError, as the kernel says."""
    edges = []
    for number in (NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END):
        edge = nfgen_msg()
        edge["res_id"] = NFNL_SUBSYS_NFTABLES
        edges.append(_encoded(edge, number, NLM_F_REQUEST))
    batch = list(messages)
    owner.send(b"".join([edges[0], *batch, edges[1]]))
    answers = 0
    while answers < len(batch):
        data = owner.recv(65536)
        while data:
            length, number = struct.unpack_from("=IH", data)
            code = -struct.unpack_from("=i", data, 16)[0] if number == NLMSG_ERROR else errno.EPROTO
            if code:
                raise OSError(code, os.strerror(code))
            answers += 1
            data = data[length + 3 & ~3 :]


def _expression(name: str, **attributes: Any) -> Expression:
    prefix = f"NFTA_{name.upper()}_"
    data = {"attrs": [(prefix + key.upper(), value) for key, value in attributes.items()]}
    return {"attrs": [("NFTA_EXPR_NAME", name), ("NFTA_EXPR_DATA", data)]}


def _load(name: str, key: int) -> Expression:
    return _expression(name, key=int(key), dreg=int(Regs.NFT_REG_1))


def _compare(operator: Cmp, value: bytes) -> Expression:
    return _expression("cmp", sreg=int(Regs.NFT_REG_1), op=int(operator), data=_value(value))


def _source_in(own: Interface) -> Iterator[Expression]:
    """Match the source address with the network, in register 1."""
    register, network = int(Regs.NFT_REG_1), own.network
    size = len(own.packed)
    where = {"base": NFT_PAYLOAD_NETWORK_HEADER, "offset": SOURCE[own.version], "len": size}
    yield _expression("payload", dreg=register, **where)
    mask, nothing = _value(network.netmask.packed), _value(bytes(size))
    yield _expression("bitwise", sreg=register, dreg=register, len=size, mask=mask, xor=nothing)
    yield _compare(Cmp.NFT_CMP_EQ, network.network_address.packed)


def _value(data: bytes) -> Expression:
    return {"attrs": [("NFTA_DATA_VALUE", data)]}


def _verdict(code: int) -> Expression:
    data = {"attrs": [("NFTA_DATA_VERDICT", {"attrs": [("NFTA_VERDICT_CODE", code)]})]}
    return _expression("immediate", dreg=int(Regs.NFT_REG_VERDICT), data=data)
