"""What a firewall would do with a packet: the rules of nf_tables, as `nft -j` writes them, tried.

Three answers: it passes, it is dropped, or it cannot be told (a limit, a set that changes, a match of
iptables'), which is never called a drop. See libnftables-json(5). Asked by `tunfwd doctor`; reads text alone.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network
from typing import Any, Final, Literal

Verdict = Literal["accept", "drop", "unknown", "none"]
"""None: the next rule decides, or the policy."""

MAX_DEPTH: Final = 16  # jumps; the kernel's own limit
OURS: Final = "tunfwd-"  # tables
FAMILIES: Final = {4: ("ip", "inet"), 6: ("ip6", "inet")}


class NoRules(Exception):
    """What nft said cannot be read."""


@dataclass(frozen=True, slots=True)
class Packet:
    """As much of one as rules look at; None: whatever it is."""

    hook: Literal["input", "output"]
    interface: str
    """By which it comes, or goes."""
    source: str
    destination: str
    protocol: Literal["tcp", "udp"]
    port: int | None = None
    """Where it goes to."""
    state: Literal["new", "established"] = "new"

    @property
    def version(self) -> int:
        """Of IP."""
        return ip_address(self.source).version


@dataclass(frozen=True, slots=True)
class Drop:
    """Where a packet ends."""

    table: str
    chain: str
    rule: int | None
    """The handle; None: it is the chain's policy."""

    def __str__(self) -> str:
        why = "its policy" if self.rule is None else f"the rule with handle {self.rule}"
        return f"table {self.table}, chain {self.chain}, {why}"


