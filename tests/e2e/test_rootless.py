"""Two ordinary users without any privilege, each on a machine that nobody has set up for tunfwd.

Friends by a ticket, ordinary programs, UDP, a group; and what is different from a daemon with a device.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from netns.node import FRIEND_TIME, Node
from netns.topology import Topology

from .conftest import USERS, settings
from .hosts import (
    TcpService,
    UdpEcho,
    connect,
    datagram_socket,
    echo,
    eventually,
    exchange,
    read_all,
    read_exactly,
)
from .plain_peer import ToxNode

pytestmark = [pytest.mark.netns, pytest.mark.toxnet]


@pytest.fixture(scope="module")
def users(net: Topology, folder: Path, network: ToxNode) -> Iterator[tuple[Node, Node]]:
    """Alice and bob, who shares 8080/tcp and 5000/udp with her by a ticket."""
    with ExitStack() as stack:
        nodes = []
        for name, number in USERS.items():
            place = folder / f"rootless-{name}"
            place.mkdir()
            node = Node(
                net[name], place, {**settings(network), "socks": {"listen": "127.0.0.1:1080"}}, user=number
            )
            nodes.append(stack.enter_context(node))
        alice, bob = nodes
        ticket = bob.json("share", "8080/tcp", "22/tcp", "5000/udp", "--name", "things")["invite"]["ticket"]
        alice.cli(
            "join", ticket, "--name", "bob", "--timeout", str(int(FRIEND_TIME)), timeout=FRIEND_TIME + 20
        )
        yield alice, bob


def port_of(node: Node, protocol: str, number: int) -> dict[str, Any]:
    def find() -> dict[str, Any]:
        for port in node.json("ports")["ports"]:
            if (port["protocol"], port.get("virtual_port", port["port"])) == (protocol, number):
                return dict(port) if port["state"] == "running" else {}
        return {}

    return eventually(find, f"{number}/{protocol} runs", 60)


def test_nothing_of_it_has_a_privilege(users: tuple[Node, Node]) -> None:
    for node in users:
        assert node.daemon is not None
        status = Path(f"/proc/{node.daemon.pid}/status").read_text().splitlines()
        fields = dict(line.split(":\t", 1) for line in status if ":\t" in line)
        assert fields["Uid"].split() == [str(node.user)] * 4
        assert fields["CapPrm"] == fields["CapEff"] == fields["CapBnd"] == "0" * 16
        assert fields["NoNewPrivs"] == "1"


def test_tcp_there_and_back(users: tuple[Node, Node]) -> None:
    alice, bob = users
    port = port_of(alice, "tcp", 8080)
    assert port["address"].startswith("127.77.")
    with TcpService(bob.host, 8080, echo) as service:
        with connect(alice.host, port["address"], port["port"]) as client:
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"hello"
        alice_at_bob = bob.contact(next(c["name"] for c in bob.json("status")["contacts"]))["address"]
        assert service.peers == [alice_at_bob], "the service sees who connects"


def test_a_service_that_refuses_resets_the_connection(users: tuple[Node, Node]) -> None:
    alice, _ = users
    port = port_of(alice, "tcp", 8080)
    with pytest.raises(ConnectionResetError), connect(alice.host, port["address"], port["port"]) as client:
        client.recv(1)


def test_a_port_that_takes_a_privilege_is_another(users: tuple[Node, Node]) -> None:
    alice, bob = users
    port = port_of(alice, "tcp", 22)
    assert (port["port"], port["virtual_port"]) == (8022, 22)
    assert port["reason"] == "port 22 takes a privilege here"
    assert "22/tcp of bob is at port 8022 here: port 22 takes a privilege here" in alice.cli("ports").stderr
    with (
        TcpService(bob.host, 22, echo),
        connect(alice.host, port["address"], 8022) as client,
    ):
        client.sendall(b"hello")
        assert read_exactly(client, 5) == b"hello"


def test_datagrams(users: tuple[Node, Node]) -> None:
    alice, bob = users
    port = port_of(alice, "udp", 5000)
    with UdpEcho(bob.host, 5000), datagram_socket(alice.host, port["address"], port["port"]) as asking:
        exchange(asking, b"info?")


def curl(node: Node, url: str) -> subprocess.CompletedProcess[str]:
    command = ["curl", "-sS", "--max-time", "20", "--socks5-hostname", "127.0.0.1:1080", url]
    return node.host.run(node.as_user(*command), check=False, timeout=60)


def test_socks_reaches_contacts_by_name_and_at_the_ports_of_the_virtual_network(
    users: tuple[Node, Node],
) -> None:
    alice, bob = users

    def serve(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nhello")

    with TcpService(bob.host, 22, serve):
        assert curl(alice, "http://bob.tunfwd.internal:22/").stdout == "hello"
    port = port_of(alice, "tcp", 8080)
    refused = curl(alice, f"http://{port['address']}:8080/")
    assert "(5)" in refused.stderr, "connection refused"
    assert "(4)" in curl(alice, "http://nobody.tunfwd.internal/").stderr, "host unreachable"
    assert "(2)" in curl(alice, "http://example.org/").stderr, "not allowed"


ASK = """
asking.settimeout(5)
for _ in range(4):
    asking.sendto(b"info?", (sys.argv[1], 5000))
    try:
        answer, place = asking.recvfrom(100)
    except TimeoutError:
        continue
    print(answer.decode(), *place)
    break
