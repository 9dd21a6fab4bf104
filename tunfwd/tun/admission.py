"""Lets only some users of this machine reach the virtual addresses: `[network] users`.

A table of nf_tables that has an owner, our netlink socket: nobody else changes it, `nft flush ruleset` passes
it over, and it goes with the daemon, however that ends; so does the device. It judges what programs here send
into the device by the user who opened the socket, answers excepted: services are open to contacts whoever
runs them. pyroute2 encodes the messages; it reads no verdict on a batch, so that is done here.
"""

import contextlib
import errno
import os
import pwd
import socket
import struct
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final

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

NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 0x10, 0x11  # linux/netfilter/nfnetlink.h
NFPROTO_INET: Final = 1  # linux/netfilter.h
NFT_TABLE_F_OWNER: Final = 2  # linux/netfilter/nf_tables.h, Linux 5.12; so the rest
NFT_CT_DIRECTION: Final = 1
NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_ADMIN_PROHIBITED = 2, 3
NF_INET_LOCAL_OUT: Final = 3
NF_ACCEPT: Final = 1
REPLY: Final = b"\1"  # IP_CT_DIR_REPLY
CHAIN: Final = "output"
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
def admitting(interface: str, users: Collection[int]) -> Iterator[None]:
    """Refuse what others than `users` send into the device, as forbidden by a firewall.

    Takes CAP_NET_ADMIN to begin. Raises NetworkError.
    """
    table = f"tunfwd-{interface}"
    rules = list(_rules(socket.if_nametoindex(interface), users))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as owner:
        owner.bind((0, 0))
        owner.settimeout(TIMEOUT)
        try:
            _transact(owner, _table(table, rules))
        except OSError as error:
            needs = "takes nf_tables whose tables have owners (Linux 5.12)"
            raise NetworkError(f"[network] users {needs}: {error.strerror or error}") from error
        yield


def _rules(index: int, users: Collection[int]) -> Iterator[list[Expression]]:
    """Make the rules, in order; without a socket, `meta skuid` ends a rule without a match."""
    user = _load("meta", Meta.NFT_META_SKUID)
    yield [_load("meta", Meta.NFT_META_OIF), _compare(Cmp.NFT_CMP_NEQ, struct.pack("=I", index)), _accept()]
    yield [_load("ct", NFT_CT_DIRECTION), _compare(Cmp.NFT_CMP_EQ, REPLY), _accept()]
    for number in sorted(users):
        yield [user, _compare(Cmp.NFT_CMP_EQ, struct.pack("=I", number)), _accept()]
    reject = {"type": NFT_REJECT_ICMPX_UNREACH, "icmp_code": NFT_REJECT_ICMPX_ADMIN_PROHIBITED}
    yield [user, _expression("reject", **reject)]


def _table(table: str, rules: list[list[Expression]]) -> Iterator[bytes]:
    """Make the messages that set up the table."""
    hook = {"attrs": [("NFTA_HOOK_HOOKNUM", NF_INET_LOCAL_OUT), ("NFTA_HOOK_PRIORITY", 0)]}
    chain = [("TABLE", table), ("NAME", CHAIN), ("HOOK", hook), ("POLICY", NF_ACCEPT), ("TYPE", "filter")]
    owned = [("NAME", table), ("FLAGS", NFT_TABLE_F_OWNER)]
    yield _message(nft_table_msg, NFT_MSG_NEWTABLE, owned)
    yield _message(nft_chain_msg, NFT_MSG_NEWCHAIN, chain)
    for rule in rules:
        content = [("TABLE", table), ("CHAIN", CHAIN), ("EXPRESSIONS", rule)]
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
    data = {"attrs": [("NFTA_DATA_VALUE", value)]}
    return _expression("cmp", sreg=int(Regs.NFT_REG_1), op=int(operator), data=data)


def _accept() -> Expression:
    verdict = {"attrs": [("NFTA_VERDICT_CODE", NF_ACCEPT)]}
    data = {"attrs": [("NFTA_DATA_VERDICT", verdict)]}
    return _expression("immediate", dreg=int(Regs.NFT_REG_VERDICT), data=data)
