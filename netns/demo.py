"""Two people use tunfwd for real: what they type, and what comes back. Run by scripts/demo.

alice and bob have a host each and meet over Tox. bob offers a web server (TCP) and a name server (UDP);
alice takes both, and reaches them with curl and dig at the address that bob has on her machine. What stands
after a prompt has been run just so, and the demo fails unless it did what it should.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from netns.node import FRIEND_TIME, Node, NodeError, wait_online
from netns.topology import Host, Topology, TopologyError

WHOLE_TIME = 240  # s; it takes about an eighth of it
REACH_TIME = 30.0  # s until an offer or a kill has reached the other side
SERVICE_TIME = 15.0  # s for a service to listen, or to answer
PAGE = "Hello from bob's own web server.\n"
RECORD = ("printer.bob.test", "192.0.2.17")  # a name that only bob's name server knows
STEP, PROMPT, OUTPUT = "\n# ", "{}$ ", "    "


class DemoError(Exception):
    """Something ran, but not as it should have."""


def say(text: str) -> None:
    print(f"{STEP}{text}", flush=True)


def typed(host: Host, command: list[str], *, background: bool = False) -> None:
    print(f"{PROMPT.format(host.name)}{' '.join(command)}{' &' if background else ''}", flush=True)


def printed(text: str) -> str:
    for line in text.rstrip().splitlines():
        print(f"{OUTPUT}{line}", flush=True)
    return text


def tunfwd(node: Node, *arguments: str) -> str:
    """A tunfwd command that must succeed, shown."""
    typed(node.host, ["tunfwd", *arguments])
    return printed(node.cli(*arguments).stdout)


def program(host: Host, *command: str, expect: Callable[[subprocess.CompletedProcess[str]], bool]) -> None:
    """An ordinary program, shown; what came back must be as expected."""
    typed(host, list(command))
    result = host.run(command, check=False, timeout=SERVICE_TIME * 2)
    printed(result.stdout + result.stderr)
    if not expect(result):
        raise DemoError(
            f"this is not what `{shlex.join(command)}` should give (exit status {result.returncode})"
        )


def service(node: Node, *command: str, folder: Path, listening: str) -> Path:
    """Start a service in the background, and wait until it listens; the file with what it prints.

    `listening`: the sockets that `ss` must show.
    """
    typed(node.host, list(command), background=True)
    log = node.folder / f"{command[0]}.log"
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with log.open("wb") as output:
        process = node.host.start(
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    deadline = time.monotonic() + SERVICE_TIME
    while not node.host.run(["ss", "-Hln", *listening.split(maxsplit=1)]).stdout:
        if process.poll() is not None or time.monotonic() > deadline:
            raise DemoError(f"{command[0]} does not listen: {log.read_text()}")
        time.sleep(0.05)
    return log


def meet(alice: Node, bob: Node) -> None:
    """They become friends."""
    say("Each runs a daemon. bob joins the Tox network through alice's; others would through public nodes.")
    typed(alice.host, ["tunfwd", "daemon"], background=True)
    alice.start()
    bob.configure({"tox": {"bootstrap": [alice.bootstrap()]}})
    typed(bob.host, ["cat", "$TUNFWD_CONFIG"])
    printed(bob.config_file.read_text())
    typed(bob.host, ["tunfwd", "daemon"], background=True)
    bob.start()

    say("alice tells bob her address, by mail or on paper. bob adds it, and alice says yes.")
    tunfwd(alice, "id")
    tunfwd(bob, "friend", "add", alice.identity()["address"], "--name", "alice")
    key = bob.identity()["public_key"]
    alice.wait_for(lambda: alice.friend(key), FRIEND_TIME, "bob's friend request is there")
    tunfwd(alice, "friend", "list")
    tunfwd(alice, "friend", "accept", key, "--name", "bob")
    wait_online(alice, bob)
    tunfwd(alice, "status")


def serve(bob: Node) -> Path:
    """bob starts a web server and a name server; the web server's log."""
    say("bob has a web server, and a name server that knows his machines. Nothing about them is special.")
    site = bob.folder / "site"
    site.mkdir()
    (site / "index.html").write_text(PAGE)
    web_log = service(bob, "python3", "-m", "http.server", "8080", folder=site, listening="-t sport = :8080")
    dnsmasq = ["dnsmasq", "--keep-in-foreground", "--user=root", "--pid-file=", "--conf-file=/dev/null"]
    dnsmasq += ["--no-resolv", "--no-hosts", "--port=5353", f"--host-record={','.join(RECORD)}"]
    service(bob, *dnsmasq, folder=bob.folder, listening="-u sport = :5353")
    return web_log


