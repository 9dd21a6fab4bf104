"""An internet of our own, for first contact: sites routed to each other, public nodes, homes behind NATs.

    with Internet({"ann": Site(nat=Nat.CONE), "ben": Site(udp=Udp.DROPPED)}) as net:
        net["ann"].start([...])                 # a host, as in topology.py
        [node.bootstrap for node in net.nodes]  # HOST:PORT:KEY, for [tox] bootstrap

Every host is at a site of its own. What leaves it passes the site's NAT, if it has one, and the backbone, a
router whose firewall lets through what the site is allowed. Addresses are of 198.18.0.0/15, which is set
aside for networks that are cut off from all others (RFC 2544); toxcore takes them for public ones, as it must
for what is tried here. There is no way from here to any real network. Needs `nft`.
"""

import ipaddress
import json
import secrets
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

from pyroute2 import IPRoute, netns

from netns.emulator import INTERFACE
from netns.public_nodes import UDP_PORT
from netns.topology import PROJECT, STOP_TIME, Host, Topology, TopologyError, namespace

SITES: Final = ipaddress.IPv4Network("198.18.0.0/15")
HOMES: Final = ipaddress.IPv4Network("192.168.0.0/16")
SITE_PREFIX: Final = 24
BACKBONE: Final = "backbone"  # the namespace of the router between the sites; no host may be called so
NODES_TIME: Final = 30.0  # s for all public nodes to be there


class Nat(Enum):
    """How a site's router translates."""

    NONE = "none"
    """Not at all: the host has a public address."""
    FULL_CONE = "full cone"
    """One outside port for an inside one, open to everybody (as with UPnP)."""
    CONE = "cone"
    """One outside port for an inside one, open to who was sent something (a port-restricted cone)."""
    SYMMETRIC = "symmetric"
    """Another outside port, by chance, for each destination."""


class Udp(Enum):
    """What becomes of UDP that a site sends, or is sent."""

    OPEN = "open"
    REFUSED = "refused"
    """By the host's own firewall: sending fails."""
    DROPPED = "dropped"
    """On its way, without a word."""


@dataclass(frozen=True, slots=True)
class Site:
    """How a host is connected."""

    nat: Nat = Nat.NONE
    udp: Udp = Udp.OPEN
    tcp: tuple[int, ...] | None = None
    """The ports that it may connect to; None is all."""


@dataclass(frozen=True, slots=True)
class NodeKind:
    """What a public node is like."""

    tcp: tuple[int, ...] = (UDP_PORT,)
    """The ports of its relay."""
    udp: bool = True
    """Whether it is reached by UDP; it sends all the same."""
    listed: tuple[int, ...] | None = None
    """The ports of its relay that the list names; None is those that there are."""
    alive: bool = True
    """Whether there is a node; else its host refuses, or, with `silent`, says nothing."""
    silent: bool = False


ALIVE: Final = (
    NodeKind(),
    NodeKind(tcp=(443, UDP_PORT)),
    NodeKind(tcp=(443,)),
    NodeKind(tcp=(3389, UDP_PORT)),
    NodeKind(tcp=(3389,)),
    NodeKind(tcp=(443, 3389, UDP_PORT)),
)
"""Six nodes: enough for toxcore to find out what a NAT does."""
DEAD: Final = (NodeKind(alive=False), NodeKind(alive=False, silent=True))
SIX: Final = (*ALIVE, *DEAD)


@dataclass(frozen=True, slots=True)
class PublicNode:
    """A node that anybody may join the network by; dead ones have a key of nobody's."""

    host: Host
    kind: NodeKind
    key: str

    @property
    def bootstrap(self) -> str:
        """As in [tox] bootstrap."""
        return f"{self.host.address}:{UDP_PORT}:{self.key}"

    def relay(self, port: int | None = None) -> str:
        """As in [tox] relays."""
        return f"{self.host.address}:{port or self.kind.tcp[0]}:{self.key}"

    @property
    def entry(self) -> dict[str, Any]:
        """As in the list of public nodes, schema of nodes.tox.chat."""
        return {
            "public_key": self.key,
            "ipv4": str(self.host.address),
            "ipv6": "-",
            "port": UDP_PORT,
            "tcp_ports": list(self.kind.tcp if self.kind.listed is None else self.kind.listed),
            "maintainer": self.host.name,
            "location": "XX",
            "status_udp": self.kind.alive and self.kind.udp,
            "status_tcp": self.kind.alive and bool(self.kind.tcp),
        }


