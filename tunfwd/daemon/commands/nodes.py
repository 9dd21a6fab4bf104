"""The commands about the nodes by which we join the Tox network, and what doctor says of it."""

from collections.abc import Iterator, Sequence
from typing import Final

import trio

from tunfwd.control import api
from tunfwd.control.dispatch import Dispatcher
from tunfwd.daemon.storage.nodes import NodeList
from tunfwd.tox.client import Client
from tunfwd.tox.contacts import NONE, TCP
from tunfwd.tox.joining import HINT, Record
from tunfwd.tox.nodes import listed
from tunfwd.tox.probing import Outcome
from tunfwd.tox.settings import Proxy, Settings

DOCTOR_ASKS: Final = 8  # public nodes, besides those that are configured
PROXY_TIME: Final = 3.0  # s for a proxy to take a connection
YOUNG: Final = 10.0  # s without the network that are usual at a start

PASSING: Final = (
    "is this machine on the internet, and does its firewall let it out"
    " (UDP to port 33445; TCP to 443, 3389, 33445)?"
)


class NodeCommands:
    """nodes, nodes.update, and doctor's look at the network."""

    def __init__(self, client: Client, node_list: NodeList) -> None:
        self._client = client
        self._list = node_list

    def register(self, dispatcher: Dispatcher) -> None:
        """Have the dispatcher call these."""
        dispatcher.add(api.NODES, self._nodes)
        dispatcher.add(api.NODES_UPDATE, self._update)

    def reconfigure(self, node_list: NodeList, settings: Settings) -> None:
        """Join at the nodes of another configuration."""
        self._list = node_list
        self._client.joining.replace(settings.network_nodes)

    @property
    def is_online(self) -> bool:
        """Whether we are in the network."""
        return self._client.connection is not NONE

    def offline(self) -> str | None:
        """Return for how long we have not been in the network, and why; None while we are."""
        since = self._offline_for()
        if since is None:
            return None
        return f"not connected to the Tox network for {since:.0f} s: {self._client.joining.describe()}{HINT}"

    def _offline_for(self) -> float | None:
        since = self._client.joining.offline_since
        return None if since is None else trio.current_time() - since

    async def _nodes(self, params: api.Nodes) -> api.NodesResult:
        joining = self._client.joining
        if params.test:
            await joining.probe(joining.records)
        relays = joining.connected_relays()
        return {
            "network": "online" if self.is_online else "offline",
            "public_nodes": self._list.is_used,
            "proxy": self._client.settings.proxy is not None,
            "nodes": [_entry(record, relays) for record in joining.records],
        }

    async def _update(self, params: api.NodesUpdate) -> api.NodesUpdateResult:
        fresh = self._list.add(params.nodes)
        if self._list.is_used:
            joining = self._client.joining
            known = {(record.node.key, record.node.hosts) for record in joining.records}
            nodes = [listed(node, "added") for node in fresh]
            joining.add([node for node in nodes if (node.key, node.hosts) not in known])
        return {
            "added": [node.public_key.hex().upper() for node in fresh],
            "total": len(self._list.added),
            "public_nodes": self._list.is_used,
        }

    # What doctor says

    async def checks(self) -> list[api.Check]:
        """Ask the nodes that matter, and judge what comes back."""
        joining = self._client.joining
        own = [record for record in joining.records if record.node.origin in ("bootstrap", "relays")]
        public = [record for record in joining.records if record not in own]
        public.sort(key=lambda record: -record.asked)  # those that we tried to join at
        chosen = [*own, *public[:DOCTOR_ASKS]]
        await joining.probe(chosen)
        checks = [self._network(), *self._reachable(chosen), *_configured(own)]
        if (proxy := self._client.settings.proxy) is not None:
            checks.append(await _proxy(proxy))
        return checks

    def _network(self) -> api.Check:
        settings, offline = self._client.settings, self._offline_for()
        if offline is not None:
            told = f"not connected for {offline:.0f} s: {self._client.joining.describe()}"
            return _check("tox network", "warning" if offline < YOUNG else "error", told)
        if self._client.connection is not TCP:
            return _check("tox network", "ok", "connected, over UDP")
        if settings.proxy is not None or not settings.udp:
            return _check("tox network", "ok", "connected, through relays, as [tox] udp is off")
        return _check("tox network", "ok", "connected, over TCP so far")  # what UDP does, the nodes tell

    def _reachable(self, asked: Sequence[Record]) -> Iterator[api.Check]:
        """Judge the outcomes together: what passes here, and what does not."""
        settings, offline = self._client.settings, self._offline_for()
        if not asked:
            detail = self._client.joining.describe() if offline is not None else "none is known to join at"
            yield _check("nodes", "warning", detail)
            return
        if settings.proxy is not None:
            count = len(self._client.joining.connected_relays())
            yield _check(
                "nodes", "ok", f"{count} relays are connected through the proxy; nothing is asked past it"
            )
            return
        outcomes = [record.outcome for record in asked if record.outcome is not None]
        over_udp = [outcome.udp for outcome in outcomes if outcome.udp is not None]
        over_tcp = [outcome.relay for outcome in outcomes if outcome.relay is not None]
        udp, tcp = over_udp.count("answers"), over_tcp.count("answers")
        counted = f"TCP: {tcp} of {len(over_tcp)}"
        if settings.udp:
            counted = f"UDP: {udp} of {len(over_udp)} nodes answer, {counted}"
        if udp or (tcp and not settings.udp):
            yield _check("nodes", "ok", counted)
        elif tcp:
            yield _check("nodes", "warning", f"{counted}: UDP is blocked here: relays are used")
        elif outcomes and all(_is_unreachable(outcome) for outcome in outcomes):
            yield _check("nodes", "warning", f"there is no route to any of {len(outcomes)} nodes: {PASSING}")
        else:
            level: api.Level = "warning" if offline is None else "error"
            yield _check("nodes", level, f"{counted}: {PASSING} Other nodes: tunfwd nodes update")