class Ruleset:
    """All the rules."""

    def __init__(self, text: str) -> None:
        """Read what nft wrote; raises NoRules."""
        self._chains: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._rules: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        self._sets: dict[tuple[str, str, str], Any] = {}
        try:
            for item in json.loads(text)["nftables"]:
                if chain := item.get("chain"):
                    self._chains[chain["family"], chain["table"], chain["name"]] = chain
                elif rule := item.get("rule"):
                    self._rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(rule)
                elif named := item.get("set") or item.get("map"):
                    self._sets[named["family"], named["table"], named["name"]] = named.get("elem", [])
        except (ValueError, LookupError, TypeError, AttributeError) as wrong:
            raise NoRules(str(wrong)) from None

    def drops(self, packet: Packet) -> Iterator[Drop]:
        """Find the chains in which a packet surely ends, others' and not our own."""
        for key, chain in self._chains.items():
            family, table, name = key
            if chain.get("hook") != packet.hook or chain.get("type") != "filter":
                continue
            if family not in FAMILIES[packet.version] or table.startswith(OURS):
                continue
            verdict, rule = self._walk(key, packet, 0)
            if verdict == "none" and chain.get("policy") == "drop":
                verdict = "drop"
            if verdict == "drop":
                yield Drop(f"{family} {table}", name, rule)

    def _walk(self, key: tuple[str, str, str], packet: Packet, depth: int) -> tuple[Verdict, int | None]:
        """Return what becomes of a packet in a chain, and by which rule."""
        if depth > MAX_DEPTH:
            return "unknown", None
        for rule in self._rules.get(key, []):
            try:
                verdict = self._apply(key, rule.get("expr", []), packet, depth)
            except (ValueError, LookupError, TypeError, AttributeError, StopIteration):
                return "unknown", None  # written in a way that is not known here
            if verdict == "return":
                return "none", None
            if verdict != "none":
                return verdict, rule.get("handle")
        return "none", None

    def _apply(
        self, key: tuple[str, str, str], expressions: list[Any], packet: Packet, depth: int
    ) -> Verdict | Literal["return"]:
        """Return what a rule says. Where it may match or not, it is taken to say nothing certain."""
        sure = True
        for one in expressions:
            name, content = self._read(one)
            if name == "match":
                matched = self._matches(key, content, packet)
                if matched is False:
                    return "none"
                sure = sure and matched is True
            elif name == "vmap":
                name, content = self._mapped(key, content, packet)
            elif name in ("limit", "xt", "quota", ""):
                sure = False
            verdict: Verdict | Literal["return"] = "none"
            if name in ("drop", "reject"):
                verdict = "drop"
            elif name in ("accept", "queue"):
                verdict = "accept"
            elif name == "return":
                verdict = "return"
            elif name in ("jump", "goto"):
                verdict, _ = self._walk((*key[:2], content["target"]), packet, depth + 1)
                if name == "goto" and verdict == "none":
                    verdict = "return"
            elif name == "unknown":
                verdict = "unknown"
            if verdict != "none":
                return verdict if sure else self._unsure(verdict)
        return "none"

    def _read(self, one: Any) -> tuple[str, Any]:
        """Return the name of an expression, and what is in it; an empty one is none that we know."""
        return next(iter(one.items())) if isinstance(one, Mapping) and one else ("", None)

    def _unsure(self, verdict: Verdict | Literal["return"]) -> Verdict:
        """A drop that may be is none; what may pass, or end the chain, may not be dropped later."""
        return "none" if verdict == "drop" else "unknown"

    def _mapped(self, key: tuple[str, str, str], vmap: Any, packet: Packet) -> tuple[str, Any]:
        value = self._value(vmap.get("key"), packet)
        data = vmap.get("data")
        entries = self._named(key, data) if isinstance(data, str) else data.get("set", [])
        for entry in entries:
            found = self._equals(key, value, entry[0], packet)
            if found is None:
                return "unknown", None
            if found:
                name, content = next(iter(entry[1].items()))
                return str(name), content
        return "", None

    def _matches(self, key: tuple[str, str, str], match: Any, packet: Packet) -> bool | None:
        value = self._value(match.get("left"), packet)
        found = self._equals(key, value, match.get("right"), packet)
        if found is None:
            return None
        return not found if match.get("op") == "!=" else found if match.get("op") in ("==", "in") else None

    def _value(self, left: Any, packet: Packet) -> Any:
        """Return what the packet has there: a value, False where it has no such thing, None: who knows."""
        if not isinstance(left, Mapping):
            return None
        if (meta := left.get("meta")) is not None:
            here = {"input": ("iifname", "iif"), "output": ("oifname", "oif")}
            if meta.get("key") in here[packet.hook]:
                return packet.interface
            values = {
                "l4proto": packet.protocol,
                "nfproto": f"ipv{packet.version}",
                "protocol": "ip" if packet.version == 4 else "ip6",
            }
            return values.get(meta.get("key"))
        if (ct := left.get("ct")) is not None:
            return packet.state if ct.get("key") == "state" else None
        if (payload := left.get("payload")) is not None:
            return self._payload(payload.get("protocol"), payload.get("field"), packet)
        return None

    def _payload(self, protocol: Any, field: Any, packet: Packet) -> Any:
        if protocol in ("ip", "ip6"):
            if (protocol == "ip") != (packet.version == 4):
                return False
            values = {"saddr": packet.source, "daddr": packet.destination, "protocol": packet.protocol}
            return values.get("protocol" if field == "nexthdr" else field)
        if protocol in ("tcp", "udp", "th"):
            if protocol not in ("th", packet.protocol):
                return False
            return packet.port if field == "dport" else None
        return False if protocol in ("icmp", "icmpv6", "sctp", "dccp", "esp", "ah", "arp") else None

    def _equals(self, key: tuple[str, str, str], value: Any, right: Any, packet: Packet) -> bool | None:
        """Whether a value is what a rule names; None: it cannot be told."""
        if value is False or value is None:
            return value
        if isinstance(right, str) and right.startswith("@"):
            right = {"set": self._named(key, right)}
        if isinstance(right, Mapping):
            if "set" in right:
                right = right["set"]
            elif "prefix" in right:
                prefix = right["prefix"]
                network = ip_network((prefix["addr"], prefix["len"]), strict=False)
                return ip_address(value) in network if isinstance(value, str) else None
            elif "range" in right:
                low, high = right["range"]
                if isinstance(value, int):
                    return bool(low <= value <= high)
                return int(ip_address(low)) <= int(ip_address(value)) <= int(ip_address(high))
            elif "elem" in right:
                return self._equals(key, value, right["elem"]["val"], packet)
            else:
                return None
        if isinstance(right, list):
            found = [self._equals(key, value, one, packet) for one in right]
            return True if True in found else None if None in found else False
        if isinstance(right, str) and isinstance(value, str):
            return fnmatchcase(value, right)
        return bool(value == right)

    def _named(self, key: tuple[str, str, str], name: str) -> Any:
        return self._sets.get((*key[:2], name.removeprefix("@")), [])