class Internet(Topology):
    """Hosts at sites, and public nodes called node1, node2, …; made on entry and gone on exit.

    Without `nodes` there is nobody else: friends are alone.
    """

    def __init__(self, sites: Mapping[str, Site], nodes: Sequence[NodeKind] = SIX) -> None:
        self._kinds = {f"node{number}": kind for number, kind in enumerate(nodes, start=1)}
        self._sites = {
            **sites,
            **{name: Site(udp=Udp.OPEN if kind.udp else Udp.DROPPED) for name, kind in self._kinds.items()},
        }
        super().__init__(list(self._sites), subnet=HOMES)
        if BACKBONE in self._sites:
            raise TopologyError(f"not a name for a host: {BACKBONE!r}")
        self.hosts = [
            replace(
                host, interface=_inside(number) if self._site(host).nat is not Nat.NONE else _outside(number)
            )
            for number, host in enumerate(self.hosts)
        ]
        self.nodes: list[PublicNode] = []
        """The public nodes, dead ones included; alive when the topology is entered."""
        self._process: subprocess.Popen[str] | None = None

    def document(self, nodes: Sequence[PublicNode] | None = None) -> dict[str, Any]:
        """Return the list of public nodes, schema of nodes.tox.chat; all of them unless some are given."""
        return {"nodes": [node.entry for node in (self.nodes if nodes is None else nodes)]}

    def public_address(self, name: str) -> ipaddress.IPv4Address:
        """Return the address that the others see a host at."""
        return _outside(self._number(name)).ip

    def cut(self, name: str) -> None:
        """Pull the cable between a site and the backbone."""
        self._set_cable(name, "down")

    def plug(self, name: str) -> None:
        """Put the cable back."""
        self._set_cable(name, "up")

    def create(self) -> None:
        """Make it all, or nothing. Raises TopologyError."""
        super().create()
        try:
            self._start_nodes()
        except BaseException:
            self.destroy()
            raise

    def destroy(self) -> None:
        """End all that runs in the hosts, and take them away."""
        if self._process is not None:
            self._process.communicate(timeout=STOP_TIME)  # without its standard input it ends
            self._process = None
        super().destroy()

    # -- wiring ----------------------------------------------------------------------------------------------

    def _join(self) -> None:
        backbone = self._namespace(BACKBONE)
        netns.create(backbone)
        for number, host in enumerate(self.hosts):
            site = self._site(host)
            if site.nat is Nat.NONE:
                self._connect(host.namespace, INTERFACE, number)
            else:
                router = self._namespace(f"{host.name}router")
                netns.create(router)
                self._connect(router, "wan", number)
                inside = _gateway(host.interface)
                _veth((router, "lan", inside), (host.namespace, INTERFACE, host.interface))
                _route(host.namespace, inside.ip)
                _become_router(router)
                _rules(router, _translation(site.nat, host.address))
            if site.udp is Udp.REFUSED:
                _rules(host.namespace, REFUSAL)
            if kind := self._kinds.get(host.name):
                _rules(host.namespace, _redirections(kind))
        _become_router(backbone)
        _rules(backbone, self._firewall())

    def _connect(self, to: str, interface: str, number: int) -> None:
        """Join a site's outermost namespace to the backbone."""
        outside = _outside(number)
        gateway = _gateway(outside)
        _veth((self._namespace(BACKBONE), _cable(number), gateway), (to, interface, outside))
        _route(to, gateway.ip)

    def _firewall(self) -> str:
        """Return the backbone's rules: what each site may send and receive."""
        rules = []
        for number, host in enumerate(self.hosts):
            site, cable = self._site(host), _cable(number)
            kind = self._kinds.get(host.name)
            if kind is not None:
                if not kind.udp:
                    rules.append(f"oifname {cable} meta l4proto udp ct state new drop")
                if kind.silent:
                    rules.append(f"oifname {cable} drop")
            elif site.udp is Udp.DROPPED:
                rules += [f"iifname {cable} meta l4proto udp drop", f"oifname {cable} meta l4proto udp drop"]
            if site.tcp is not None:
                ports = ", ".join(map(str, site.tcp))
                rules.append(f"iifname {cable} tcp dport != {{ {ports} }} ct state new drop")
        return _table("filter", forward=("type filter hook forward priority 0", rules))

    def _set_cable(self, name: str, state: str) -> None:
        with IPRoute(netns=self._namespace(BACKBONE)) as ip:
            [index] = ip.link_lookup(ifname=_cable(self._number(name)))
            ip.link("set", index=index, state=state)

    def _site(self, host: Host) -> Site:
        return self._sites[host.name]

    def _number(self, name: str) -> int:
        return list(self._sites).index(name)

    def _namespace(self, name: str) -> str:
        return namespace(self.label, name)

    # -- the public nodes ------------------------------------------------------------------------------------

    def _start_nodes(self) -> None:
        alive = [self[name] for name, kind in self._kinds.items() if kind.alive]
        keys = iter(self._keys(alive))
        self.nodes = [
            PublicNode(self[name], kind, next(keys) if kind.alive else secrets.token_hex(32).upper())
            for name, kind in self._kinds.items()
        ]

    def _keys(self, alive: Sequence[Host]) -> list[str]:
        if not alive:
            return []
        settings = [
            {
                "namespace": host.namespace,
                "address": str(host.address),
                "tcp_port": next(iter(self._kinds[host.name].tcp), 0),
            }
            for host in alive
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "netns.public_nodes", json.dumps(settings)],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C ends the owner first
        )
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], NODES_TIME)
        keys = self._process.stdout.readline() if readable else ""
        if not keys:
            raise TopologyError("the public nodes did not start")
        return [str(key) for key in json.loads(keys)]