"""
SOCKS_UDP = (
    """
import socks, sys
asking = socks.socksocket(type=socks.socket.SOCK_DGRAM)
asking.set_proxy(socks.SOCKS5, "127.0.0.1", 1080, rdns=True)
"""
    + ASK
)


@pytest.mark.parametrize("by", ["name", "address"])
def test_socks_carries_datagrams(users: tuple[Node, Node], by: str) -> None:
    alice, bob = users
    address = port_of(alice, "udp", 5000)["address"]
    to = "bob.tunfwd.internal" if by == "name" else address
    with UdpEcho(bob.host, 5000):
        command = alice.as_user(sys.executable, "-c", SOCKS_UDP, to)
        asked = alice.host.run(command, check=False, timeout=40)
    assert asked.stdout.split() == ["info?", address, "5000"], asked.stderr


# -- tunfwd run

OPEN_TUN = 'mount -t tmpfs tmpfs /dev/net && mknod -m "$0" /dev/net/tun c 10 200 && exec "$@"'


def inside(node: Node, *words: str | Path, mode: str = "0666") -> list[str | Path]:
    """Return the command that runs a program by `tunfwd run`, where the device has this mode."""
    return ["unshare", "-m", "sh", "-c", OPEN_TUN, mode, *node.command("run", "--", *map(str, words))]


def run(node: Node, *words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    options = {"env": os.environ | node.environment, "check": False, "timeout": 60, **options}
    return node.host.run(inside(node, *words), **options)


def address_inside(node: Node) -> str:
    outside = port_of(node, "tcp", 22)["address"]
    return f"10.{outside.partition('.')[2]}"


def test_a_program_that_is_run_finds_contacts_by_name(users: tuple[Node, Node]) -> None:
    alice, _ = users
    address = address_inside(alice)
    for name in ("bob.tunfwd.internal", "bob"):
        found = run(alice, "getent", "ahostsv4", name)
        assert found.stdout.split()[0] == address, found.stderr
    assert run(alice, "getent", "hosts", address).stdout.split() == [address, "bob.tunfwd.internal"]
    assert run(alice, "getent", "hosts", "example.org").returncode == 2, "there is nothing else"


CONNECTS = """
import errno, socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
except OSError as error:
    print(errno.errorcode.get(error.errno))