def forward(alice: Node, bob: Node, web_log: Path) -> None:
    """bob offers, alice accepts and uses both."""
    say("bob offers both to alice, and to nobody else.")
    tunfwd(bob, "offer", "8080/tcp", "--to", "alice", "--name", "web")
    tunfwd(bob, "offer", "5353/udp", "--to", "alice", "--name", "names")

    say("alice sees the offers, and takes them.")
    for name in ("web", "names"):
        alice.wait_for(lambda name=name: alice.offer(name), REACH_TIME, f"the offer {name} is there")  # type: ignore[misc]
    tunfwd(alice, "offers")
    tunfwd(alice, "accept", "web")
    tunfwd(alice, "accept", "names")
    for name in ("web", "names"):
        alice.wait_for(lambda name=name: is_running(alice, name), REACH_TIME, f"{name} can be reached")  # type: ignore[misc]

    say("From now on bob has an address on alice's machine, for any program.")
    address = alice.contact("bob")["address"]
    page = f"http://{address}:8080/"
    program(alice.host, "curl", "--silent", "--show-error", page, expect=lambda result: result.stdout == PAGE)
    name, answer = RECORD
    query = ["dig", f"@{address}", "-p", "5353", "+short", "+tries=1", name]
    program(alice.host, *query, expect=lambda result: result.stdout.strip() == answer)
    tunfwd(alice, "ports")
    tunfwd(alice, "ping", "bob")

    say("bob's web server saw alice come from the address that she has on his machine.")
    caller = bob.contact("alice")["address"]
    printed(log := web_log.read_text())
    if caller not in log:
        raise DemoError(f"the web server saw somebody else than {caller}")

    say("bob takes the web server back. The name server stays.")
    tunfwd(bob, "kill", "web")
    alice.wait_for(lambda: not is_running(alice, "web"), REACH_TIME, "web is gone")
    refused = "--silent", "--show-error", "--max-time", "5", page
    program(alice.host, "curl", *refused, expect=lambda result: result.returncode == 7)  # failed to connect
    program(alice.host, *query, expect=lambda result: result.stdout.strip() == answer)


def is_running(node: Node, name: str) -> bool:
    port = node.port(name)
    return port is not None and port["state"] == "running"


def interrupted(number: int, _frame: FrameType | None) -> NoReturn:
    if number == signal.SIGALRM:
        raise DemoError(f"not done after {WHOLE_TIME} s")
    raise KeyboardInterrupt


def main() -> int:
    """0 only if all of it worked."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, interrupted)
    signal.alarm(WHOLE_TIME)
    start = time.monotonic()
    try:
        say("Two hosts, alice and bob: network namespaces joined by a switch, with nothing else around.")
        with Topology(["alice", "bob"]) as net:
            for host in net:
                (net.folder / host.name).mkdir()
                print(f"{OUTPUT}{host.name} {host.interface}")
            alice, bob = (Node(host, net.folder / host.name) for host in net)
            meet(alice, bob)
            forward(alice, bob, serve(bob))
            for node in (alice, bob):
                node.stop()
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # so near the end, let it tidy up
    except KeyboardInterrupt:
        print("\ndemo: interrupted", file=sys.stderr)
        return 130
    except (DemoError, NodeError, TopologyError, OSError, subprocess.SubprocessError) as error:
        print(f"\ndemo: failed: {error}", file=sys.stderr)
        return 1
    say(f"All of it worked, in {time.monotonic() - start:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
