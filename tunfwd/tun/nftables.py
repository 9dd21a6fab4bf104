"""Tables of nf_tables with an owner, our netlink socket: made whole or not at all, gone when that closes.

Nobody else changes such a table, and `nft flush ruleset` passes it over. pyroute2 encodes the messages; it
reads no verdict on a batch, so that is done here. Takes CAP_NET_ADMIN, and Linux 5.12.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
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
    Regs,
    nft_chain_msg,
    nft_rule_msg,
    nft_table_msg,
)

NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 0x10, 0x11  # linux/netfilter/nfnetlink.h
NFPROTO_INET, NFPROTO_IPV4 = 1, 2  # linux/netfilter.h
NFT_TABLE_F_OWNER: Final = 2  # linux/netfilter/nf_tables.h, Linux 5.12; so the rest
NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER = 1, 2
NF_INET_PRE_ROUTING, NF_INET_LOCAL_OUT = 0, 3
NF_DROP, NF_ACCEPT = 0, 1
NF_IP_PRI_RAW, NF_IP_PRI_FILTER = -300, 0  # linux/netfilter_ipv4.h; raw is before connections are tracked
LOOPBACK: Final = 1  # its index, in every network namespace
TIMEOUT: Final = 5.0  # s for the kernel to answer

Expression = dict[str, Any]


def make_table(owner: socket.socket, name: str, family: int, chains: "Iterable[Chain]") -> None:
    """Make a table that lives as long as the netlink socket. Raises OSError, as the kernel says."""
    owner.bind((0, 0))
    owner.settimeout(TIMEOUT)
    _transact(owner, _table(name, family, chains))


def owner_socket() -> socket.socket:
    """Return the socket that a table is to belong to."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)


class Chain(NamedTuple):
    """A base chain, with its rules."""

    name: str
    hook: int
    priority: int
    rules: list[list[Expression]]


def _table(table: str, family: int, chains: Iterable[Chain]) -> Iterator[bytes]:
    """Make the messages that set up the table."""
    yield _message(family, nft_table_msg, NFT_MSG_NEWTABLE, [("NAME", table), ("FLAGS", NFT_TABLE_F_OWNER)])
    for chain in chains:
        hook = {"attrs": [("NFTA_HOOK_HOOKNUM", chain.hook), ("NFTA_HOOK_PRIORITY", chain.priority)]}
        content = [("HOOK", hook), ("POLICY", NF_ACCEPT), ("TYPE", "filter")]
        yield _message(
            family, nft_chain_msg, NFT_MSG_NEWCHAIN, [("TABLE", table), ("NAME", chain.name), *content]
        )
        for rule in chain.rules:
            content = [("TABLE", table), ("CHAIN", chain.name), ("EXPRESSIONS", rule)]
            yield _message(family, nft_rule_msg, NFT_MSG_NEWRULE, content)


def _message(family: int, kind: Any, number: int, attributes: list[tuple[str, Any]]) -> bytes:
    message = kind()
    message["attrs"] = [(kind.prefix + name, value) for name, value in attributes]
    message["nfgen_family"] = family
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


def expression(name: str, **attributes: Any) -> Expression:
    """Make an expression, with its attributes by their names in lower case."""
    prefix = f"NFTA_{name.upper()}_"
    data = {"attrs": [(prefix + key.upper(), value) for key, value in attributes.items()]}
    return {"attrs": [("NFTA_EXPR_NAME", name), ("NFTA_EXPR_DATA", data)]}


def load(name: str, key: int) -> Expression:
    """Have register 1 hold something of the packet."""
    return expression(name, key=int(key), dreg=int(Regs.NFT_REG_1))


def compare(operator: Cmp, data: bytes) -> Expression:
    """Go on where register 1 compares so."""
    return expression("cmp", sreg=int(Regs.NFT_REG_1), op=int(operator), data=value(data))


def value(data: bytes) -> Expression:
    """Make the operand of an expression."""
    return {"attrs": [("NFTA_DATA_VALUE", data)]}


def verdict(code: int) -> Expression:
    """End the rule, and say what becomes of the packet."""
    data = {"attrs": [("NFTA_DATA_VERDICT", {"attrs": [("NFTA_VERDICT_CODE", code)]})]}
    return expression("immediate", dreg=int(Regs.NFT_REG_VERDICT), data=data)
