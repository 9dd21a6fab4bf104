"""Other programs that join two hosts, for packet.py to measure beside tunfwd.

Each makes a device at both ends, with an address of its own. What a program is started with is as its manual
has it, without compression: it encrypts, and looks at nothing.
"""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from netns.topology import Host
from scripts.benchmarks.packet import Way

PORT: Final = 51820  # of each of them; one at a time runs
START_TIME: Final = 20.0  # s until a packet gets through
TOOL_TIME: Final = 30.0  # s for a tool that makes keys


@dataclass(frozen=True, slots=True)
class Ends:
    """Two hosts that a program is to join, the client first."""

    hosts: tuple[Host, Host]
    devices: tuple[str, str]
    addresses: tuple[str, str]
    """In the network that the program makes."""
    folder: Path
    """Where its configuration goes."""

    def path(self, end: int) -> Path:
        """Return a folder of one end's own."""
        made = self.folder / str(end)
        made.mkdir(exist_ok=True)
        return made

    def give_addresses(self) -> None:
        """Give the devices their addresses, where the program does not."""
        for host, device, address in zip(self.hosts, self.devices, self.addresses, strict=True):
            host.run(["ip", "address", "add", f"{address}/24", "dev", device])
            host.run(["ip", "link", "set", device, "up"])


def _told(*command: str | Path, text: str = "") -> str:
    run = subprocess.run(command, input=text, capture_output=True, text=True, check=True, timeout=TOOL_TIME)
    return run.stdout.strip()


# Each returns the commands that are to run at either end; what is left to do when its devices are there
# stands in `_FINISH`.


def _wireguard(ends: Ends) -> list[list[str]]:
    return [["wireguard-go", "-f", device] for device in ends.devices]


def _tell_wireguard(ends: Ends) -> None:
    secrets = [_told("wg", "genkey") for _ in ends.hosts]
    public = [_told("wg", "pubkey", text=secret) for secret in secrets]
    for end, (host, device) in enumerate(zip(ends.hosts, ends.devices, strict=True)):
        key = ends.path(end) / "key"
        key.write_text(secrets[end])
        command = ["wg", "set", device, "private-key", str(key), "listen-port", str(PORT)]
        command += ["peer", public[1 - end], "allowed-ips", f"{ends.addresses[1 - end]}/32"]
        host.run([*command, "endpoint", f"{ends.hosts[1 - end].address}:{PORT}"])
    ends.give_addresses()


def _openvpn(ends: Ends) -> list[list[str]]:
    key = ends.folder / "static.key"
    _told("openvpn", "--genkey", "secret", key)
    commands = []
    for end, device in enumerate(ends.devices):
        command = ["openvpn", "--dev", device, "--dev-type", "tun", "--proto", "udp", "--secret", str(key)]
        command += ["--remote", str(ends.hosts[1 - end].address), "--cipher", "AES-256-CBC"]
        commands.append([*command, "--ifconfig", ends.addresses[end], ends.addresses[1 - end]])
    return commands


NEBULA: Final = """\
pki: {{ca: {folder}/ca.crt, cert: {folder}/{end}.crt, key: {folder}/{end}.key}}
static_host_map: {{"{other}": ["{endpoint}:{port}"]}}
lighthouse: {{am_lighthouse: false}}
listen: {{host: 0.0.0.0, port: {port}}}
tun: {{dev: {device}}}
firewall:
  outbound: [{{port: any, proto: any, host: any}}]
  inbound: [{{port: any, proto: any, host: any}}]
"""


def _nebula(ends: Ends) -> list[list[str]]:
    folder = ends.folder
    made: list[str | Path] = ["-out-crt", folder / "ca.crt", "-out-key", folder / "ca.key"]
    _told("nebula-cert", "ca", "-name", "bench", *made)
    signing: list[str | Path] = ["-ca-crt", folder / "ca.crt", "-ca-key", folder / "ca.key"]
    commands = []
    for end, (device, address) in enumerate(zip(ends.devices, ends.addresses, strict=True)):
        made = ["-out-crt", folder / f"{end}.crt", "-out-key", folder / f"{end}.key"]
        _told("nebula-cert", "sign", *signing, "-name", str(end), "-ip", f"{address}/24", *made)
        other, endpoint = ends.addresses[1 - end], ends.hosts[1 - end].address
        config = folder / f"{end}.yml"
        config.write_text(
            NEBULA.format(folder=folder, end=end, other=other, endpoint=endpoint, port=PORT, device=device)
        )
        commands.append(["nebula", "-config", str(config)])
    return commands


def _tinc(ends: Ends) -> list[list[str]]:
    names, commands = ("client", "server"), []
    for end, device in enumerate(ends.devices):
        folder = ends.path(end)
        (folder / "hosts").mkdir()
        (folder / "tinc.conf").write_text(
            f"Name = {names[end]}\nConnectTo = {names[1 - end]}\nInterface = {device}\nPort = {PORT}\n"
        )
        described = f"Address = {ends.hosts[end].address}\nPort = {PORT}\nSubnet = {ends.addresses[end]}/32\n"
        (folder / "hosts" / names[end]).write_text(described)
        _told("tincd", "-c", folder, "-K2048")  # adds its public key there
        commands.append(["tincd", "-c", str(folder), "-D", f"--pidfile={folder}/pid"])
    for end, name in enumerate(names):
        shutil.copy(ends.path(end) / "hosts" / name, ends.path(1 - end) / "hosts")
    return commands


@dataclass(frozen=True, slots=True)
class Program:
    """One that can be measured, if it is here."""

    needs: tuple[str, ...]
    """What it takes, of which the first is what runs."""
    commands: Callable[[Ends], list[list[str]]]
    finish: Callable[[Ends], None] | None = None
    """What there is to do when its devices are there."""


PROGRAMS: Final = {
    "wireguard-go": Program(("wireguard-go", "wg"), _wireguard, _tell_wireguard),
    "nebula": Program(("nebula", "nebula-cert"), _nebula),
    "openvpn": Program(("openvpn",), _openvpn),
    "tinc": Program(("tincd",), _tinc, Ends.give_addresses),
}


def installed() -> list[str]:
    """Return the programs that can be measured; say which cannot."""
    found = [name for name, program in PROGRAMS.items() if all(map(shutil.which, program.needs))]
    if missing := [name for name in (*PROGRAMS, "toxvpn") if name not in found]:
        print(f"# not measured, as not installed or not known here: {', '.join(missing)}", flush=True)
    return found


@contextmanager
def joined(name: str, client: Host, server: Host, subnet: int) -> Iterator[Way]:
    """Join two hosts by another program."""
    program = PROGRAMS[name]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(dir="/tmp")))
        addresses = (f"10.201.{subnet}.1", f"10.201.{subnet}.2")
        ends = Ends((client, server), (f"bench{subnet}a", f"bench{subnet}b"), addresses, folder)
        started = []
        for host, command in zip(ends.hosts, program.commands(ends), strict=True):
            started.append(host.start(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            stack.callback(started[-1].wait)
            stack.callback(started[-1].terminate)
        for host, device in zip(ends.hosts, ends.devices, strict=True):
            _wait(partial(_succeeds, host, ["ip", "link", "show", device]))
        if program.finish is not None:
            program.finish(ends)
        _wait(partial(_succeeds, client, ["ping", "-c", "1", "-W", "1", ends.addresses[1]]))
        yield Way(name, ends.addresses[1], [one.pid for one in started], ends.devices[0])


def _succeeds(host: Host, command: Sequence[str]) -> bool:
    return host.run(command, check=False).returncode == 0


def _wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + START_TIME
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