# -- addresses -----------------------------------------------------------------------------------------------


def _outside(number: int) -> ipaddress.IPv4Interface:
    """Return where a site is attached: its host, or its router."""
    network = SITES.network_address + (number << 32 - SITE_PREFIX)
    return ipaddress.IPv4Interface((network + 2, SITE_PREFIX))


def _inside(number: int) -> ipaddress.IPv4Interface:
    """Return the host's address behind a NAT."""
    network = HOMES.network_address + (number << 32 - SITE_PREFIX)
    return ipaddress.IPv4Interface((network + 2, SITE_PREFIX))


def _gateway(interface: ipaddress.IPv4Interface) -> ipaddress.IPv4Interface:
    return ipaddress.IPv4Interface((interface.network.network_address + 1, SITE_PREFIX))


# -- interfaces and rules ------------------------------------------------------------------------------------


def _cable(number: int) -> str:
    return f"site{number}"


def _veth(*ends: tuple[str, str, ipaddress.IPv4Interface]) -> None:
    """Join two namespaces; each end is namespace, interface and address."""
    (space, name, _), (other_space, other_name, _) = ends
    with IPRoute(netns=space) as ip:
        ip.link("add", ifname=name, kind="veth", peer={"ifname": other_name, "net_ns_fd": other_space})
    for end_space, end_name, address in ends:
        with IPRoute(netns=end_space) as ip:
            for interface in ("lo", end_name):
                [index] = ip.link_lookup(ifname=interface)
                ip.link("set", index=index, state="up")
            ip.addr("add", index=index, address=str(address.ip), prefixlen=SITE_PREFIX)


def _route(space: str, gateway: ipaddress.IPv4Address) -> None:
    with IPRoute(netns=space) as ip:
        ip.route("add", dst="default", gateway=str(gateway))


def _become_router(space: str) -> None:
    _run(space, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")


def _rules(space: str, rules: str) -> None:
    if rules:
        _run(space, "nft", rules)


def _run(space: str, *command: str) -> None:
    try:
        subprocess.run(
            ["ip", "netns", "exec", space, *command],
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
        )
    except subprocess.CalledProcessError as error:
        raise TopologyError(f"{command[0]}: {error.stderr.strip()}") from error


def _table(name: str, **chains: tuple[str, Sequence[str]]) -> str:
    """Return a table as `nft` reads it; each chain is its type and its rules."""
    lines = [f"table ip {name} {{"]
    for chain, (kind, rules) in chains.items():
        lines += [f" chain {chain} {{", f"  {kind};", *(f"  {rule}" for rule in rules), " }"]
    return "\n".join([*lines, "}"])


REFUSAL: Final = _table(
    "refusal",
    output=(
        "type filter hook output priority 0",
        ["oifname != lo meta l4proto udp reject with icmp admin-prohibited"],
    ),
)


def _translation(nat: Nat, host: ipaddress.IPv4Address) -> str:
    """Return the rules of a home's router.

    What comes from outside and belongs to nothing is dropped before it is noted: else the router would take a
    peer's first packet for a conversation of its own, and give the host another port than it has.
    """
    how = "masquerade random,fully-random" if nat is Nat.SYMMETRIC else "masquerade persistent"
    open_to_all = [f"iifname wan udp dport 1024-65535 dnat to {host}"] if nat is Nat.FULL_CONE else []
    return _table(
        "home",
        outgoing=("type nat hook postrouting priority 100", [f"oifname wan {how}"]),
        incoming=("type nat hook prerouting priority -100", open_to_all),
        own=("type filter hook input priority 0", ["iifname wan ct state new drop"]),
    )


def _redirections(kind: NodeKind) -> str:
    """Return the rules by which a node relays at more ports than toxcore has."""
    first, *others = kind.tcp or (0,)
    if not kind.alive or not others:
        return ""
    ports = ", ".join(map(str, others))
    rule = f"tcp dport {{ {ports} }} redirect to :{first}"
    return _table("relay", incoming=("type nat hook prerouting priority -100", [rule]))
