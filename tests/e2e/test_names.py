"""One address for each host, itself included, and names for it: ordinary programs and real resolvers."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from netns.node import TUNFWD, Node, befriend
from netns.topology import Host, Topology
from tunfwd.cli.unit import UNIT

from .conftest import Forward, Forwards, settings
from .ftp import fetch_by_ftp, ftp_server
from .hosts import TcpService, echo, eventually, folder_of_daemons
from .plain_peer import ToxNode
from .resolved import Machine, machine, resolvectl
from .test_programs import asking, running, ssh_options, ssh_server

pytestmark = [pytest.mark.netns, pytest.mark.toxnet]


def test_ftp_passive_mode(forward: Forwards, tmp_path: Path) -> None:
    """The server says where its data port is: at the address that it has at the other end, too."""
    control = forward()
    data = [forward() for _ in range(2)]
    own = control.serving.identity()["virtual_address"]
    assert own == control.address
    with ftp_server(control.serving.host, control.port, [port.port for port in data], tmp_path):
        fetch_by_ftp(control.using.host, control.address, control.port, tmp_path)


def test_who_speaks_and_answers(forward: Forwards) -> None:
    """Each end sees the other by the address that the other has itself."""
    port = forward()
    with TcpService(port.serving.host, port.port, echo) as service:
        asked = f"{port.using.identity()['virtual_address']}"
        port.using.host.run(["sh", "-c", f"echo x | timeout 30 nc -N {port.address} {port.port}"], timeout=60)
        assert service.peers == [asked]
        own = port.serving.identity()["virtual_address"]  # it reaches itself there
        port.serving.host.run(["sh", "-c", f"echo x | timeout 30 nc -N {own} {port.port}"], timeout=60)
        assert service.peers[1] == own


def resolv_conf(folder: Path, resolver: str = "10.77.0.53") -> Path:
    """One that leads there."""
    file = folder / "resolv.conf"
    file.write_text(f"nameserver {resolver}\n")
    return file


def told(host: Host, file: Path, command: str) -> str:
    """What a program says that takes this file for /etc/resolv.conf."""
    return host.run(asking(file, *shlex.split(command)), timeout=60, check=False).stdout


@pytest.fixture
def web(forward: Forwards) -> Iterator[Forward]:
    def serve(connection: object) -> None:
        connection.recv(4096)  # type: ignore[attr-defined]
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nhello\n")  # type: ignore[attr-defined]

    port = forward()
    with TcpService(port.serving.host, port.port, serve):
        yield port


def test_ask_the_daemon(web: Forward, tmp_path: Path) -> None:
    host, name = web.using.host, f"{web.serving.name}.tunfwd.internal"
    identity = web.using.identity()
    assert (identity["dns"][0], identity["domain"]) == ("10.77.0.53", "tunfwd.internal")
    for server in identity["dns"]:
        for transport in ("+notcp", "+tcp"):
            found = host.run(["dig", "+short", transport, f"@{server}", name, "A"], timeout=60).stdout
            assert found.split() == [web.address]
    assert host.run(["dig", "+short", "@10.77.0.53", "-x", web.address], timeout=60).stdout == f"{name}.\n"
    file = resolv_conf(tmp_path)
    assert told(host, file, f"getent ahostsv4 {name}").split()[0] == web.address
    assert told(host, file, f"getent hosts {web.address}").split()[1] == name
    assert told(host, file, f"curl -sS --max-time 30 http://{name}:{web.port}/") == "hello\n"


def test_ssh_by_name(forward: Forwards, tmp_path: Path) -> None:
    """`ssh bob.tunfwd.internal`; and sshd knows by name who comes, forth and back."""
    port = forward()
    using, serving = port.using, port.serving
    client, server = (f"{node.name}.tunfwd.internal" for node in (using, serving))
    file = resolv_conf(tmp_path)
    with ssh_server(
        serving.host, port.port, tmp_path, settings="UseDNS yes", allow=f'from="{client}"', dns=file
    ) as log:
        options = ssh_options(server, port.port, tmp_path)
        ssh = ["ssh", *options, "-p", f"{port.port}", f"root@{server}", "echo $SSH_CONNECTION"]
        said = using.host.run(asking(file, *ssh), timeout=60, check=False)
        assert said.returncode == 0, said.stderr + log.read_text()
        assert said.stdout.split()[0] == serving.contact(using.name)["address"]
        key = (tmp_path / "user.pub").read_text()
        (tmp_path / "authorized").write_text(f'from="carol.tunfwd.internal" {key}')
        refused = using.host.run(asking(file, *ssh), timeout=60, check=False)
        assert refused.returncode == 255
        eventually(lambda: client in log.read_text(), "sshd has noted it")
    told = [event["text"] for event in serving.json("events", "--kind", "connection_opened")["events"]]
    assert sum(f"connected: {using.name} to " in text and port.name in text for text in told) == 2


@pytest.mark.parametrize("program", ["dnsmasq", "unbound"])
def test_by_the_systems_resolver(web: Forward, tmp_path: Path, program: str) -> None:
    host, name = web.using.host, f"{web.serving.name}.tunfwd.internal"
    drop_in = web.using.cli("dns", "install", "--print", "--for", program).stdout
    config = tmp_path / f"{program}.conf"
    match program:
        case "dnsmasq":
            config.write_text(f"no-resolv\nno-hosts\nlisten-address=127.0.0.1\nbind-interfaces\n{drop_in}")
            command = f"dnsmasq -k --user=root --pid-file={tmp_path}/pid -C {config}"
        case _:
            settings = f'  username: ""\n  chroot: ""\n  pidfile: "{tmp_path}/pid"\n'
            settings += "  do-daemonize: no\n  use-syslog: no\n"
            config.write_text(f"server:\n  interface: 127.0.0.1\n{settings}{drop_in}")
            command = f"unbound -d -c {config}"
    with running(host, shlex.split(command), "-u sport = :53", tmp_path):
        file = resolv_conf(tmp_path, "127.0.0.1")
        eventually(lambda: told(host, file, f"getent ahostsv4 {name}"), "the name is found")
        assert told(host, file, f"getent ahostsv4 {name}").split()[0] == web.address
        assert told(host, file, f"getent hosts {web.address}").split()[1] == name
        assert told(host, file, f"curl -sS --max-time 30 http://{name}:{web.port}/") == "hello\n"


@pytest.fixture(scope="module")
def on_machine(net: Topology, folder: Path, network: ToxNode) -> Iterator[tuple[Machine, Node, Node]]:
    """Whose resolver is systemd-resolved; a daemon there, and one elsewhere that is its friend."""
    with folder_of_daemons() as own, ExitStack() as stack:
        inside = stack.enter_context(machine(net["carol"], own))
        nodes = []
        for host in (inside, net["dave"]):
            place = own / host.name
            place.mkdir()
            nodes.append(stack.enter_context(Node(host, place, settings(network))))
        carol, dave = nodes
        befriend(dave, carol)
        yield inside, carol, dave


def resolved_knows(inside: Machine, name: str) -> bool:
    return resolvectl(inside, "query", name).returncode == 0


def test_systemd_resolved_is_told_and_forgets(on_machine: tuple[Machine, Node, Node]) -> None:
    """By the daemon as it starts; for as long as it is there, however it ends, and resolved begins anew."""
    inside, carol, _ = on_machine
    name = "dave.tunfwd.internal"
    address = carol.contact("dave")["address"]
    found = eventually(lambda: resolvectl(inside, "query", name).stdout, "resolved finds the name")
    assert {f"{name}:", address} <= set(found.split())  # either address may be the first
    interface = carol.json("id")["interface"]
    assert interface in found
    assert name in resolvectl(inside, "query", address).stdout
    assert (
        inside.run(["getent", "ahostsv4", name]).stdout.split()[0] == address
    )  # by its stub, as any program
    assert inside.run(["getent", "hosts", address]).stdout.split()[1] == name
    settled = resolvectl(inside, "status", interface).stdout
    network = address.split(".")
    assert f"DNS Domain: ~tunfwd.internal ~{network[1]}.{network[0]}.in-addr.arpa" in settled
    assert "-DefaultRoute" in settled
    assert not resolved_knows(inside, "example.com")  # it is asked for nothing else
    [told] = [one for one in carol.json("dns", "status")["resolvers"] if one["resolver"] == "resolved"]
    assert told["current"]

    first = inside.number("systemd-resolved")
    inside.run(["kill", "-9", f"{first}"])
    eventually(lambda: resolved_knows(inside, name), "resolved knows it still, after a restart")

    resolvectl(inside, "revert", interface)
    assert not resolved_knows(inside, name)
    [after] = [
        line for line in UNIT.format(program=TUNFWD).splitlines() if line.startswith("ExecStartPost=-+")
    ]
    inside.run(shlex.split(after.partition("+")[2]), env=os.environ | carol.environment)  # as systemd does
    assert resolved_knows(inside, name)

    for end in (carol.kill, carol.stop):
        end()
        assert not resolved_knows(inside, name)
        assert "tunfwd" not in resolvectl(inside, "status").stdout
        assert not inside.run(["sh", "-c", "ls /run/systemd/resolve/netif"]).stdout
        carol.start()
        eventually(lambda: resolved_knows(inside, name), "the new daemon has told it again", 100)
