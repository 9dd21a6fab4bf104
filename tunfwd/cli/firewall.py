"""Whether this machine's firewall drops what tunfwd is for, as far as its rules can be read: for doctor."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from tunfwd.control import api
from tunfwd.tun.ruleset import NoRules, Packet, Ruleset

TIME: Final = 10.0  # s for nft
LEGACY: Final = Path("/proc/net/ip_tables_names")  # tables of iptables-legacy, which nft does not know of
CONTACTS: Final = {4: "any contact's address", 6: "any contact's IPv6 address"}


def read_rules() -> Ruleset | str:
    """Return the rules in force here, or why they cannot be read."""
    nft = shutil.which("nft", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if nft is None:
        return "there is no nft here"
    try:
        command = [nft, "-j", "list", "ruleset"]
        done = subprocess.run(command, capture_output=True, timeout=TIME, check=True)
        return Ruleset(done.stdout.decode(errors="replace"))
    except subprocess.CalledProcessError:
        return "only root may read its rules"
    except (OSError, subprocess.TimeoutExpired, NoRules) as wrong:
        return f"its rules cannot be read: {wrong}"


def problems(rules: Ruleset, own: api.IdentityResult, ports: Sequence[api.MappingEntry]) -> Iterator[str]:
    """Say what is dropped: on the way to contacts and back, and on the way to what they may reach here."""
    device = own["interface"]
    here = {4: own.get("device_address", ""), 6: own.get("device_address6", "")}
    there = {version: str(ip_address(address) + 1) for version, address in here.items()}
    for version in (4, 6):
        out = Packet("output", device, here[version], there[version], "tcp")
        back = Packet("input", device, there[version], here[version], "tcp", state="established")
        for drop in rules.drops(out):
            yield f"what programs here send to {CONTACTS[version]} is dropped: {drop}"
        for drop in rules.drops(back):
            yield f"what {CONTACTS[version]} answers is dropped: {drop}"
    told = set()
    for entry in ports:
        if entry["target"] is None or not (sees := entry.get("sees")):
            continue
        loopback = sees == "host"
        interface, source = ("lo", "127.0.0.1") if loopback else (device, there[4])
        port = int(entry["target"].rpartition(":")[2])
        packet = Packet("input", interface, source, source if loopback else here[4], entry["protocol"], port)
        if loopback and not entry["target"].startswith(("localhost:", "127.0.0.1:")):
            continue  # elsewhere
        for drop in rules.drops(packet):
            line = f"what contacts send to {port}/{entry['protocol']} of this machine is dropped: {drop}"
            if line not in told:
                told.add(line)
                yield line


def is_here(interface: str) -> bool:
    """Whether the daemon's device is one of this network namespace, whose rules are read."""
    try:
        socket.if_nametoindex(interface)
    except OSError:
        return False
    return True


def unread_tables() -> str:
    """Return the tables of iptables-legacy, which are not looked at."""
    try:
        return ", ".join(LEGACY.read_text().split())
    except OSError:
        return ""