"""


def failure(node: Node, host: str, port: int) -> str:
    return run(node, "/usr/bin/python3", "-c", CONNECTS, host, str(port)).stdout.strip()


def test_a_program_that_is_run_reaches_what_was_accepted(users: tuple[Node, Node]) -> None:
    alice, bob = users

    def serve(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nhello")

    get = ["curl", "-sS", "--max-time", "20"]
    with TcpService(bob.host, 22, serve):
        assert run(alice, *get, "http://bob.tunfwd.internal:22/").stdout == "hello"
        assert run(alice, *get, "-6", "http://bob.tunfwd.internal:22/").stdout == "hello"
    assert failure(alice, "bob", 22) == "ECONNREFUSED", "refused is refused"
    assert failure(alice, "bob", 23) == "ECONNREFUSED"
    assert failure(alice, "198.51.100.1", 80) == "ENETUNREACH", "there is nothing else"
    ping = run(alice, "ping", "-c", "1", "-W", "20", "bob")
    assert ping.returncode == 0, ping.stdout + ping.stderr


ASK_ALL = (
    """
import socket, sys
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asking.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
"""
    + ASK
)


@pytest.mark.parametrize("to", ["bob", "255.255.255.255"])
def test_datagrams_of_a_program_that_is_run(users: tuple[Node, Node], to: str) -> None:
    alice, bob = users
    port_of(alice, "udp", 5000)
    with UdpEcho(bob.host, 5000):
        asked = run(alice, "/usr/bin/python3", "-c", ASK_ALL, to)
    assert asked.stdout.split() == ["info?", address_inside(alice), "5000"], asked.stderr


def test_a_program_that_is_run_is_the_users_own(users: tuple[Node, Node]) -> None:
    alice, _ = users
    said = run(alice, "sh", "-c", "id -u; grep -c 'Cap[PEIA].*:.0000000000000000' /proc/self/status")
    assert said.stdout.split() == [str(alice.user), "4"], said.stderr
    assert run(alice, "cat", input="through", stdin=None).stdout == "through"
    assert run(alice, "sh", "-c", "exit 7").returncode == 7
    assert run(alice, "sh", "-c", "kill -TERM $$").returncode == -signal.SIGTERM
    missing = run(alice, "no-such-program")
    assert (missing.returncode, missing.stderr) == (
        127,
        "tunfwd: the program 'no-such-program' is not found\n",
    )


def test_without_the_device_it_says_what_to_do(users: tuple[Node, Node]) -> None:
    alice, _ = users
    command = inside(alice, "true", mode="0600")
    refused = alice.host.run(command, env=os.environ | alice.environment, check=False, timeout=60)
    assert refused.returncode == 8
    assert "chmod 0666 /dev/net/tun" in refused.stderr
    assert "ALL_PROXY=socks5h://" in refused.stderr
    assert "chmod 0666 /dev/net/tun" in doctor(alice, mode="0600")
    assert doctor(alice) == "`tunfwd run` can give programs a network of their own"


def doctor(node: Node, mode: str = "0666") -> str:
    """Return what it says of `tunfwd run`."""
    shown = node.host.run(
        ["unshare", "-m", "sh", "-c", OPEN_TUN, mode, *node.command("doctor", "--json")],
        env=os.environ | node.environment,
        check=False,
        timeout=60,
    )
    [check] = [check for check in json.loads(shown.stdout)["checks"] if check["name"] == "run"]
    assert check["ok"], "a daemon needs none of it"
    return str(check["detail"])


def devices_of(node: Node) -> int:
    assert node.daemon is not None
    found = 0
    for descriptor in Path(f"/proc/{node.daemon.pid}/fd").iterdir():
        with suppress(OSError):
            found += os.readlink(descriptor) == "/dev/net/tun"
    return found


KEEPS_ASKING = """
import socket, time
while True:
    try:
        with socket.create_connection(("bob", 8080), 5) as made:
            made.sendall(b"x")
            print(made.recv(1).decode(), flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
    time.sleep(0.5)
"""


def test_what_is_run_outlives_a_restart_of_the_daemon_and_leaves_nothing(users: tuple[Node, Node]) -> None:
    alice, bob = users
    port_of(alice, "tcp", 8080)
    with TcpService(bob.host, 8080, echo):
        program = alice.host.start(
            inside(alice, "/usr/bin/python3", "-c", KEEPS_ASKING),
            env=os.environ | alice.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        with program:
            assert program.stdout is not None
            assert "x\n" in program.stdout
            assert devices_of(alice) == 1
            alice.stop()
            alice.start()
            eventually(lambda: devices_of(alice) == 1, "the device is served again", 30)
            eventually(lambda: alice.contact("bob")["link"] != "offline", "bob is online", FRIEND_TIME)
            asked = time.monotonic()
            while time.monotonic() < asked + 2:
                program.stdout.readline()  # of before
            assert "x\n" in program.stdout
            program.kill()
            assert program.stdout.read() is not None, "nobody else holds it"
    eventually(lambda: devices_of(alice) == 0, "the device is let go", 30)
    eventually(lambda: not helpers_of(alice), "nothing stays behind", 30)


def helpers_of(node: Node) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"run" in words and process.stat().st_uid == node.user:
                found.append(int(process.name))
    return found


# -- the rest


def test_doctor_and_id_know_how_it_runs(users: tuple[Node, Node]) -> None:
    alice, _ = users
    checks = {check["name"]: check for check in alice.json("doctor")["checks"]}
    assert checks["mode"]["detail"].startswith("without a device (--rootless)")
    assert checks["confinement"]["detail"].startswith(f"user {alice.user}")
    assert alice.identity()["mode"] == "rootless"


def test_what_stands_comes_back_after_a_restart(users: tuple[Node, Node]) -> None:
    alice, bob = users
    before = port_of(alice, "tcp", 8080)
    alice.stop()
    alice.start()
    eventually(lambda: alice.contact("bob")["link"] != "offline", "bob is online", FRIEND_TIME)
    after = port_of(alice, "tcp", 8080)
    assert (after["address"], after["port"]) == (before["address"], before["port"])
    with TcpService(bob.host, 8080, echo), connect(alice.host, after["address"], 8080) as client:
        client.sendall(b"again")
        assert read_exactly(client, 5) == b"again"


def test_a_group(users: tuple[Node, Node]) -> None:
    alice, bob = users
    ticket = bob.json("group", "create", "party") and bob.json("group", "share", "party")["invite"]["ticket"]
    alice.cli("join", ticket, "--timeout", "90", timeout=120)
    bob.cli("offer", "7000/udp", "--to", "group:party", "--name", "game")
    eventually(lambda: alice.offer("game"), "the offer is there", 60)
    alice.cli("accept", "game")
    port = port_of(alice, "udp", 7000)
    with UdpEcho(bob.host, 7000), datagram_socket(alice.host, port["address"], port["port"]) as asking:
        exchange(asking, b"info?")


# -- ordinary programs of theirs


HOME_OF = 'mount --bind "$0" /etc/passwd && exec "$@"'
"""These users are nobody on this machine: ssh wants to know them."""


def known(node: Node, command: list[str | Path]) -> list[str | Path]:
    """Return a command that finds both users, whose homes are their folders, in /etc/passwd."""
    passwd = node.folder / "passwd"
    if not passwd.exists():
        lines = [f"{name}:x:{number}:{number}::{node.folder}:/bin/sh\n" for name, number in USERS.items()]
        passwd.write_text(Path("/etc/passwd").read_text() + "".join(lines))
    return ["unshare", "-m", "sh", "-c", HOME_OF, passwd, *command]


@contextmanager
def ended(process: subprocess.Popen[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def ssh(users: tuple[Node, Node]) -> Iterator[list[str | Path]]:
    """Bob's own sshd, which alice has at port 2222: how she logs in there."""
    alice, bob = users
    for node, key in ((bob, "host"), (alice, "key")):
        make = node.as_user("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", node.folder / key)
        subprocess.run(known(node, make), check=True)
    (bob.folder / "authorized").write_text((alice.folder / "key.pub").read_text())
    settings = {
        "Port": "2222",
        "HostKey": f"{bob.folder}/host",
        "AuthorizedKeysFile": f"{bob.folder}/authorized",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
    }
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    log = (bob.folder / "sshd.log").open("w")
    sshd = bob.host.start(
        known(bob, bob.as_user("/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", *options)), stderr=log
    )
    with ended(sshd), log:
        contacts = bob.json("status")["contacts"]
        [alice_at_bob] = [contact["name"] for contact in contacts if contact["via"] == "friend"]
        bob.cli("offer", "2222/tcp", "--to", alice_at_bob, "--name", "shell")
        eventually(lambda: alice.offer("shell"), "the offer is there", 60)
        alice.cli("accept", "shell")
        port_of(alice, "tcp", 2222)
        host_key = (bob.folder / "host.pub").read_text()
        (alice.folder / "known").write_text(f"[bob.tunfwd.internal]:2222 {host_key}")
        yield [
            *("ssh", "-F", "none", "-i", alice.folder / "key", "-p", "2222", "-l", "bob"),
            *("-o", f"UserKnownHostsFile={alice.folder}/known", "-o", "BatchMode=yes"),
        ]


@pytest.mark.parametrize("by", ["SOCKS", "tunfwd run"])
def test_ssh_as_oneself(users: tuple[Node, Node], ssh: list[str | Path], by: str) -> None:
    alice, bob = users
    to = ["bob.tunfwd.internal", "id -u; cat; exit 7"]
    if by == "SOCKS":
        command = alice.as_user(*ssh, "-o", "ProxyCommand=nc -X 5 -x 127.0.0.1:1080 %h %p", *to)
    else:
        command = inside(alice, *ssh, *to)
    done = alice.host.run(
        known(alice, command),
        env=os.environ | alice.environment,
        input="typed",
        stdin=None,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.returncode) == (f"{bob.user}\ntyped", 7), done.stderr


QUERY = """
import socket
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asking.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
asking.settimeout(5)
for _ in range(6):
    asking.sendto(b"\\xff" * 10 + b"gie3*", ("255.255.255.255", 8303))
    try:
        print(asking.recv(2000).split(b"\\0")[2].decode())
        break
    except TimeoutError:
        pass
"""


def test_a_game_finds_the_server_of_a_group(users: tuple[Node, Node]) -> None:
    alice, bob = users
    (bob.folder / "server.cfg").write_text('sv_name "LAN party"\nsv_port 8303\nsv_register 0\n')
    server = bob.host.start(
        bob.as_user("/usr/games/DDNet-Server", "-f", "server.cfg"),
        cwd=bob.folder,
        env=os.environ | bob.environment,
        stdout=subprocess.DEVNULL,
    )
    with ended(server):
        bob.cli("offer", "8303/udp", "--to", "group:party", "--name", "ddnet")
        eventually(lambda: alice.offer("ddnet"), "the offer is there", 60)
        alice.cli("accept", "ddnet")
        port_of(alice, "udp", 8303)
        assert run(alice, "/usr/bin/python3", "-c", QUERY).stdout.startswith("LAN party")


@pytest.mark.parametrize("by", ["SOCKS", "tunfwd run"])
def test_a_browser(users: tuple[Node, Node], by: str) -> None:
    alice, bob = users

    def serve(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n<p>hello from bob</p>")

    command = [
        *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
        *(f"--user-data-dir={alice.folder}/{by.partition(' ')[0]}", "http://bob.tunfwd.internal:8080/"),
    ]
    if by == "SOCKS":
        command[1:1] = ["--proxy-server=socks5://127.0.0.1:1080"]
    with TcpService(bob.host, 8080, serve):
        shown = alice.host.run(
            alice.as_user(*command) if by == "SOCKS" else inside(alice, *command),
            env=os.environ | alice.environment | {"TMPDIR": str(alice.folder)},
            check=False,
            timeout=180,
        )
    assert "<p>hello from bob</p>" in shown.stdout, shown.stderr