async def _proxy(proxy: Proxy) -> api.Check:
    """See whether the proxy is there; how it treats us shows in whether we are connected."""
    why = f"no answer within {PROXY_TIME:.0f} s"
    with trio.move_on_after(PROXY_TIME):
        try:
            stream = await trio.open_tcp_stream(proxy.host, proxy.port)
        except OSError as error:
            why = str(error.strerror or error)
        else:
            await trio.aclose_forcefully(stream)
            return _check("proxy", "ok", f"{proxy} answers")
    return _check("proxy", "error", f"[tox] proxy: {proxy}: {why}")


def _is_unreachable(outcome: Outcome) -> bool:
    return outcome.udp == "unreachable" and outcome.relay in (None, "unreachable")


def _configured(own: Sequence[Record]) -> Iterator[api.Check]:
    """Judge each node that the configuration names."""
    for record in own:
        outcome = record.outcome
        if record.error and not record.addresses:
            yield _check("nodes", "warning", f"[tox] {record.node.origin} {record.node} {record.error}")
        elif outcome is not None and not outcome.answers:
            yield _check("nodes", "warning", f"[tox] {record.node.origin} {record.node}: {outcome.told}")


def _check(name: str, level: api.Level, detail: str) -> api.Check:
    return {"name": name, "ok": level != "error", "level": level, "detail": detail}


def _entry(record: Record, relays: frozenset[bytes]) -> api.NodeEntry:
    node, outcome = record.node, record.outcome
    return {
        "public_key": node.key.hex().upper(),
        "hosts": list(node.hosts),
        "port": node.udp_port,
        "tcp_ports": list(node.tcp_ports),
        "origin": node.origin,
        "maintainer": node.maintainer,
        "location": node.location,
        "asked": record.asked,
        "relay": node.key in relays,
        "udp": outcome.udp if outcome is not None else None,
        "tcp": {str(port): answer for port, answer in sorted(outcome.tcp.items())}
        if outcome is not None
        else {},
        "error": record.error,
    }
